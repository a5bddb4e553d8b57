"""A schedule from the gradient norms that an earlier run has recorded."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, insort
from collections.abc import Sequence

from runner.errors import refused
from runner.schedules.shape import Schedule, between, refuse_table


def refined(smooth: Sequence[float], *, total_steps: int, warmup_steps: int, power: float) -> Schedule:
    """Spend most of the learning rate where gradients are small, and anneal because little is left to come.

    w_t = G_t^-a, factor(t) = w_t (w_(t+1) + ... + w_T) divided by its largest value, with G the norms, smoothed by a
    running median and stretched over the body of the run; 0 from t = T on. Constant norms give 1 - t / T exactly, the
    straight line that is best in the worst case.

    As published: the product of a weight and the sum of the later ones, a = 2, the median over a tenth of the run.
    Ours: the norms of a run of another length are stretched by straight lines between them; the 0 belongs to t = T,
    one step after the last update, so that every update learns; the peak is 1, as the base rate is set elsewhere; at
    the ends the median has fewer values, where the published code mirrors them. For Adam the paper takes a = 1 and the
    L1 norm, our records hold the L2 norm.

    Args:
        smooth: norms of the gradient, at least two, as `smoothed` returns them.
        total_steps: T, steps of the run.
        warmup_steps: W; the body begins at t0 = max(W - 1, 0).
        power: a; 2 for SGD, 1 for Adam.
    Raises:
        ValueError: a run of more than 20,000,000 steps.
    Source: Defazio et al. 2023, arXiv:2310.07831, algorithm 1, and the code published with it.
    """
    refuse_table(total_steps)
    start = max(warmup_steps - 1, 0)
    body = max(total_steps - start, 1)
    least = min(smooth)  # weights relative to the largest: none overflows
    weights = array("d", ((_at(smooth, (len(smooth) - 1) * s / body) / least) ** -power for s in range(body + 1)))
    left, factors = 0.0, array("d", bytes(8 * (body + 1)))
    for step in reversed(range(body + 1)):
        factors[step] = weights[step] * left
        left += weights[step]
    highest = max(factors) or 1.0
    return lambda step: factors[min(max(step - start, 0), body)] / highest


def smoothed(norms: Sequence[float], *, smoothing: float) -> list[float]:
    """Return the running median of the norms that can be used.

    Args:
        norms: global L2 norms of the gradient, one a step; values that are not finite or not > 0 are left out.
        smoothing: width of the median, as a share of the norms; in [0, 1].
    Raises:
        ValueError: fewer than two norms that can be used.
    """
    usable = [norm for norm in norms if math.isfinite(norm) and norm > 0]
    if len(usable) < 2:
        rule = f"must have recorded at least two finite gradient norms > 0, got {len(usable)}"
        raise refused("source", rule, "Take a run that has recorded more")
    return running_median(usable, round(smoothing * len(usable)))


def running_median(values: Sequence[float], width: int) -> list[float]:
    """Return the median of the `width` values around each; at the ends of those that there are."""
    half = width // 2
    window = sorted(values[:half])
    medians = []
    for index in range(len(values)):
        if index + half < len(values):
            insort(window, values[index + half])
        if index > half:
            del window[bisect_left(window, values[index - half - 1])]
        middle = len(window) // 2
        medians.append(window[middle] if len(window) % 2 else (window[middle - 1] + window[middle]) / 2)
    return medians


def _at(values: Sequence[float], place: float) -> float:
    below = min(int(place), len(values) - 2)
    return between(values[below], values[below + 1], place - below)
