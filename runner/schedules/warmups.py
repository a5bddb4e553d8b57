"""Factors that rise to 1 at the start of a run and stay there. The run's factor is warmup times body."""

from __future__ import annotations

from pydantic import validate_call

from runner.durations import StepsOrZero
from runner.schedules.shape import Schedule


def none() -> Schedule:
    """Start at the full learning rate.

    factor(t) = 1
    """
    return lambda step: 1.0


@validate_call
def linear(*, duration: StepsOrZero) -> Schedule:
    """Rise on a straight line, so that update 0 learns and the peak is at t = W - 1.

    factor(t) = min(1, (t + 1) / W)

    Args:
        duration: W, in optimizer steps; 0 is no warmup.
    Raises:
        ValueError: W < 0.
    Source: Goyal et al. 2017, arXiv:1706.02677.
    """
    return lambda step: min(1.0, (step + 1) / duration) if duration else 1.0
