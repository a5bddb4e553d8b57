"""Robust statistics of a stretch of values: its middle, its noise, where it is going. Floats in, floats out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

FEW = 12  # fewer values than that are too few for statistics
_EXPLODED = 10.0  # times the first loss
_MATERIAL = 0.01  # of the whole fall
_NORMAL = 1.4826  # standard deviations a median absolute deviation, for normal noise


def median(values: Sequence[float]) -> float:
    """Return the middle value, the mean of the two middle ones of an even number; nan of none."""
    ordered, half = sorted(values), len(values) // 2
    if not ordered:
        return math.nan
    return ordered[half] if len(ordered) % 2 else 0.5 * ordered[half - 1] + 0.5 * ordered[half]


def medians(values: Sequence[float], *, count: int) -> list[float]:
    """Return the medians of at most `count` blocks of consecutive values, as equal in size as can be."""
    blocks = min(count, len(values))
    return [median(values[len(values) * i // blocks : len(values) * (i + 1) // blocks]) for i in range(blocks)]


def spread(values: Sequence[float]) -> float:
    """Return 1.4826 times the median absolute deviation: the standard deviation of normal noise; 0 of none."""
    middle = median(values)
    return _NORMAL * median([abs(value - middle) for value in values]) if values else 0.0


def noise(values: Sequence[float]) -> float:
    """Return the standard deviation of the noise on top of a slowly changing curve.

    The `spread` of x_(i-1) - 2 x_i + x_(i+1), divided by sqrt(6): a straight line has none. 0 below 3 values.
    """
    bends = [values[i - 1] - 2 * values[i] + values[i + 1] for i in range(1, len(values) - 1)]
    return spread(bends) / math.sqrt(6.0)


def trend(values: Sequence[float]) -> tuple[float, float]:
    """Return the slope of the straight line through the values and its standard error, per place.

    Least squares; the error is that of independent noise. (0, inf) below 3 values.
    """
    count = len(values)
    if count < 3:
        return 0.0, math.inf
    centre, mean = (count - 1) / 2, math.fsum(values) / count
    width = math.fsum((i - centre) ** 2 for i in range(count))
    slope = math.fsum((i - centre) * (value - mean) for i, value in enumerate(values)) / width
    left = math.fsum((value - mean - slope * (i - centre)) ** 2 for i, value in enumerate(values))
    return slope, math.sqrt(left / (count - 2) / width)


def persistence(values: Sequence[float]) -> float:
    """Return the correlation of the ranks of neighbours, in [-1, 1]: about 0 for noise, 1 for a slow curve.

    For n values of pure noise it stays within 3 / sqrt(n). 0 below 3 values and where all are equal.
    """
    order = {value: place for place, value in enumerate(sorted(set(values)))}
    ranks = [float(order[value]) for value in values]
    if len(order) < 2 or len(values) < 3:
        return 0.0
    mean = math.fsum(ranks) / len(ranks)
    whole = math.fsum((rank - mean) ** 2 for rank in ranks)
    return math.fsum((a - mean) * (b - mean) for a, b in pairwise(ranks)) / whole


def mean_and_variance(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and unbiased variance of at least 2 values."""
    mean = math.fsum(values) / len(values)
    return mean, math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def ratio(above: float, below: float) -> float:
    """Return above / below, at most 1e9 in size; 0 where there is nothing to divide by."""
    return min(max(above / below, -1e9), 1e9) if below > 0 else 0.0


def is_still_falling(losses: Sequence[float]) -> bool:
    """Whether the loss at the end is lower than shortly before, beyond noise and by an amount that matters.

    With a the mean of the first tenth, y and z those of the last but one and the last tenth, of n losses each:
    y - z > max(2 sqrt((var_y + var_z) / n), 0.01 (a - z)). False for fewer than 30 losses or any that is not finite.
    """
    size = len(losses) // 10
    if size < 3:
        return False
    first, before, last = losses[:size], losses[-2 * size : -size], losses[-size:]
    if not all(map(math.isfinite, (*first, *before, *last))):
        return False
    (start, _), (earlier, noise_earlier), (end, noise_end) = map(mean_and_variance, (first, before, last))
    beyond = 2 * math.sqrt((noise_earlier + noise_end) / size)
    return earlier - end > max(beyond, _MATERIAL * (start - end))


def has_exploded(losses: Sequence[float]) -> bool:
    """Whether the last loss is more than ten times the first: too short a rise for statistics to judge."""
    return bool(losses) and losses[-1] > _EXPLODED * abs(losses[0])
