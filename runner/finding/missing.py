"""Which learning rates would tell more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from runner.finding.failures import Edge
from runner.finding.fit import ENOUGH_POINTS, Fit
from runner.finding.points import LRPoint, best_of
from runner.finding.recommend import Recommendation

End = Literal["low", "high", ""]
_APART = 1.5  # rates that are closer count as one


class Missing(NamedTuple):
    """What was not tried.

    Attributes:
        end: "low" or "high" where the best rate is the smallest or largest that was tried; else "".
        try_next: learning rates that would tell more; empty where nothing is missing.
        edge_next: learning rates that would tell where the edge is; empty where that is known well enough.
    """

    end: End
    try_next: tuple[float, ...]
    edge_next: tuple[float, ...]


def missing_of(points: Sequence[LRPoint], tried: Sequence[LRPoint], advice: Recommendation) -> Missing:
    """Return what was not tried.

    Args:
        points: of the curve.
        tried: these and all others.
        advice: what they tell.
    """
    end, edge = _end(points, tried), advice.edge
    edge_next = _half_decades(edge.stable * _APART, edge.first_failing / _APART) if edge.is_coarse else ()
    return Missing(end, _try_next(points, tried, end, advice.fit, edge), edge_next)


def _end(points: Sequence[LRPoint], tried: Sequence[LRPoint]) -> End:
    """Return whether the best rate is the smallest or the largest that was tried."""
    best = best_of(points)
    if best is None or len(tried) == 1:
        return ""
    rates = [point.lr for point in points]
    if best.lr == rates[0] and best.lr <= tried[0].lr:
        return "low"
    return "high" if best.lr == rates[-1] and best.lr >= tried[-1].lr else ""


def _try_next(
    points: Sequence[LRPoint], tried: Sequence[LRPoint], end: End, found: Fit, edge: Edge
) -> tuple[float, ...]:
    """Return the rates that are missing: beyond the end at which the best lies, or half a decade apart around it."""
    if not tried:
        return ()
    if math.isnan(found.lr):
        return _half_decades(tried[0].lr / 100, tried[0].lr / _APART)
    if end == "low":
        return _half_decades(found.best / 10, found.best / _APART)
    if end == "high":
        return _half_decades(found.best * _APART, found.best * 10)
    if found.points >= ENOUGH_POINTS:
        return ()
    hopeless = edge.hopeless if not math.isnan(edge.hopeless) else math.inf
    known = [math.log10(point.lr) for point in points]
    around = _half_decades(found.best / 10, found.best * 10)
    return tuple(
        lr for lr in around if lr < hopeless and all(abs(math.log10(lr) - one) > math.log10(_APART) for one in known)
    )


def _half_decades(low: float, high: float) -> tuple[float, ...]:
    """Return the rates 1 and 3 times a power of ten from low to high, give or take 2 %."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    rates = [float(f"{digit}e{power}") for power in powers for digit in (1, 3)]
    return tuple(lr for lr in rates if low / 1.02 <= lr <= high * 1.02)
