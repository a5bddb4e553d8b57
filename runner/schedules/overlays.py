"""What is laid over a whole schedule, its warmup included: factor of the step -> factor of the step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist
from typing import Annotated

from annotated_types import Gt, Le, Lt
from pydantic import validate_call

from runner.durations import RunSeed, Steps, StepsOrZero, TotalSteps
from runner.errors import refused
from runner.schedules.shape import Fraction, Schedule, Shape, curve

Overlay = Callable[[Schedule], Schedule]


@validate_call
def noise(
    *,
    seed: RunSeed,
    total_steps: TotalSteps,
    sd: Annotated[float, Gt(0), Le(1)] = 0.1,
    limit: Annotated[float, Gt(0), Lt(1)] = 0.3,
    begin: StepsOrZero = 0,
    end: StepsOrZero | None = None,
) -> Overlay:
    """Multiply by random numbers around 1, the same for a step in every run with this seed.

    factor(t) = m(t) (1 + e_t), e_t normal with the sd and cut off at the limit; for begin <= t < end

    e_t comes from a hash of seed and step, by the inverse of the distribution function: no state, and no draw is
    repeated until it lies inside the limit.

    Args:
        seed: of the run.
        total_steps: T, steps of the run.
        sd: standard deviation; in (0, 1].
        limit: largest deviation; in (0, 1).
        begin: first step with noise.
        end: first step without it again; None is the end of the run.
    Raises:
        ValueError: an argument out of its range; end before begin.
    Source: timm, scheduler/scheduler.py (noise_type normal).
    """
    stop = total_steps if end is None else end
    if stop < begin:
        rule = f"must not come before begin, which is step {begin}, got step {stop}"
        raise refused("end", rule, "Set .end=null .begin=0")

    normal = NormalDist(0.0, sd)
    below = normal.cdf(-limit)

    @lru_cache(maxsize=1)  # groups with schedules of their own ask for the same step
    def deviation(step: int) -> float:
        drawn = int.from_bytes(hashlib.blake2b(f"{seed} {step}".encode(), digest_size=8).digest(), "little")
        uniform = ((drawn >> 12) + 0.5) / 2**52  # 52 bits, so that it is never rounded to 1
        return normal.inv_cdf(below + (1.0 - 2.0 * below) * uniform)

    def overlay(schedule: Schedule) -> Schedule:
        return lambda step: schedule(step) * (1.0 + deviation(step) if begin <= step < stop else 1.0)

    return overlay


@validate_call
def cooldown(*, begin: StepsOrZero, duration: Steps, shape: Shape = "linear", floor: Fraction = 0.0) -> Overlay:
    """Leave any schedule at a step and cool down from where it is.

    factor(t) = m(t) for t < b, then m(b) g((t - b) / N), where g is the curve of the shape; m(b) r after

    Args:
        begin: b, step at which it is left.
        duration: N, length of the cooldown.
        shape: how it falls, see `runner.schedules.shape.curve`.
        floor: r, share of m(b) that is left at the end; in [0, 1].
    Raises:
        ValueError: an exponential one to 0.
    Source: OLMo-core, override_decay.
    """
    fall = curve(shape, floor=floor)

    def overlay(schedule: Schedule) -> Schedule:
        height = schedule(begin)
        return lambda step: schedule(step) if step < begin else height * fall(min(1.0, (step - begin) / duration))

    return overlay
