"""Schedules that hold or lower the learning rate after the warmup.

`total_steps` and `warmup_steps` are filled in from the run; the other arguments are keys of the YAML.
"""

from __future__ import annotations

from pydantic import validate_call

from runner.durations import Steps, TotalSteps, WarmupSteps
from runner.schedules.shape import Decay, Fraction, Schedule, cosine_between, progress


def constant() -> Schedule:
    """Hold the base learning rate.

    factor(t) = 1
    """
    return lambda step: 1.0


@validate_call
def linear(*, total_steps: TotalSteps, warmup_steps: WarmupSteps = 0, floor: Fraction = 0.0) -> Schedule:
    """Fall on a straight line.

    factor(t) = 1 - (1 - r) p,  p = (t - t0) / (T - t0)

    Args:
        total_steps: T, steps of the run.
        warmup_steps: W; the body starts at t0 = max(W - 1, 0).
        floor: r, factor reached at t = T; in [0, 1]. 0 is "linear to zero" (arXiv:2502.15938).
    Raises:
        ValueError: floor outside [0, 1].
    """

    def factor(step: int) -> float:
        return 1.0 - (1.0 - floor) * progress(step, total_steps=total_steps, warmup_steps=warmup_steps)

    return factor


@validate_call
def cosine(*, total_steps: TotalSteps, warmup_steps: WarmupSteps = 0, floor: Fraction = 0.0) -> Schedule:
    """Fall along half a cosine.

    factor(t) = r + (1 - r) (1 + cos(pi p)) / 2,  p = (t - t0) / (T - t0)

    Args:
        total_steps: T, steps of the run.
        warmup_steps: W; the body starts at t0 = max(W - 1, 0).
        floor: r, factor reached at t = T; in [0, 1].
    Raises:
        ValueError: floor outside [0, 1].
    Source: Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5 with one cycle.
    """

    def factor(step: int) -> float:
        return cosine_between(1.0, floor, progress(step, total_steps=total_steps, warmup_steps=warmup_steps))

    return factor


@validate_call
def step(*, every: Steps, gamma: Decay = 0.1) -> Schedule:
    """Multiply by gamma every `every` steps, counted from the start of the run.

    factor(t) = gamma ** floor(t / s)

    Args:
        every: s, in optimizer steps; s >= 1.
        gamma: in (0, 1].
    Raises:
        ValueError: s < 1, gamma outside (0, 1].
    Source: torch.optim.lr_scheduler.StepLR.
    """
    return lambda step: gamma ** (step // every)
