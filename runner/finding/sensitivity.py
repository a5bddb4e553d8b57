"""How much the loss suffers from a wrong learning rate, averaged over a range of rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from runner.finding.points import LRPoint, best_of

GRID = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)  # of the definition
HALF_WINDOW_DECADES = 1.5
_LEAST_DECADES = 1.0  # that a window must cover
_NEAR = 1.1  # 10^-3.5 stands for 3e-4


class Windowed(NamedTuple):
    """LR sensitivity over a window around the best learning rate.

    Attributes:
        value: in the unit of the loss.
        low: smallest learning rate of the window that was tried.
        high: largest.
    """

    value: float
    low: float
    high: float

    @property
    def decades(self) -> float:
        """How much of the window was tried, of 2 * `HALF_WINDOW_DECADES`."""
        return math.log10(self.high / self.low)


def lr_sensitivity(losses: Sequence[float], initial_loss: float) -> float:
    """Return the mean over learning rates of min(loss, l0) - l*, with l* the smallest loss.

    Args:
        losses: final loss of one run a learning rate; inf or nan where it diverged, which counts as l0.
        initial_loss: l0, loss at initialisation.
    Returns:
        in the unit of the loss; nan where l0 is nan, or nothing was tried.
    Source: Wortsman et al. 2023, arXiv:2309.14322, section 2.2, over the seven rates of `GRID`.
    """
    if not losses or math.isnan(initial_loss):
        return math.nan
    capped = [capped_loss(loss, initial_loss) for loss in losses]
    return sum((loss - min(capped)) / len(capped) for loss in capped)


def capped_loss(loss: float, initial_loss: float) -> float:
    """Return min(loss, l0); l0 for a loss that is no number."""
    return min(loss, initial_loss) if not math.isnan(loss) else initial_loss


def sensitivity_on_grid(points: Sequence[LRPoint], initial_loss: float) -> float | None:
    """Return the LR sensitivity over the seven rates of the definition, None where one of them was not tried, or a
    run failed at each.

    Rates within 10 % stand for those of the grid. The loss of a rate is the mean over its seeds of min(loss, l0).
    """
    if best_of(points) is None:
        return None
    found = []
    for lr in GRID:
        near = min(points, key=lambda point: abs(math.log(point.lr / lr)), default=None)
        if near is None or not 1 / _NEAR <= near.lr / lr <= _NEAR:
            return None
        found.append(mean_capped(near, initial_loss))
    value = lr_sensitivity(found, initial_loss)
    return None if math.isnan(value) else value


def windowed_sensitivity(points: Sequence[LRPoint], initial_loss: float, *, center: float) -> Windowed | None:
    """Return the LR sensitivity over 1.5 decades each side of a learning rate, as far as they were tried.

    Optimizers whose learning rates are not of one size can be compared by it. The average is the integral over ln lr of
    the capped losses, joined by straight lines, over its length, so that rates that lie close together count no more
    than others. None where less than a decade of the window was tried, or fewer than three rates.

    Args:
        points: in order of their rates.
        initial_loss: l0; nan where it is not known, which is enough where no run failed.
        center: the best learning rate.
    """
    if not points or best_of(points) is None:
        return None
    curve = [(math.log(point.lr), mean_capped(point, initial_loss)) for point in points]
    half = HALF_WINDOW_DECADES * math.log(10)
    low = max(math.log(center) - half, curve[0][0])
    high = min(math.log(center) + half, curve[-1][0])
    inside = [(x, y) for x, y in curve if low < x < high]
    if high - low < _LEAST_DECADES * math.log(10) * 0.99 or not inside:
        return None
    line = [(low, _at(curve, low)), *inside, (high, _at(curve, high))]
    area = sum((right - left) * (a + b) / 2 for (left, a), (right, b) in pairwise(line))
    smallest = min(y for _, y in curve)
    value = area / (high - low) - smallest
    return None if math.isnan(value) else Windowed(value, math.exp(low), math.exp(high))


def mean_capped(point: LRPoint, initial_loss: float) -> float:
    """Return the mean over the runs of a learning rate of min(loss, l0); nan where a run failed and l0 is not known."""
    if math.isnan(initial_loss):
        return math.nan if point.failed or not point.losses else point.mean
    values = [*(min(loss, initial_loss) for loss in point.losses), *[initial_loss] * point.failed]
    return sum(value / len(values) for value in values)


def _at(curve: Sequence[tuple[float, float]], x: float) -> float:
    """Return the curve at a place between its ends, by a straight line."""
    for (left, a), (right, b) in pairwise(curve):
        if left <= x <= right:
            share = (x - left) / (right - left)
            return a if share == 0 else b if share == 1 else a + share * (b - a)
    return curve[-1][1]
