"""What every learning rate of a group came to, and what fresh seeds did."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from runner.finding.basin import basin_of, is_near
from runner.finding.failures import FailureRate, failure_bounds, failure_rate
from runner.finding.observed import VERIFY, Observed
from runner.finding.points import LRPoint, mean_of, points_of, sd_of, sound


@dataclass(frozen=True)
class Rate:
    """One learning rate, all seeds.

    Attributes:
        lr: base learning rate.
        by_seed: seed -> final loss, where it is finite, of runs of full length.
        mean: of them; nan without any.
        sd: over seeds; nan with fewer than two.
        failures: how often its runs failed, of whatever length.
    """

    lr: float
    by_seed: Mapping[int, float]
    mean: float
    sd: float
    failures: FailureRate


class Verified(NamedTuple):
    """What fresh seeds came to, at the recommended learning rate where there are any.

    Attributes:
        lr: the rate that was verified.
        runs: that ended.
        failed: how many of them failed.
        most_failing: upper 95 % bound of the share that fails.
        losses: of those that did not.
    """

    lr: float
    runs: int
    failed: int
    most_failing: float
    losses: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Of the losses; nan without any."""
        return mean_of(self.losses) if self.losses else math.nan

    @property
    def sd(self) -> float:
        """Over seeds."""
        return sd_of(self.losses)


def rates_of(curve: Sequence[Observed], points: Sequence[LRPoint], tried: Sequence[LRPoint]) -> tuple[Rate, ...]:
    """Return every learning rate that was tried.

    Args:
        curve: runs of full length that ended.
        points: what came of them.
        tried: of all runs.
    """
    by_lr = {point.lr: point for point in points}
    found = []
    for point in tried:
        seeds = {o.seed: o.loss for o in curve if o.lr == point.lr and not o.has_failed}
        own = by_lr.get(point.lr)
        mean = own.mean if own is not None and own.losses else math.nan
        sd = sd_of(own.losses) if own is not None else math.nan
        found.append(Rate(point.lr, seeds, mean, sd, failure_rate(point)))
    return tuple(found)


def fresh_of(runs: Sequence[Observed]) -> list[Observed]:
    """Return the runs that verify."""
    return [one for one in runs if one.purpose == VERIFY]


def verified_of(runs: Sequence[Observed], lr: float) -> Verified | None:
    """Return what fresh seeds came to at a rate, or, where there are none, at that with the most of them."""
    points = points_of(fresh_of(runs))
    if not points:
        return None
    point = max(points, key=lambda one: (one.lr == lr, len(one.losses) + one.failed))
    count = len(point.losses) + point.failed
    return Verified(point.lr, count, point.failed, failure_bounds(point.failed, count)[1], point.losses)


def compared_of(points: Sequence[LRPoint], rates: Sequence[Rate], capped: float = math.nan) -> Rate | None:
    """Return the rate at which a group is compared: what is recommended, where it was tried, or one as good.

    Of those within 15 % of a recommendation that keeps away from the edge, or else of those that are near-optimal, it
    is the one with the most seeds; of several, the one with the smallest loss.

    Args:
        points: of the curve.
        rates: all that were tried.
        capped: the recommendation where it lies below the best for its distance from the edge; else nan.
    """
    basin = basin_of(points)
    if basin is None:
        return None
    good = [point for point in sound(points) if is_near(point.lr, capped)]
    good = good or [point for point in sound(points) if point.mean <= basin.level]
    chosen = max(good, key=lambda point: (len(point.losses), -point.mean))
    return next(rate for rate in rates if rate.lr == chosen.lr)
