"""Schedules that fall with a power of the step, whatever the length of the run."""

from __future__ import annotations

import math
from typing import Annotated

from annotated_types import Ge, Lt
from pydantic import validate_call

from runner.durations import Steps, StepsOrZero, TotalSteps, WarmupSteps
from runner.errors import refused
from runner.schedules.shape import Schedule, tail_start


@validate_call
def inverse_sqrt(
    *, warmup_steps: WarmupSteps = 0, timescale: Steps | None = None, floor: Annotated[float, Ge(0), Lt(1)] = 0.0
) -> Schedule:
    """Fall with the inverse square root of the step; independent of the length of the run.

    factor(t) = r + (1 - r) sqrt(S / (t - t0 + S)); with S = W after a linear warmup that is the schedule of the first
    transformer (Noam) with its peak at 1: min((t + 1) / W, sqrt(W / (t + 1))).

    Args:
        warmup_steps: W; the body starts at t0 = max(W - 1, 0).
        timescale: S, in optimizer steps; None takes W.
        floor: r, factor that it approaches and never reaches; in [0, 1).
    Raises:
        ValueError: no timescale and no warmup to take it from.
    Source: Vaswani et al. 2017, arXiv:1706.03762; Raffel et al. 2020, arXiv:1910.10683.
    """
    scale, start = _scale(timescale, warmup_steps), max(warmup_steps - 1, 0)
    return lambda step: floor + (1.0 - floor) * math.sqrt(scale / (max(step - start, 0) + scale))


@validate_call
def power(
    *,
    total_steps: TotalSteps,
    warmup_steps: WarmupSteps = 0,
    timescale: Steps | None = None,
    exponent: Annotated[float, Lt(0)] = -0.51,
    decay: StepsOrZero,
) -> Schedule:
    """Fall with a power of the step, then on a straight line to zero.

    factor(t) = ((t - t0 + S) / S)^b for t >= t0, and from t = T - D on its value there times (T - t) / D; with S = W
    that is ((t + 1) / W)^b.

    Args:
        total_steps: T, steps of the run.
        warmup_steps: W; the body starts at t0 = max(W - 1, 0).
        timescale: S, in optimizer steps; None takes W.
        exponent: b; < 0.
        decay: D, length of the straight tail.
    Raises:
        ValueError: no timescale and no warmup to take it from; a tail longer than the rest of the run.
    Source: Shen et al. 2024, arXiv:2408.13359; OLMo-core, PowerLR.
    """
    scale = _scale(timescale, warmup_steps)
    start, tail = max(warmup_steps - 1, 0), tail_start(decay, total_steps=total_steps, warmup_steps=warmup_steps)

    def falling(step: int) -> float:
        return float(((max(step - start, 0) + scale) / scale) ** exponent)

    def factor(step: int) -> float:
        return falling(step) if step < tail else falling(tail) * max(0, total_steps - step) / max(decay, 1)

    return factor


def _scale(timescale: int | None, warmup_steps: int) -> int:
    """Return the timescale of a power of the step: that of the warmup where none is given."""
    if not timescale and not warmup_steps:
        rule = "must be given where there is no warmup to take it from, got null"
        raise refused("timescale", rule, "Set .timescale=10%, or warmup=linear warmup.duration=5%")
    return timescale or warmup_steps
