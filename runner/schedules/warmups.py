"""Factors that rise to 1 at the start of a run and stay there. The run's factor is warmup times body.

With u = (t + 1) / W, update 0 learns and the peak is at t = W - 1; a duration of 0 is no warmup.
"""

from __future__ import annotations

import math
from typing import Annotated

from annotated_types import Ge, Gt, Lt
from pydantic import validate_call

from runner.durations import Steps, StepsOrZero
from runner.schedules.shape import Curve, Decay, Fraction, Warmup, between

Beta = Annotated[float, Ge(0), Lt(1)]


def none() -> Warmup:
    """Start at the full learning rate.

    factor(t) = 1
    """
    return Warmup(lambda step: 1.0, 0)


@validate_call
def linear(*, duration: StepsOrZero, start: Fraction = 0.0) -> Warmup:
    """Rise on a straight line.

    factor(t) = s + (1 - s) u,  u = min(1, (t + 1) / W)

    Args:
        duration: W, in optimizer steps; 0 is no warmup.
        start: s, factor that the line comes from; in [0, 1].
    Raises:
        ValueError: an argument out of its range.
    Source: Goyal et al. 2017, arXiv:1706.02677.
    """
    return _rise(lambda u: between(start, 1.0, u), duration)


@validate_call
def constant(*, duration: StepsOrZero, start: Decay = 0.1) -> Warmup:
    """Hold a low rate, then jump to the full one.

    factor(t) = s for t < W - 1, then 1

    Args:
        duration: W, in optimizer steps; 0 is no warmup.
        start: s, factor that is held; in (0, 1].
    Raises:
        ValueError: an argument out of its range.
    Source: He et al. 2016, arXiv:1512.03385, section 4.2 (the network of 110 layers).
    """
    return _rise(lambda u: start if u < 1.0 else 1.0, duration)


@validate_call
def cosine(*, duration: StepsOrZero, start: Fraction = 0.0) -> Warmup:
    """Rise along half a cosine.

    factor(t) = s + (1 - s) (1 - cos(pi u)) / 2

    Args:
        duration: W, in optimizer steps; 0 is no warmup.
        start: s, factor that the curve comes from; in [0, 1].
    Raises:
        ValueError: an argument out of its range.
    """
    return _rise(lambda u: between(start, 1.0, 0.5 * (1.0 - math.cos(math.pi * u))), duration)


@validate_call
def one_minus_sqrt(*, duration: StepsOrZero, start: Fraction = 0.0) -> Warmup:
    """Rise slowly at first and steeply at the end, the mirror image of the 1-sqrt cooldown.

    factor(t) = s + (1 - s) (1 - sqrt(1 - u))

    Args:
        duration: W, in optimizer steps; 0 is no warmup.
        start: s, factor that the curve comes from; in [0, 1].
    Raises:
        ValueError: an argument out of its range.
    Source: transformers, get_wsd_schedule (warmup_type "1-sqrt").
    """
    return _rise(lambda u: between(start, 1.0, 1.0 - math.sqrt(1.0 - u)), duration)


@validate_call
def exponential(*, duration: StepsOrZero, sharpness: Annotated[float, Gt(0)] = 5.0) -> Warmup:
    """Rise fast at first, and reach 1 at the end.

    factor(t) = (1 - exp(-k u)) / (1 - exp(-k))

    Args:
        duration: W, in optimizer steps; 0 is no warmup.
        sharpness: k, time constants that the warmup lasts; > 0.
    Raises:
        ValueError: an argument out of its range.
    """
    return _rise(lambda u: -math.expm1(-sharpness * u) / -math.expm1(-sharpness), duration)


@validate_call
def untuned(*, beta2: Beta, longest: Steps) -> Warmup:
    """Rise on a straight line for as long as Adam's second moment needs.

    factor(t) = min(1, (t + 1) / W),  W = min(ceil(2 / (1 - beta2)), longest)

    Args:
        beta2: decay of the second moment; in [0, 1).
        longest: most steps that it may take; 2,000 are what beta2 = 0.999 asks for.
    Raises:
        ValueError: an argument out of its range.
    Source: Ma & Yarats 2021, arXiv:1910.04209.
    """
    return linear(duration=min(math.ceil(round(2.0 / (1.0 - beta2), 6)), longest))


@validate_call
def untuned_exponential(*, beta2: Beta) -> Warmup:
    """Dampen the whole schedule less and less; it comes close to 1 and never reaches it, so the body begins at once.

    factor(t) = 1 - exp(-(1 - beta2) (t + 1))

    Args:
        beta2: decay of the second moment; in [0, 1).
    Raises:
        ValueError: an argument out of its range.
    Source: Ma & Yarats 2021, arXiv:1910.04209.
    """
    return Warmup(lambda step: -math.expm1(-(1.0 - beta2) * (step + 1)), 0)


def _rise(curve: Curve, duration: int) -> Warmup:
    def factor(step: int) -> float:
        return curve((step + 1) / duration) if step < duration - 1 else 1.0

    return Warmup(factor, duration)
