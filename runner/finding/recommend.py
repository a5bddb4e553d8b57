"""Which learning rate to use: where the loss is smallest, but at a distance from where runs break down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from runner.finding.failures import SAFE_RATIO, Edge, edge_of
from runner.finding.fit import ASYMMETRY_DECADES, Fit, fit
from runner.finding.points import LRPoint

_DIGITS = 3


class Recommendation(NamedTuple):
    """What to use, and what it rests on.

    Attributes:
        lr: the learning rate to use, in three digits; nan where every run failed.
        fit: the parabola around the best.
        edge: where runs begin to fail.
        safety_ratio: largest stable learning rate over that of the smallest loss; at least that, where no run failed.
        is_at_edge: whether that ratio is below `SAFE_RATIO`, runs having failed.
        uncapped: what `lr` would be without regard to the edge.
        is_capped: whether `lr` lies below that.
    """

    lr: float
    fit: Fit
    edge: Edge
    safety_ratio: float
    is_at_edge: bool
    uncapped: float
    is_capped: bool


def recommend(points: Sequence[LRPoint], tried: Sequence[LRPoint], *, safety: float = SAFE_RATIO) -> Recommendation:
    """Recommend the learning rate of the smallest loss, or the largest stable one / `safety` where that is less.

    Where a parabola says where the loss is smallest, it is 0.05 decades below its vertex.

    Args:
        points: of the curve, in order of their rates.
        tried: these and all others that tell where runs fail, in order.
        safety: distance from the edge, >= 1; 1 recommends no rate beyond the largest stable one.
    """
    found, edge = fit(points), edge_of(tried)
    ratio, lr = edge.stable / found.lr, found.lr / 10**ASYMMETRY_DECADES if found.is_vertex else found.lr
    is_at_edge = edge.is_known and not ratio >= SAFE_RATIO
    is_capped = edge.is_known and edge.stable / safety < lr
    advised = rounded(edge.stable / safety, down=True) if is_capped else rounded(lr)
    return Recommendation(advised, found, edge, ratio, is_at_edge, rounded(lr), is_capped)


def rounded(lr: float, *, down: bool = False) -> float:
    """Return a rate in three digits, rounded down where it must not grow."""
    near = float(f"{lr:.{_DIGITS}g}")
    if down and near > lr * (1 + 1e-9):
        near = float(f"{near - 10.0 ** (math.floor(math.log10(lr)) + 1 - _DIGITS):.{_DIGITS}g}")
    return near
