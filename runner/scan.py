"""Schedules asked for their values before a run, and refused where they give none that a run can use."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from runner.errors import ConfigError, Problem, with_place
from runner.schedules.shape import Schedule, Warmup

LONGEST_SCAN = 10_000  # steps of a run that are asked for their learning rate, so that a long one costs no seconds
_NEAR = 50  # of the start, the peak and the end every step is asked


def looked_at(total_steps: int, warmup_steps: int) -> list[int]:
    """Return the steps of a run that show its learning rate: all, or some of a long one and all near its joints."""
    stride = -(-total_steps // LONGEST_SCAN)
    near = {place + offset for place in (0, warmup_steps, total_steps - 1) for offset in range(-_NEAR, _NEAR + 1)}
    return sorted({*range(0, total_steps, stride), *(step for step in near if 0 <= step < total_steps)})


def furthest(total_steps: int) -> int:
    """Return the last step after a run that is asked for its learning rate, to see what cutting it there means."""
    return total_steps + min(4 * total_steps, LONGEST_SCAN)


def checked_warmup(key: str, made: Any, *, total_steps: int) -> Warmup:
    """Return what a factory has made, where it is a warmup.

    Raises:
        ConfigError: it is none, or gives no factor at a step of the run.
    """
    if not isinstance(made, Warmup):
        raise _of_wrong_kind(key, f"must make a Warmup, got {type(made).__name__}", "warmup=linear")
    return made._replace(factor=checked_schedule(key, made.factor, total_steps=total_steps, warmup_steps=made.steps))


def checked_schedule(key: str, made: Any, *, total_steps: int, warmup_steps: int) -> Schedule:
    """Return what a factory has made, where it is a schedule; held where it does not go on after the run.

    Raises:
        ConfigError: it is none, or gives no factor at a step of the run.
    """
    if not callable(made):
        raise _of_wrong_kind(key, f"must make a function of the step, got {type(made).__name__}", "schedule=cosine")
    for step in looked_at(total_steps, warmup_steps):
        try:
            value = made(step)
        except (Exception, SystemExit) as error:
            rule = f"must give a factor at every step, but raises at step {step:,}: {with_place(error)}"
            raise ConfigError([Problem(key, rule, "Mend it, or take another one")]) from error
        if not (isinstance(value, Real) and math.isfinite(value) and float(value) >= 0):
            rule = f"must give a finite number >= 0 at every step, got {value!r} at step {step:,}"
            raise ConfigError([Problem(key, rule, "Mend it, or take another one")])
    return _held(made, total_steps)


def check_learns(key: str, factor: Schedule, *, total_steps: int, warmup_steps: int) -> None:
    """Check that a factor of the learning rate is not 0 for the whole run.

    Raises:
        ConfigError: it is.
    """
    if not any(factor(step) for step in looked_at(total_steps, warmup_steps)):
        rule = f"must be > 0 at a step of the run, got 0 at all {total_steps:,}, which changes no weight"
        raise ConfigError([Problem(key, rule, "Give it a factor > 0, or take another one")])


def check_overlay(key: str, made: Any, factor: Schedule, *, total_steps: int, warmup_steps: int) -> None:
    """Check that what a factory has made can be laid over a schedule.

    Raises:
        ConfigError: it cannot, or what comes of it gives no factor at a step of the run.
    """
    if not callable(made):
        raise _of_wrong_kind(key, f"must make a function of a schedule, got {type(made).__name__}", "overlay=[noise]")
    try:
        laid = made(factor)
    except (Exception, SystemExit) as error:
        rule = f"must make a function of a schedule, but it raises {with_place(error)}"
        raise _of_wrong_kind(key, rule, "overlay=[noise]") from error
    if not callable(laid):
        rule = f"must make a function that turns a schedule into another, got one that returns {type(laid).__name__}"
        raise _of_wrong_kind(key, rule, "overlay=[noise]")
    checked_schedule(key, laid, total_steps=total_steps, warmup_steps=warmup_steps)


def _of_wrong_kind(key: str, rule: str, example: str) -> ConfigError:
    return ConfigError([Problem(key, rule, f"Leave {key}._target_ out, or give one like that of {example}")])


def _held(schedule: Schedule, total_steps: int) -> Schedule:
    """Return a schedule that keeps its last value where it fails after the run: a table of T values has no T-th."""
    if _answers(schedule, furthest(total_steps)):
        return schedule
    last = total_steps if _answers(schedule, total_steps) else total_steps - 1
    return lambda step: schedule(min(step, last))


def _answers(schedule: Schedule, step: int) -> bool:
    try:
        return math.isfinite(schedule(step))
    except (Exception, SystemExit):  # whatever a function of the user's raises where the run never asks it
        return False
