"""What all schedules share: their type, and how far a run has come.

Convention: factor(t) is used for update t = 0 .. T-1. A warmup of W steps ends at t0 = max(W-1, 0), where the
body begins; the body's end value belongs to t = T and is held after. So every update learns, also for T = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

from annotated_types import Ge, Gt, Le

Schedule = Callable[[int], float]
"""optimizer step (0-based) -> unitless factor on the base learning rate"""

Fraction = Annotated[float, Ge(0), Le(1)]
"""A number in [0, 1]."""

Divisor = Annotated[float, Ge(1)]
"""A number >= 1 that a factor is divided by."""

Decay = Annotated[float, Gt(0), Le(1)]
"""A factor in (0, 1]."""


def progress(step: int, *, total_steps: int, warmup_steps: int) -> float:
    """Return how much of the body is done: p = (t - t0) / (T - t0), clamped to [0, 1]; t0 = max(W - 1, 0)."""
    start = max(warmup_steps - 1, 0)
    if step <= start:
        return 0.0
    return min(1.0, (step - start) / (total_steps - start))


def cosine_between(start: float, end: float, fraction: float) -> float:
    """Return the half-cosine from start to end: end + (start - end) (1 + cos(pi p)) / 2."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * fraction))


def product(*schedules: Schedule) -> Schedule:
    """Return the schedule whose factor is the product of the given ones."""

    def factor(step: int) -> float:
        return math.prod(schedule(step) for schedule in schedules)

    return factor
