"""The next command worth trying, from what a run's numbers show; no diagnosis."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from runner.curves import number
from runner.durations import parse
from runner.records import RunResult

PROGRAM = ("python", "-m", "runner")
PATIENCE_EVALS = 3
_LONG_BEFORE = 2 / 3  # of the run: an evaluation before that is long before the end
_WORSE = 0.02  # relative
_EXPLODED = 10.0  # times the first loss
_MATERIAL = 0.01  # of the whole fall


class Declared(NamedTuple):
    """What the page says about the things that advice is about.

    Attributes:
        lr: `optimizer.lr`, or what is tuned in its place.
        duration: `train.duration`, as written.
        metric: `train.early_stop.metric`.
        patience: `train.early_stop.patience`.
        lr_key: where `lr` stands; `optimizer.d_coef` of an optimizer that estimates its learning rate.
    """

    lr: float
    duration: str | int
    metric: str
    patience: int | None
    lr_key: str = "optimizer.lr"


def advise(result: RunResult, losses: Sequence[float], *, declared: Declared, directory: str) -> str:
    """Return one line: what was seen, and a command that follows from it; "" when there is nothing to say.

    Diverged: ten times less learning rate, unless that was before the first update. Interrupted or out of time: go on.
    Finished: stop early when the best
    evaluation was in the first two thirds and the last one is over 2% worse; else a longer run when the loss
    `is_still_falling`; else the learning rates around this one.

    Args:
        result: the run, ended.
        losses: training losses in order.
        declared: what the page says.
        directory: the run directory as it can be pasted.
    """
    if result.status == "diverged" and result.steps == 0:
        return "no update was made yet, so it is not the learning rate: look at the data and the initial weights"
    if result.status == "diverged":
        return f"try a learning rate ten times lower: {_ten_times_lower(result, declared)}"
    go_on = shlex.join([*PROGRAM, f"resume.from={directory}"])
    if result.status == "interrupted":
        return f"go on with: {go_on}"
    if result.is_out_of_time:
        return f"go on with: {go_on} train.max_seconds=null"
    return _after_finish(result, losses, declared) if result.status == "finished" else ""


def has_exploded(losses: Sequence[float]) -> bool:
    """Whether the last loss is more than ten times the first: too short a rise for the detectors to judge."""
    return bool(losses) and losses[-1] > _EXPLODED * abs(losses[0])


def is_still_falling(losses: Sequence[float]) -> bool:
    """Whether the loss at the end is lower than shortly before, beyond noise and by an amount that matters.

    With a the mean of the first tenth, y and z those of the last but one and the last tenth, of n losses each:
    y - z > max(2 sqrt((var_y + var_z) / n), 0.01 (a - z)). False for fewer than 30 losses or any that is not finite.
    """
    size = len(losses) // 10
    if size < 3:
        return False
    first, before, last = losses[:size], losses[-2 * size : -size], losses[-size:]
    if not all(map(math.isfinite, (*first, *before, *last))):
        return False
    (start, _), (earlier, noise_earlier), (end, noise_end) = map(_mean_and_variance, (first, before, last))
    noise = 2 * math.sqrt((noise_earlier + noise_end) / size)
    return earlier - end > max(noise, _MATERIAL * (start - end))


def _after_finish(result: RunResult, losses: Sequence[float], declared: Declared) -> str:
    if has_exploded(losses):
        lower = _ten_times_lower(result, declared)
        rise = f"the loss rose from {number(losses[0], 4)} to {number(losses[-1], 4)}"
        return f"{rise}; try a learning rate ten times lower: {lower}"
    best, last = result.best.get(declared.metric), result.final.get(f"val/{declared.metric}")
    if best is not None and last is not None and declared.patience is None:
        is_worse = not abs(last - best) <= _WORSE * abs(best)
        if is_worse and result.best["step"] < _LONG_BEFORE * result.steps:
            seen = f"val/{declared.metric} was best at step {result.best['step']:,.0f} of {result.steps:,}"
            command = _changed(result, f"train.early_stop.patience={PATIENCE_EVALS}")
            return f"{seen}; stop when it no longer gains: {command}"
    if is_still_falling(losses):
        longer = _changed(result, f"train.duration={_doubled(declared.duration)}")
        return f"the loss was still falling; try a run twice as long: {longer}"
    if any(text.startswith("resume.from=") for text in result.overrides):
        return ""  # learning rates are compared from the same start
    around = ",".join(number(lr, 2) if lr != declared.lr else f"{lr:g}" for lr in _around(declared))
    wider = _changed(result, f"{declared.lr_key}={around}", multirun=True)
    what = "learning rates" if declared.lr_key == "optimizer.lr" else "factors on the estimated learning rate"
    return f"try the {what} around this one: {wider}"


def _ten_times_lower(result: RunResult, declared: Declared) -> str:
    return _changed(result, f"{declared.lr_key}={declared.lr / 10:g}")


def _around(declared: Declared) -> tuple[float, float, float]:
    lr, factor = declared.lr, 3 if declared.lr_key == "optimizer.lr" else 2
    return lr / factor, lr, lr * factor


def _doubled(duration: str | int) -> str:
    amount, unit = parse(duration)
    twice = Fraction(2) * amount
    return f"{twice.numerator if twice.denominator == 1 else float(twice)}{unit}"


def _changed(result: RunResult, override: str, *, multirun: bool = False) -> str:
    """Return the command of a run with one override added or replaced."""
    key = override.partition("=")[0]
    words = [word for word in shlex.split(result.command) if word.lstrip("+").partition("=")[0] != key]
    if multirun:
        words.insert(len(PROGRAM), "-m")
    return shlex.join([*words, override])


def _mean_and_variance(values: Sequence[float]) -> tuple[float, float]:
    mean = math.fsum(values) / len(values)
    return mean, math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
