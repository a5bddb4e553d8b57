"""How sure the best learning rate is: seeds drawn again and again, or its neighbours where there is one seed."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from runner.finding.fit import ASYMMETRY_DECADES, ENOUGH_POINTS, Value, fit_values, misfit_of, range_of, values_of
from runner.finding.points import LRPoint, best_of, mean_of, sound
from runner.finding.recommend import recommend

RESAMPLES = 1000
LEVEL = 0.95
_TAIL = (1 - LEVEL) / 2
_MOST_MISFIT = 0.15  # of the range
_FEW_DECADES = 0.2
_ROUNDING = 1 + 1e-9


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

    With two seeds at the best rate, the seeds of each rate are drawn anew (with replacement, their distance from the
    mean times sqrt(n / (n - 1)), since n seeds scatter less around their own mean than around the true one), what a
    parabola is off by (see `fit`, at most 0.15 of the range) is drawn from a normal distribution and added, the fit is
    repeated, and the interval holds the middle 95 % of what it finds; a fit without a lowest point between the rates
    tells no more than the neighbours of the best. A rate with one seed is given the noise that is common to all. Around
    a lowest point it is 0.05 decades wider on each side, 0.2 where fewer than five rates are fitted: so wide, intervals
    of replayed searches, of three or four rates each, hold the best rate in 96 of 100 (experiments/finding_the_lr).
    An end is open where some draws have their best at the last rate that was tried, or their lowest point beyond it.
    Where most draws tell no more than the neighbours of the best, the interval is between those; with one seed, between
    them and those of the lowest point of the parabola.

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
    beside = {lr: (tried[max(i - 1, 0)], tried[min(i + 1, len(tried) - 1)]) for i, lr in enumerate(tried)}
    advised = recommend(points, points)
    if len(best.losses) < 2:
        low = max((lr for lr in tried if lr <= advised.uncapped), default=tried[0])
        high = min((lr for lr in tried if lr >= advised.fit.lr), default=tried[-1])
        low, high = min(low, beside[best.lr][0]), max(high, beside[best.lr][1])
        return Interval(low, high, math.nan, best.lr == tried[0], best.lr == tried[-1])
    values, scale = values_of(points)
    unit, lowest = range_of(fit_values(values).near), min(value.y for value in values)
    offs = [min(math.sqrt(misfit_of(value.y - lowest, unit)), _MOST_MISFIT * unit) for value in values]
    draw = random.Random(seed)
    seeds = [point.losses for point in sound(points)]
    room = 10 ** (ASYMMETRY_DECADES if advised.fit.points >= ENOUGH_POINTS else _FEW_DECADES)
    lows, highs, at_ends = list[float](), list[float](), Counter[float]()
    for _ in range(resamples):
        drawn = [
            value._replace(y=_drawn(value, losses, draw, scale=scale) + draw.gauss(0.0, off))
            for value, losses, off in zip(values, seeds, offs, strict=True)
        ]
        found = fit_values(drawn)
        low, high = beside[found.lr] if found.why_not else (found.lr / room, found.lr * room)
        lows.append(low)
        highs.append(high)
        at_ends[found.lr] += bool(found.why_not)
    if at_ends.total() > resamples / 2:  # most draws tell no more than that
        return Interval(*beside[best.lr], math.nan, best.lr == tried[0], best.lr == tried[-1])
    low, high = _quantile(sorted(lows), _TAIL), _quantile(sorted(highs), 1 - _TAIL)
    some = _TAIL * resamples
    is_low_open = low < tried[0] / _ROUNDING or at_ends[tried[0]] > some
    is_high_open = points[-1].is_sound and (high > tried[-1] * _ROUNDING or at_ends[tried[-1]] > some)
    return Interval(max(tried[0], low), min(tried[-1], high), LEVEL, is_low_open, is_high_open)


def _drawn(value: Value, losses: Sequence[float], draw: random.Random, *, scale: float | None) -> float:
    """Return the value that a draw of the seeds gives."""
    count = len(losses)
    if count == 1:
        return value.y + draw.gauss(0.0, math.sqrt(value.noise))
    mean = mean_of(losses)
    shift = math.sqrt(count / (count - 1)) * (mean_of(draw.choices(losses, k=count)) - mean)
    if scale is not None:
        return (mean + shift) / scale
    return value.y + math.log1p(max(shift / mean, -0.9))


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile, interpolated in the logarithm."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    if ordered[below] == ordered[above]:
        return ordered[below]
    return math.exp(math.log(ordered[below]) * (1 - place + below) + math.log(ordered[above]) * (place - below))
