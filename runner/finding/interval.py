"""How sure the best learning rate is: seeds drawn again and again, or its neighbours where there is one seed."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

from runner.finding.fit import LRPoint, best_of, fit, sound, variance

RESAMPLES = 1000
LEVEL = 0.95


class Interval(NamedTuple):
    """Where the best learning rate lies.

    Attributes:
        low: smallest learning rate of it.
        high: largest.
        level: 0.95 where seeds were resampled; nan where it lies between the neighbours of the best.
        is_low_open: whether nothing below `low` was tried, so that it may lie lower.
        is_high_open: whether nothing above `high` was tried, so that it may lie higher.
    """

    low: float
    high: float
    level: float
    is_low_open: bool
    is_high_open: bool


def interval_of(points: Sequence[LRPoint], *, resamples: int = RESAMPLES, seed: int = 0) -> Interval | None:
    """Return the interval of the best learning rate, None where every run failed.

    With two seeds at the best rate, the losses of each rate are drawn anew (with replacement, their distance from the
    mean times sqrt(n / (n - 1)), since n seeds scatter less around their own mean than around the true one), the whole
    of `fit` is repeated, and the interval holds the middle 95 % of what it finds. A rate with one seed is given the
    noise of the nearest rate that has two. With one seed the interval is that between the neighbours of the best.

    Args:
        points: in order of their rates.
        resamples: how often the seeds are drawn.
        seed: of the draws.
    Source: the percentile bootstrap of Efron and Tibshirani 1993, chapter 13.
    """
    best = best_of(points)
    if best is None:
        return None
    tried = [point.lr for point in points]
    if len(best.losses) < 2:
        place = tried.index(best.lr)
        low, high, level = tried[max(place - 1, 0)], tried[min(place + 1, len(tried) - 1)], math.nan
        return Interval(low, high, level, place == 0, place == len(tried) - 1)
    draw = random.Random(seed)
    usable = sound(points)
    noises = [_noise(point, usable) for point in usable]
    found = []
    for _ in range(resamples):
        drawn = [LRPoint(point.lr, _drawn(point, noise, draw)) for point, noise in zip(usable, noises, strict=True)]
        found.append(fit(drawn).lr)
    found.sort()
    low, high = _quantile(found, (1 - LEVEL) / 2), _quantile(found, (1 + LEVEL) / 2)
    return Interval(low, high, LEVEL, low <= tried[0], high >= tried[-1])


def _noise(point: LRPoint, points: Sequence[LRPoint]) -> float:
    """Return the relative sd to give a rate with one seed: that of the nearest rate with two."""
    several = [other for other in points if len(other.losses) > 1]
    nearest = min(several, key=lambda other: abs(math.log(other.lr / point.lr)))
    return math.sqrt(variance(nearest.losses, unit=abs(nearest.mean) or 1.0))


def _drawn(point: LRPoint, noise: float, draw: random.Random) -> tuple[float, ...]:
    count, mean = len(point.losses), point.mean
    if count == 1:
        return (mean * math.exp(noise * draw.gauss(0.0, 1.0)),)
    wider = math.sqrt(count / (count - 1))
    values = [mean + wider * (draw.choice(point.losses) - mean) for _ in range(count)]
    # what is positive stays so: the logarithm is fitted
    return tuple(values) if min(values) > 0 or min(point.losses) <= 0 else tuple(map(abs, values))


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile, interpolated in the logarithm."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return math.exp(math.log(ordered[below]) * (1 - place + below) + math.log(ordered[above]) * (place - below))
