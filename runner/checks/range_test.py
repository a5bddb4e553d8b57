"""Rules for mode=range_test: a ramp that rises, has steps enough, and moves an optimizer that follows it."""

from __future__ import annotations

from collections.abc import Mapping

from runner.config import OptimizerNode, TaskNode
from runner.curves import number
from runner.finding.ramp import FEWEST_A_DECADE, Shape, fewest_steps, usual_steps
from runner.signatures import locate, parameters_of
from runner.wording import Findings

MODE = "runner.modes.range_test.run"
_ESTIMATES_ONE, _READS_ONCE = "estimates one of its own as it goes", "reads it at the first only"
_ESTIMATES = {"d0", "growth_rate"}  # arguments of an optimizer that estimates its own step size
_BELOW, _ABOVE, _ABOVE_LINEAR = 100.0, 1000.0, 3.0  # how far it reaches beyond the rates in use
_WIDEST = (1e-7, 10.0)  # of an optimizer of which none are known


def check_range_test(found: Findings) -> None:
    """Check the ramp and the optimizer, in the mode that makes one.

    Args:
        found: takes the problems; its sections are read.
    """
    mode, optimizer, task = (found.sections.get(name) for name in ("mode", "optimizer", "task"))
    if mode is None or mode.target != MODE:
        return
    wrong = {problem.key for problem in found.problems}
    if optimizer is None or task is None or "optimizer._target_" in wrong:
        return
    _check_follows(optimizer, found)
    given = {name: mode.arguments.get(name) for name in ("low", "high", "steps", "shape")}
    if any(f"mode.{name}" in wrong for name in ("low", "high", "shape")):
        return
    shape: Shape = given["shape"] or "exponential"
    usual = ramp_limits(optimizer, task, shape)
    low, high = usual[0] if given["low"] is None else given["low"], usual[1] if given["high"] is None else given["high"]
    if low >= high:
        _add_crossing(low, high, given, found)
    elif "mode.steps" not in wrong and given["steps"] is not None:
        fewest = fewest_steps(low, high, shape)
        if given["steps"] < fewest:
            what = f", {FEWEST_A_DECADE} a decade from {number(low)} to {number(high)}"
            rule = f"must be at least {fewest}{what}, got {given['steps']}"
            found.add("mode.steps", rule, f"Set mode.steps=null for {usual_steps(low, high, shape)}")


def _add_crossing(low: float, high: float, given: Mapping[str, float | None], found: Findings) -> None:
    """Say that the ramp does not rise, of the end that was given."""
    key, other, against = ("low", "high", high) if given["low"] is not None else ("high", "low", low)
    word = "less" if key == "low" else "greater"
    of_itself = "" if given[other] is not None else ", where the ramp begins" if other == "low" else ", where it ends"
    fix = f"Set mode.low={number(high / 1e4, 2)}" if key == "low" else f"Set mode.high={number(1e4 * low, 2)}"
    rule = f"must be {word} than mode.{other}={number(against)}{of_itself}, got {number(low if key == 'low' else high)}"
    found.add(f"mode.{key}", rule, fix)


def ramp_limits(optimizer: OptimizerNode, task: TaskNode, shape: Shape) -> tuple[float, float]:
    """Return where a ramp begins and ends of itself.

    Two decades below the lowest rate in use in the task's regime, so that nothing is learned at first, and three above
    the highest one in use from scratch, so that it blows up: where it is too high costs nothing, since it is stopped. A
    ramp of equal differences ends at three times that. 1e-7 to 10 where no rates in use are known.
    """
    if (typical := optimizer.typical) is None:
        return _WIDEST
    low, _ = typical.fine_tune if task.regime == "fine_tune" else typical.from_scratch
    return low / _BELOW, typical.from_scratch[1] * (_ABOVE if shape == "exponential" else _ABOVE_LINEAR)


def why_no_ramp(optimizer: OptimizerNode) -> str | None:
    """Return why the steps of an optimizer do not follow `optimizer.lr` through a run; None where they do."""
    target = locate(optimizer.target)
    if parameters_of(target).keys() >= _ESTIMATES:
        return _ESTIMATES_ONE
    if f"{target.__module__}.{target.__name__}".startswith("torch.optim") and target.__name__ == "Rprop":
        return _READS_ONCE
    return None


def _check_follows(optimizer: OptimizerNode, found: Findings) -> None:
    """Whether the steps of the optimizer follow `optimizer.lr` through a run."""
    why = why_no_ramp(optimizer)
    if why == _ESTIMATES_ONE:
        wanted, fix = (
            "whose step size is optimizer.lr",
            "Try a few values of what it does take: -m optimizer.d_coef=0.5,1,2",
        )
    elif why == _READS_ONCE:
        wanted = "that reads optimizer.lr at every update"
        fix = "Choose another, or try a few values: -m optimizer.lr=1e-3,1e-2,1e-1"
    else:
        return
    found.add("optimizer._target_", f"must be an optimizer {wanted}, got {optimizer.target!r}, which {why}", fix)
