"""Schedules made of other schedules."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Annotated

from annotated_types import MinLen
from pydantic import validate_call

from runner.durations import Clock, RunClock, Steps
from runner.errors import ConfigError, FactoryError, Fault, Problem
from runner.schedules.shape import ASchedule, Schedule, in_order


@validate_call
def product(*, schedules: Annotated[Mapping[str, ASchedule], MinLen(1)]) -> Schedule:
    """Multiply schedules, each of them over the whole run.

    factor(t) = m_1(t) m_2(t) ...

    Args:
        schedules: name -> schedule.
    Source: torch.optim.lr_scheduler.ChainedScheduler.
    """
    return times(*schedules.values())


def times(*schedules: Schedule) -> Schedule:
    """Return the schedule whose factor is the product of the given ones."""
    if len(schedules) == 1:
        return schedules[0]
    if len(schedules) == 2:  # warmup and body, asked for by every group at every step
        first, second = schedules
        return lambda step: first(step) * second(step)

    def factor(step: int) -> float:
        product = 1.0
        for schedule in schedules:  # math.prod over a generator takes five times as long
            product *= schedule(step)
        return product

    return factor


@validate_call
def sequential(
    *,
    clock: RunClock,
    stages: Annotated[Mapping[str, Callable[[Clock], Schedule]], MinLen(1)],
    boundaries: Sequence[Steps],
    continuous: bool = False,
) -> Schedule:
    """Follow one schedule after the other, each as if its stage were the whole run.

    factor(t) = c_i m_i(t - b_i) for b_i <= t < b_(i+1), with b_0 = 0; c_i = 1, or what makes it continuous

    Args:
        clock: of the run.
        stages: name -> schedule, in order; each is made for the length of its stage, the first with the run's warmup.
        boundaries: steps at which the second, third ... stage begins; in order, inside the run.
        continuous: whether a stage begins at the factor at which the one before has ended.
    Raises:
        ValueError: not one boundary fewer than stages; out of order or beyond the run.
    Source: torch.optim.lr_scheduler.SequentialLR; continuous as in OLMo-core.
    """
    bounds, faults = _bounds(boundaries, len(stages), clock.total_steps or 0)
    if not faults and bounds[1] < clock.warmup_steps:
        rule = f"must not begin the second stage within the warmup of {clock.warmup_steps} steps, got step {bounds[1]}"
        faults = (Fault("boundaries", rule, f"Set warmup.duration={bounds[1]} or less, or a later boundary"),)
    parts: list[Schedule] = []
    problems: list[Problem] = []
    for stage, (begin, end) in zip(stages.values(), pairwise(bounds), strict=True):
        time = clock._replace(total_steps=end - begin, warmup_steps=0 if begin else clock.warmup_steps)
        try:
            parts.append(stage(time) if end > begin else _nothing)
        except ConfigError as error:
            problems += error.problems
    if faults or problems:
        raise FactoryError(*faults, parts=problems)
    scales = [1.0] if continuous else [1.0] * len(parts)
    for index in range(1, len(parts) if continuous else 1):
        begin, end = bounds[index - 1], bounds[index]
        reached, next_start = scales[-1] * parts[index - 1](end - begin), parts[index](0)
        scales.append(reached / next_start if next_start else 1.0)

    def factor(step: int) -> float:
        index = bisect_right(bounds, step, hi=len(parts)) - 1
        return scales[index] * parts[index](step - bounds[index])

    return factor


def _bounds(boundaries: Sequence[int], stages: int, total_steps: int) -> tuple[list[int], tuple[Fault, ...]]:
    """Return where stages begin and the last one ends, and what is wrong with it.

    Where something is, it returns bounds that are right, so that what is wrong with the stages is found as well.
    """
    if len(boundaries) != stages - 1:
        rule = f"must be one fewer than the {stages} stages, got {len(boundaries)}"
        shares = ",".join(f"{100 * i // stages}%" for i in range(1, stages))
        even = [total_steps * i // stages for i in range(stages + 1)]
        return even, (Fault("boundaries", rule, f"Set .boundaries=[{shares}]"),)
    try:
        return [0, *in_order("boundaries", boundaries, total_steps=total_steps), total_steps], ()
    except FactoryError as error:
        return [0, *(min(step, total_steps) for step in sorted(boundaries)), total_steps], error.faults


def _nothing(step: int) -> float:
    """Stand in for a stage without a step."""
    return 1.0
