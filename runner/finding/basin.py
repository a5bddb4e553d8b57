"""How wide the good learning rates are, and what too low and too high a one costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from runner.finding.points import COARSE_DECADES, LRPoint, best_of, sd_of

LEAST_SHARE = 0.01  # of the loss that still counts as near-optimal
STEP = 3.0  # what "too low" and "too high" are measured at
_NEAR = 1.15  # 1e-2 stands for three times 3e-3


class Basin(NamedTuple):
    """The learning rates around the best one at which the loss is hardly worse.

    Attributes:
        low: smallest of them.
        high: largest.
        level: the loss up to which they count: l* + max(2 seed sd, 1 % of l*).
        is_low_open: whether nothing near below it was tried, so that it may be wider.
        is_high_open: the same above it.
    """

    low: float
    high: float
    level: float
    is_low_open: bool
    is_high_open: bool

    @property
    def decades(self) -> float:
        """Its width."""
        return math.log10(self.high / self.low)


class Slopes(NamedTuple):
    """What a learning rate beside the best one costs.

    Attributes:
        lower: loss at a third of the best learning rate, minus that at the best; nan where nothing near was tried.
        higher: loss at three times it, minus that at the best; inf where runs fail there, nan as before.
    """

    lower: float
    higher: float

    @property
    def ratio(self) -> float:
        """How much steeper the right side is; nan where a side is not known or the left is flat."""
        return self.higher / self.lower if self.lower > 0 else math.nan


def basin_of(points: Sequence[LRPoint], *, lowest: LRPoint | None = None, noise: float = math.nan) -> Basin | None:
    """Return the basin around the smallest loss, None where every run failed.

    The means are joined by straight lines over ln lr, where they leave the basin no further than 0.75 decades; a rate
    at which a run failed ends it.

    Args:
        points: in order of their rates.
        lowest: the lowest point of a fit, which is then one of them; None takes the smallest mean.
        noise: standard deviation over seeds; nan takes that at the smallest mean.
    """
    best = lowest or best_of(points)
    if best is None:
        return None
    if lowest is not None:
        points = sorted([*(point for point in points if point.lr != lowest.lr), lowest], key=lambda point: point.lr)
    noise = sd_of(best.losses) if math.isnan(noise) else noise
    level = best.mean + max(0.0 if math.isnan(noise) else 2 * noise, LEAST_SHARE * abs(best.mean))
    place = points.index(best)
    low, is_low_open = _edge(points[place::-1], level)
    high, is_high_open = _edge(points[place:], level)
    return Basin(low, high, level, is_low_open, is_high_open)


def slopes_of(points: Sequence[LRPoint]) -> Slopes:
    """Return what a third and three times the best learning rate cost; nan where every run failed."""
    best = best_of(points)
    if best is None:
        return Slopes(math.nan, math.nan)
    return Slopes(loss_at(points, best.lr / STEP) - best.mean, loss_at(points, best.lr * STEP) - best.mean)


def loss_at(points: Sequence[LRPoint], lr: float, *, most_decades: float = COARSE_DECADES) -> float:
    """Return the mean loss at a learning rate, by a line over ln lr between the neighbours that were tried.

    It is straight in the logarithm of the loss, as the fit is, where both losses, maybe decades apart, are above 0.

    Args:
        points: in order of their rates.
        lr: the learning rate.
        most_decades: how far apart the neighbours may be.
    Returns:
        inf where a run of a neighbour failed, nan outside what was tried (by more than 15 %) and between neighbours
        that are further apart.
    """
    near = [point for point in points if is_near(point.lr, lr)]
    if near:
        closest = min(near, key=lambda point: abs(math.log(point.lr / lr)))
        return closest.mean if closest.is_sound else math.inf
    below = max((point for point in points if point.lr < lr), key=lambda point: point.lr, default=None)
    above = min((point for point in points if point.lr > lr), key=lambda point: point.lr, default=None)
    if below is None or above is None or _is_far(below, above, most_decades):
        return math.nan
    if not (below.is_sound and above.is_sound):
        return math.inf
    share = math.log(lr / below.lr) / math.log(above.lr / below.lr)
    if below.mean > 0 and above.mean > 0:
        return float(below.mean ** (1 - share) * above.mean**share)
    return below.mean + share * (above.mean - below.mean)


def is_near(lr: float, other: float) -> bool:
    """Whether two learning rates count as one: they differ by at most 15 %."""
    return 1 / _NEAR <= lr / other <= _NEAR


def _is_far(one: LRPoint, other: LRPoint, most_decades: float = COARSE_DECADES) -> bool:
    return abs(math.log10(other.lr / one.lr)) > most_decades


def _edge(outwards: Sequence[LRPoint], level: float) -> tuple[float, bool]:
    """Return where the losses leave the basin on the way outwards from the best, and whether they never do."""
    inner = outwards[0]
    for point in outwards[1:]:
        if not point.is_sound:
            return inner.lr, _is_far(inner, point)
        if point.mean > level:
            if _is_far(inner, point):
                return inner.lr, True
            rise = point.mean - inner.mean
            share = (level - inner.mean) / rise if math.isfinite(rise) else 0.0
            return inner.lr * (point.lr / inner.lr) ** share, False
        inner = point
    return inner.lr, True
