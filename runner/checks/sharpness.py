"""Rules for `monitor.sharpness`: the optimizer has a known bound, and who reads it is given it."""

from __future__ import annotations

import inspect

from runner.config import OptimizerNode
from runner.durations import Clock, to_steps
from runner.signatures import locate
from runner.stability import EDGE, UPDATES, bound_of
from runner.wording import Findings, shown

_KEY = "monitor.sharpness.every"


def check_sharpness(found: Findings, clock: Clock | None) -> None:
    """Check how often the sharpness is measured, of which optimizer, and whether a detector waits for it in vain.

    Args:
        found: takes the problems; its sections are read.
        clock: of the run; None where its length is wrong.
    """
    monitor, optimizer = found.sections.get("monitor"), found.sections.get("optimizer")
    wrong = {problem.key for problem in found.problems}
    if monitor is None or _KEY in wrong:
        return
    every = monitor.sharpness.every
    if every is None:
        _check_readers(found)
        return
    if clock is not None:
        try:
            to_steps(every, clock)
        except ValueError as error:
            found.add(_KEY, f"{error}, got {shown(every)}", f"Set {_KEY}=100, in steps")
    if optimizer is None or "optimizer._target_" in wrong:
        return
    if not has_bound(optimizer):
        name = f"{optimizer.name} that maximizes" if optimizer.arguments.get("maximize") else optimizer.target
        rule = (
            f"must be null with an optimizer whose stable learning rates are not known, got {shown(every)} with {name}"
        )
        found.add(_KEY, rule, f"Set {_KEY}=null, or one of torch.optim: {', '.join(UPDATES)}")


def has_bound(optimizer: OptimizerNode) -> bool:
    """Whether it is known up to which learning rate an optimizer is stable."""
    target = locate(optimizer.target)
    known = inspect.isclass(target) and bound_of(f"{target.__module__}.{target.__name__}") is not None
    return known and not optimizer.arguments.get("maximize")


def _check_readers(found: Findings) -> None:
    wrong = {problem.key for problem in found.problems}
    for name, node in found.sections.get("detectors", {}).items():
        if f"detectors.{name}._target_" not in wrong and EDGE in getattr(locate(node.target), "needs", ()):
            rule = f"must be a duration for detector {name}, which reads {EDGE}, got null"
            found.add(_KEY, rule, f"Set {_KEY}=100, in steps, or leave {name} out of detector=[...]")
