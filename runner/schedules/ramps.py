"""Schedules that only rise: a learning rate range test."""

from __future__ import annotations

from typing import Literal

from pydantic import validate_call

from runner.durations import TotalSteps
from runner.errors import refused
from runner.schedules.shape import Factor, Schedule, between


@validate_call
def range_test(
    *,
    total_steps: TotalSteps,
    low: Factor = 1e-4,
    high: Factor = 10.0,
    shape: Literal["exponential", "linear"] = "exponential",
) -> Schedule:
    """Rise from a rate that learns nothing to one that diverges.

    factor(t) = a (b/a)^x or a + (b - a) x, with x = t / (T - 1), so that the last update runs at b exactly;
    with end=inclusive, which is not needed here, it reaches b one update earlier and holds it

    Args:
        total_steps: T, steps of the run.
        low: a, factor of the first update; > 0.
        high: b, factor of the last update; > a.
        shape: whether ratios or differences of neighbours are equal.
    Raises:
        ValueError: high <= low.
    Source: Smith 2017, arXiv:1506.01186; exponential as in fastai.
    """
    if high <= low:
        raise refused("high", f"must be greater than low={low:g}, got {high:g}", f"Set .high={1e5 * low:g}")

    def factor(step: int) -> float:
        share = min(1.0, step / max(total_steps - 1, 1))
        return low * (high / low) ** share if shape == "exponential" else between(low, high, share)

    return factor
