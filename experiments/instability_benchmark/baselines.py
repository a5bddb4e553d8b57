"""Rules that others use, each as it is published, on the same curves: when would it have rung first?

Every one of them also rings at a number that is not finite, as whoever uses it would see that anyway.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

from making import Curve

Rule = Callable[[Curve], int | None]
"""curve -> first step at which it rings"""


def nan_check(curve: Curve) -> int | None:
    """Ring where loss or gradient norm is not finite, and its update was not dropped by the fp16 scaler."""
    return curve.first_non_finite


def four_times_best(curve: Curve, *, factor: float = 4.0, smoothing: float = 0.98) -> int | None:
    """Ring where the smoothed loss is above four times its lowest value: fastai's and Lightning's range test.

    Smoothed: exponential average with bias correction, as in both.
    """
    average, best = 0.0, math.inf
    for step, loss in enumerate(curve.loss):
        if not math.isfinite(loss):
            return step
        average = smoothing * average + (1 - smoothing) * loss
        smooth = average / (1 - smoothing ** (step + 1))
        if step > 0 and smooth > factor * best:
            return step
        best = min(best, smooth)
    return None


def skip_step(curve: Curve, *, window: int = 128, sigma: float = 6.0) -> int | None:
    """Ring where OLMo-core's SkipStepOptimizer would skip: loss or gradient norm 6 sd above the mean of 128 before."""
    return _first(
        _above_window(curve.loss, window=window, sigma=sigma, least=max(2, window // 2)),
        _above_window(curve.grad_norm, window=window, sigma=sigma, least=max(2, window // 2)),
    )


def olmo_2_spike(curve: Curve, *, window: int = 1000, sigma: float = 7.0) -> int | None:
    """Ring where loss or gradient norm is at least 7 sd away from the rolling average of 1,000 values (OLMo 2).

    A run is shorter than that: from 100 values on, those that there are.
    """
    return _first(
        _above_window(curve.loss, window=window, sigma=sigma, least=100, both_sides=True),
        _above_window(curve.grad_norm, window=window, sigma=sigma, least=100, both_sides=True),
    )


def zclip(curve: Curve, *, z: float = 2.5, alpha: float = 0.97, warmup: int = 25) -> int | None:
    """Ring where ZClip would clip: a gradient norm more than 2.5 sd above its running mean, after 25 steps."""
    early: list[float] = []
    mean = variance = 0.0
    for step, norm in enumerate(curve.grad_norm):
        if not (math.isfinite(norm) and math.isfinite(curve.loss[step])):
            return step
        if len(early) < warmup:
            early.append(norm)
            mean = sum(early) / len(early)
            variance = sum((value - mean) ** 2 for value in early) / len(early)
            continue
        if (norm - mean) / (math.sqrt(variance) + 1e-6) > z:
            return step
        mean = alpha * mean + (1 - alpha) * norm
        variance = alpha * variance + (1 - alpha) * (norm - mean) ** 2
    return None


BASELINES: dict[str, Rule] = {
    "NaN check": nan_check,
    "4 x best (fastai, Lightning)": four_times_best,
    "6 sd, window 128 (OLMo-core)": skip_step,
    "7 sd, window 1000 (OLMo 2)": olmo_2_spike,
    "z > 2.5 (ZClip)": zclip,
}


def _above_window(
    values: Sequence[float], *, window: int, sigma: float, least: int, both_sides: bool = False
) -> int | None:
    """Return the first value so many sd (unbiased) above the mean of those before it, or that is no number."""
    kept: deque[float] = deque(maxlen=window)
    total = squares = 0.0
    for step, value in enumerate(values):
        if not math.isfinite(value):
            return step
        if len(kept) >= least:
            mean = total / len(kept)
            spread = math.sqrt(max(0.0, squares - len(kept) * mean * mean) / (len(kept) - 1))
            away = abs(value - mean) if both_sides else value - mean
            if away > sigma * spread and spread > 0:
                return step
        if len(kept) == window:
            total, squares = total - kept[0], squares - kept[0] ** 2
        kept.append(value)
        total, squares = total + value, squares + value * value
    return None


def _first(*steps: int | None) -> int | None:
    return min((step for step in steps if step is not None), default=None)
