"""Schedules that hold or lower the learning rate after the warmup."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Annotated

from annotated_types import Gt, MinLen
from pydantic import validate_call

from runner.durations import Steps, TotalSteps, WarmupSteps
from runner.errors import refused
from runner.schedules.shape import Curve, Decay, Fraction, Schedule, in_order, progress


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
    return _fall(lambda p: 1.0 - p, total_steps, warmup_steps, floor=floor)


@validate_call
def polynomial(
    *,
    total_steps: TotalSteps,
    warmup_steps: WarmupSteps = 0,
    power: Annotated[float, Gt(0)] = 1.0,
    floor: Fraction = 0.0,
    k: Annotated[float, Gt(0)] = 1.0,
) -> Schedule:
    """Fall along a power of what is left of the run.

    factor(t) = r + (1 - r) (1 - p^k)^a

    Args:
        total_steps: T, steps of the run.
        warmup_steps: W; the body starts at t0 = max(W - 1, 0).
        power: a; > 0. 1 is a straight line, 2 slows down at the end.
        floor: r, factor reached at t = T; in [0, 1].
        k: k-decay; > 0, 1 is without it, more holds the rate for longer (arXiv:2004.05909).
    Raises:
        ValueError: an argument out of its range.
    Source: torch.optim.lr_scheduler.PolynomialLR; k as in timm.
    """
    return _fall(lambda p: (1.0 - p**k) ** power, total_steps, warmup_steps, floor=floor)


@validate_call
def cosine(
    *,
    total_steps: TotalSteps,
    warmup_steps: WarmupSteps = 0,
    floor: Fraction = 0.0,
    exponent: Annotated[float, Gt(0)] = 1.0,
    k: Annotated[float, Gt(0)] = 1.0,
    cycles: Annotated[float, Gt(0)] = 0.5,
) -> Schedule:
    """Fall along half a cosine.

    factor(t) = r + (1 - r) [(1 + cos(2 pi c p^k)) / 2]^e,  p = (t - t0) / (T - t0)

    Args:
        total_steps: T, steps of the run.
        warmup_steps: W; the body starts at t0 = max(W - 1, 0).
        floor: r, factor reached at t = T; in [0, 1].
        exponent: e; > 0, 1 is the plain cosine (optax).
        k: k-decay; > 0, 1 is without it (arXiv:2004.05909, timm).
        cycles: c, waves of the cosine; > 0. 0.5 falls once; a whole number ends at the top (transformers).
    Raises:
        ValueError: an argument out of its range.
    Source: Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5 with one cycle.
    """

    def fall(p: float) -> float:
        return float(max(0.0, 0.5 * (1.0 + math.cos(2.0 * math.pi * cycles * p**k))) ** exponent)

    return _fall(fall, total_steps, warmup_steps, floor=floor)


@validate_call
def half_cosine(*, total_steps: TotalSteps, warmup_steps: WarmupSteps = 0, floor: Fraction = 0.0) -> Schedule:
    """Fall along the second half of half a cosine, steeply from the start; the peak is (1 + r) / 2, not 1.

    factor(t) = r + (1 - r) (1 + cos(pi (1 + p) / 2)) / 2

    Args:
        total_steps: T, steps of the run.
        warmup_steps: W; the body starts at t0 = max(W - 1, 0).
        floor: r, factor reached at t = T; in [0, 1].
    Raises:
        ValueError: floor outside [0, 1].
    Source: OLMo-core, HalfCosWithWarmup.
    """
    return _fall(lambda p: 0.5 * (1.0 + math.cos(0.5 * math.pi * (1.0 + p))), total_steps, warmup_steps, floor=floor)


@validate_call
def rex(*, total_steps: TotalSteps, warmup_steps: WarmupSteps = 0, floor: Fraction = 0.0) -> Schedule:
    """Fall slowly at first and fast at the end.

    factor(t) = r + (1 - r) (1 - p) / (1 - p / 2)

    Args:
        total_steps: T, steps of the run.
        warmup_steps: W; the body starts at t0 = max(W - 1, 0).
        floor: r, factor reached at t = T; in [0, 1].
    Raises:
        ValueError: floor outside [0, 1].
    Source: Chen et al. 2021, arXiv:2107.04197 (reflected exponential).
    """
    return _fall(lambda p: (1.0 - p) / (1.0 - 0.5 * p), total_steps, warmup_steps, floor=floor)


@validate_call
def tanh(
    *,
    total_steps: TotalSteps,
    warmup_steps: WarmupSteps = 0,
    lower: float = -7.0,
    upper: float = 3.0,
    floor: Fraction = 0.0,
) -> Schedule:
    """Hold, then fall along a hyperbolic tangent.

    factor(t) = r + (1 - r) (1 - tanh(L (1 - p) + U p)) / 2 for t < T, r after

    Args:
        total_steps: T, steps of the run.
        warmup_steps: W; the body starts at t0 = max(W - 1, 0).
        lower: L, where on the tangent the body begins.
        upper: U, where it ends; > L.
        floor: r, factor held from t = T on; in [0, 1].
    Raises:
        ValueError: upper <= lower, floor outside [0, 1].
    Source: Hsueh et al. 2019, arXiv:1806.01593; timm.
    """
    if upper <= lower:
        raise refused("upper", f"must be greater than lower={lower:g}, got {upper:g}", f"Set .upper={lower + 10:g}")

    def fall(p: float) -> float:
        return 0.5 * (1.0 - math.tanh(lower * (1.0 - p) + upper * p)) if p < 1.0 else 0.0

    return _fall(fall, total_steps, warmup_steps, floor=floor)


@validate_call
def exponential(
    *,
    warmup_steps: WarmupSteps = 0,
    gamma: Decay = 0.5,
    every: Steps,
    staircase: bool = False,
    floor: Fraction = 0.0,
) -> Schedule:
    """Multiply by gamma over every `every` steps, smoothly or in stairs; counted from the peak.

    factor(t) = max(r, gamma^((t - t0) / s)); in stairs with the floor of (t - t0) / s

    Args:
        warmup_steps: W; the body starts at t0 = max(W - 1, 0).
        gamma: in (0, 1].
        every: s, in optimizer steps; >= 1. 1 is torch's ExponentialLR.
        staircase: whether it falls at whole multiples of s only.
        floor: r, lowest factor; in [0, 1].
    Raises:
        ValueError: an argument out of its range.
    Source: torch.optim.lr_scheduler.ExponentialLR; optax.exponential_decay.
    """
    start = max(warmup_steps - 1, 0)

    def factor(step: int) -> float:
        passed = max(step - start, 0)
        return max(floor, float(gamma ** (passed // every if staircase else passed / every)))

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


@validate_call
def multistep(
    *, total_steps: TotalSteps, milestones: Annotated[Sequence[Steps], MinLen(1)], gamma: Decay = 0.1
) -> Schedule:
    """Multiply by gamma at every milestone, counted from the start of the run.

    factor(t) = gamma ** (number of milestones <= t)

    Args:
        total_steps: T, steps of the run.
        milestones: in optimizer steps, in order, inside the run; one that is repeated counts twice.
        gamma: in (0, 1].
    Raises:
        ValueError: milestones out of order or beyond the run.
    Source: torch.optim.lr_scheduler.MultiStepLR.
    """
    places = in_order("milestones", milestones, total_steps=total_steps)
    return lambda step: gamma ** bisect_right(places, step)


def _fall(fall: Curve, total_steps: int, warmup_steps: int, *, floor: float) -> Schedule:
    """Return the body that falls along a curve over its whole length: r + (1 - r) g(p)."""

    def factor(step: int) -> float:
        return floor + (1.0 - floor) * fall(progress(step, total_steps=total_steps, warmup_steps=warmup_steps))

    return factor
