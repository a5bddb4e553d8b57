"""Rules for `sweep`: whether there is a grid."""

from __future__ import annotations

from runner.errors import ConfigError
from runner.wording import Findings

_NEEDED = ("sweep", "optimizer", "task", "seed")


def check_grid(found: Findings) -> None:
    """Check what mode=sweep is to run by making the points of it.

    Args:
        found: takes the problems; its sections are read.
    """
    from runner.trials.grid import grid

    mode, wrong = found.sections.get("mode"), {problem.key for problem in found.problems}
    if mode is None or not mode.runs_grid or any(name not in found.sections for name in _NEEDED):
        return
    sweep, optimizer, task, seed = (found.sections[name] for name in _NEEDED)
    if not sweep.space and wrong & {"sweep.low", "sweep.high", "sweep.space", "optimizer.typical"}:
        return
    try:
        grid(sweep, optimizer, regime=task.regime, seed=seed)
    except ConfigError as error:
        found.problems.extend(error.problems)
