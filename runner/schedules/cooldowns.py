"""Schedules that hold the learning rate and lower it over a declared last stretch."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Annotated

from annotated_types import MinLen
from pydantic import validate_call

from runner.durations import Steps, StepsOrZero, TotalSteps, WarmupSteps
from runner.errors import FactoryError, Fault
from runner.schedules.decays import cosine
from runner.schedules.shape import Factor, Fraction, Schedule, Shape, between, curve, tail_start


@validate_call
def wsd(
    *,
    total_steps: TotalSteps,
    warmup_steps: WarmupSteps = 0,
    decay: StepsOrZero,
    shape: Shape = "1-sqrt",
    floor: Fraction = 0.0,
) -> Schedule:
    """Warm up, hold, cool down (WSD, trapezoid).

    factor(t) = 1 for t <= T - D, then g((t - (T - D)) / D), where g is the curve of the shape; r from t = T on

    Args:
        total_steps: T, steps of the run.
        warmup_steps: W.
        decay: D, length of the cooldown.
        shape: how it falls, see `runner.schedules.shape.curve`.
        floor: r, factor reached at t = T; in [0, 1], and > 0 for an exponential shape.
    Raises:
        ValueError: a cooldown longer than the rest of the run; an exponential one to 0.
    Source: Hu et al. 2024, arXiv:2404.06395; shapes: Hagele et al. 2024, arXiv:2405.18392.
    """
    start = tail_start(decay, total_steps=total_steps, warmup_steps=warmup_steps)
    fall = curve(shape, floor=floor)

    def factor(step: int) -> float:
        return 1.0 if step < start else fall(min(1.0, (step - start) / decay) if decay else 1.0)

    return factor


@validate_call
def wsd_s(
    *,
    total_steps: TotalSteps,
    warmup_steps: WarmupSteps = 0,
    periods: Annotated[Sequence[Steps], MinLen(1)],
    decay: Steps,
    shape: Shape = "linear",
    floor: Fraction = 0.0,
    peaks: Sequence[Factor] | None = None,
) -> Schedule:
    """Hold and cool down several times, each from the peak again, so that each period leaves a finished model.

    factor(t) = h_i wsd(u), u = step of period i; h r from the end of the last period on, with its h

    Args:
        total_steps: T, steps of the run.
        warmup_steps: W, inside the first period.
        periods: their lengths; together at most the run. Percentages are rounded up; where that takes them beyond the
            run, their ends are moved back in proportion.
        decay: length of the cooldown that ends each.
        shape: how it falls, see `runner.schedules.shape.curve`.
        floor: r, share of h that is left at the end of each period; in [0, 1].
        peaks: h, factor held in each period; None is 1 in all.
    Raises:
        ValueError: periods longer than the run; a cooldown longer than a period; not one peak a period.
    Source: Wen et al. 2024, arXiv:2410.05192; OLMo-core, WSDS.
    """
    heights = list(peaks) if peaks is not None else [1.0] * len(periods)
    periods = _fitted(periods, total_steps)
    ends = list(accumulate(periods))
    first = [warmup_steps, *(0 for _ in periods[1:])]
    faults = list(_faults(periods, heights, decay, first, total_steps))
    if faults:
        raise FactoryError(*faults)
    bodies = [
        wsd(total_steps=length, warmup_steps=warmup, decay=decay, shape=shape, floor=floor)
        for length, warmup in zip(periods, first, strict=True)
    ]

    def factor(step: int) -> float:
        index = bisect_right(ends, step)
        if index == len(bodies):
            return heights[-1] * floor
        return heights[index] * bodies[index](step - (ends[index] - periods[index]))

    return factor


def _fitted(periods: Sequence[int], total_steps: int) -> list[int]:
    """Return periods that end with the run, where rounding has made them a step longer each at the most."""
    whole = sum(periods)
    if not total_steps < whole < total_steps + len(periods):
        return list(periods)
    ends = [0, *(round(end * total_steps / whole) for end in accumulate(periods))]
    fitted = [end - begin for begin, end in pairwise(ends)]
    return fitted if min(fitted) else list(periods)  # of a run with hardly a step for each, some are never reached


def _faults(
    periods: Sequence[int], heights: Sequence[float], decay: int, warmups: Sequence[int], total_steps: int
) -> Iterator[Fault]:
    """Yield what is wrong with the periods of `wsd_s`."""
    if len(heights) != len(periods):
        rule = f"must be one for each of the {len(periods)} periods, got {len(heights)}"
        yield Fault("peaks", rule, "Set .peaks=null")
    if sum(periods) > total_steps + len(periods) - 1:
        equal = ",".join([f"{100 // len(periods)}%"] * len(periods))
        rule = f"must fit into the run of {total_steps} steps, got {sum(periods)} together"
        yield Fault("periods", rule, f"Set .periods=[{equal}]")
        return
    shortest = min(period - max(warmup - 1, 0) for period, warmup in zip(periods, warmups, strict=True))
    if shortest < 1:
        rule = f"must leave a step after the warmup of {warmups[0]}, got a first of {periods[0]}"
        yield Fault("periods", rule, f"Set warmup=none, or a first period longer than {warmups[0]} steps")
        if decay > min(periods):
            rule = f"must not be longer than the shortest period of {min(periods)} steps, got {decay}"
            yield Fault("decay", rule, f"Set .decay={min(periods)} or less")
    elif decay > shortest:
        rule = f"must not be longer than the {shortest} steps of the shortest period after the warmup, got {decay}"
        yield Fault("decay", rule, f"Set .decay={shortest} or less")


@validate_call
def cosine_then_linear(
    *,
    total_steps: TotalSteps,
    warmup_steps: WarmupSteps = 0,
    decay: StepsOrZero,
    floor: Fraction = 0.1,
    final: Fraction = 0.0,
) -> Schedule:
    """Follow the cosine of the whole run, and leave it for a straight line to a lower end.

    factor(t) = cosine(t) for t < T - D, then the line from cosine(T - D) to e at t = T, held after

    Args:
        total_steps: T, steps of the run.
        warmup_steps: W.
        decay: D, length of the line.
        floor: r, factor that the cosine would reach at t = T; in [0, 1].
        final: e, factor reached at t = T; in [0, 1].
    Raises:
        ValueError: a line longer than the rest of the run.
    Source: OLMo-core, CosWithWarmupAndLinearDecay.
    """
    start = tail_start(decay, total_steps=total_steps, warmup_steps=warmup_steps)
    body = cosine(total_steps=total_steps, warmup_steps=warmup_steps, floor=floor)

    def factor(step: int) -> float:
        if step < start:
            return body(step)
        return between(body(start), final, min(1.0, (step - start) / decay) if decay else 1.0)

    return factor
