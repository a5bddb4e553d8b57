"""The report of one group: the runs that differ in learning rate and seed only."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from runner.finding.basin import Basin, Slopes, basin_of, loss_at, slopes_of
from runner.finding.failures import SAFE_RATIO, Edge, FailureRate, failure_bounds, failure_rate
from runner.finding.fit import ENOUGH_POINTS, Fit
from runner.finding.interval import Interval, interval_of
from runner.finding.observed import Observed
from runner.finding.points import LRPoint, best_of, mean_of, measured_points, points_of, sd_of, sound
from runner.finding.recommend import recommend
from runner.finding.sensitivity import Windowed, sensitivity_on_grid, windowed_sensitivity

_NO_CURVE = ("bracket", "range_test", "verify")  # purposes of runs that are no points of the curve
_APART = 1.5  # rates that are closer count as one


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
    """What fresh seeds at the recommended learning rate came to.

    Attributes:
        lr: the rate that was verified.
        runs: that ended.
        failed: how many of them failed.
        most_failing: upper 95 % bound of the share that fails.
        mean: of the losses; nan without any.
        sd: over seeds.
    """

    lr: float
    runs: int
    failed: int
    most_failing: float
    mean: float
    sd: float


@dataclass(frozen=True)
class GroupReport:
    """What was found of the learning rate, everything else alike.

    Attributes:
        name: what tells the group apart, as on the command line; "" where there is one only.
        recommended: the learning rate to use, in three digits; nan where every run failed.
        expected_loss: at the recommendation, by the fit or by a straight line between its neighbours.
        best_lr: learning rate with the smallest mean loss; nan without one.
        best_loss: its mean loss.
        fit: the parabola around it.
        interval: where the best learning rate lies; None where every run failed.
        edge: where runs begin to fail.
        safety_ratio: largest stable learning rate over that of the smallest loss; at least that, where no run failed.
        is_at_edge: whether that ratio is below 3, runs having failed.
        safety: a recommendation is at most the largest stable rate over this.
        is_capped: whether it is less than it would be for that reason.
        uncapped, uncapped_loss: what it would be, and the loss expected there.
        basin: learning rates that are hardly worse.
        slopes: what a third and three times the best rate cost.
        noise: standard deviation over seeds at the best rate; nan for one seed.
        initial_loss: training loss before the first update, median over the runs; nan where it is not known.
        stuck: learning rates above the best at which nothing was learned, which counts as failed.
        sensitivity: as defined by Wortsman et al., over 3e-4 to 3e-1; None where these were not tried.
        windowed: LR sensitivity over 1.5 decades each side of the best rate, as far as tried; None where too little.
        end: "low" or "high" where the best rate is the smallest or largest that was tried; else "".
        try_next: learning rates that would tell more; empty where nothing is missing.
        edge_next: learning rates that would tell where the edge is; empty where that is known well enough.
        verified: what fresh seeds came to; None without any.
        compared: the rate at which it is compared with other groups.
        rates: all that were tried, in order.
        full_steps: updates of a full run; 0 where that is not known.
        curve_steps: updates of the runs of the curve: fewer than `full_steps` where there are only short ones.
        short_runs: number of shorter runs, which tell of failures only.
        unfinished: status -> number of runs without an end, which tell nothing.
    """

    name: str
    recommended: float
    expected_loss: float
    best_lr: float
    best_loss: float
    fit: Fit
    interval: Interval | None
    edge: Edge
    safety_ratio: float
    is_at_edge: bool
    safety: float
    is_capped: bool
    uncapped: float
    uncapped_loss: float
    basin: Basin | None
    slopes: Slopes
    noise: float
    initial_loss: float
    stuck: tuple[float, ...]
    sensitivity: float | None
    windowed: Windowed | None
    end: str
    try_next: tuple[float, ...]
    edge_next: tuple[float, ...]
    verified: Verified | None
    compared: Rate | None
    rates: tuple[Rate, ...]
    full_steps: int
    curve_steps: int
    short_runs: int
    unfinished: Mapping[str, int]

    @property
    def compared_loss(self) -> float:
        """Mean loss at the rate at which it is compared; inf without one."""
        return self.compared.mean if self.compared is not None else math.inf


def report_of_group(
    name: str, runs: Sequence[Observed], full_steps: int | None = None, *, safety: float = SAFE_RATIO
) -> GroupReport:
    """Report one group.

    Args:
        name: of the group.
        runs: at least one.
        full_steps: updates of a full run; None is the longest that was declared.
        safety: see `recommend`.
    """
    full = full_steps or max(one.planned_steps for one in runs)
    trials = [one for one in runs if one.purpose not in _NO_CURVE]
    ended = [one for one in trials if one.has_failed or one.status == "finished"]
    length = _length(ended, full)
    curve = [one for one in ended if one.planned_steps >= length or one.planned_steps == 0]
    measured, points = measured_points(curve), points_of(curve)
    stuck = {point.lr for point, plain in zip(points, measured, strict=True) if point.failed > plain.failed}
    tried = points_of([*ended, *_fresh(runs)])
    advice, best = recommend(points, tried, safety=safety), best_of(points)
    found, edge = advice.fit, advice.edge
    initial = [one.first_loss for one in runs if math.isfinite(one.first_loss)]
    initial_loss = statistics.median(initial) if initial else math.nan
    rates = _rates(curve, measured, tried)
    end = _end(points, tried, best)
    return GroupReport(
        name=name,
        recommended=advice.lr,
        expected_loss=_expected(found, points, advice.lr),
        best_lr=found.best,
        best_loss=best.mean if best is not None else math.nan,
        fit=found,
        interval=interval_of(points),
        edge=edge,
        safety_ratio=advice.safety_ratio,
        is_at_edge=advice.is_at_edge,
        safety=safety,
        is_capped=advice.is_capped,
        uncapped=advice.uncapped,
        uncapped_loss=_expected(found, points, advice.uncapped),
        basin=basin_of(points),
        slopes=slopes_of(points),
        noise=sd_of(best.losses) if best is not None else math.nan,
        initial_loss=initial_loss,
        stuck=tuple(sorted(stuck)),
        sensitivity=sensitivity_on_grid(measured, initial_loss),
        windowed=windowed_sensitivity(measured, initial_loss, center=found.lr) if best is not None else None,
        end=end,
        try_next=_try_next(points, tried, end, found, edge),
        edge_next=_half_decades(edge.stable * _APART, edge.first_failing / _APART) if edge.is_coarse else (),
        verified=_verified(runs),
        compared=_compared(points, rates),
        rates=rates,
        full_steps=full,
        curve_steps=length,
        short_runs=len(ended) - len(curve),
        unfinished=dict(Counter(one.status for one in trials if one not in ended)),
    )


def _length(ended: Sequence[Observed], full: int) -> int:
    """Return how long the runs of the curve are: full ones, or the longest where there are none."""
    planned = [one.planned_steps for one in ended]
    return full if not planned or 0 in planned or max(planned) >= full else max(planned)


def _rates(curve: Sequence[Observed], points: Sequence[LRPoint], tried: Sequence[LRPoint]) -> tuple[Rate, ...]:
    by_lr = {point.lr: point for point in points}
    found = []
    for point in tried:
        seeds = {o.seed: o.loss for o in curve if o.lr == point.lr and not o.has_failed}
        own = by_lr.get(point.lr)
        mean = own.mean if own is not None and own.losses else math.nan
        sd = sd_of(own.losses) if own is not None else math.nan
        found.append(Rate(point.lr, seeds, mean, sd, failure_rate(point)))
    return tuple(found)


def _expected(found: Fit, points: Sequence[LRPoint], lr: float) -> float:
    if math.isnan(lr):
        return math.nan
    low, high = found.window
    value = found.loss_at(lr) if found.is_vertex and low <= lr <= high else loss_at(points, lr)
    return value if math.isfinite(value) else math.nan


def _end(points: Sequence[LRPoint], tried: Sequence[LRPoint], best: LRPoint | None) -> str:
    """Return whether the best rate is the smallest or the largest that was tried."""
    if best is None or len(tried) == 1:
        return ""
    rates = [point.lr for point in points]
    if best.lr == rates[0] and best.lr <= tried[0].lr:
        return "low"
    return "high" if best.lr == rates[-1] and best.lr >= tried[-1].lr else ""


def _try_next(
    points: Sequence[LRPoint], tried: Sequence[LRPoint], end: str, found: Fit, edge: Edge
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


def _fresh(runs: Sequence[Observed]) -> list[Observed]:
    """Return the runs that verify."""
    return [one for one in runs if one.purpose == "verify"]


def _verified(runs: Sequence[Observed]) -> Verified | None:
    points = points_of(_fresh(runs))
    if not points:
        return None
    point = max(points, key=lambda one: len(one.losses) + one.failed)
    count = len(point.losses) + point.failed
    mean = mean_of(point.losses) if point.losses else math.nan
    return Verified(point.lr, count, point.failed, failure_bounds(point.failed, count)[1], mean, sd_of(point.losses))


def _compared(points: Sequence[LRPoint], rates: Sequence[Rate]) -> Rate | None:
    """Return the rate with the most seeds of those that are near-optimal, of several the one with the smallest loss."""
    basin = basin_of(points)
    if basin is None:
        return None
    good = [point for point in sound(points) if point.mean <= basin.level]
    chosen = max(good, key=lambda point: (len(point.losses), -point.mean))
    return next(rate for rate in rates if rate.lr == chosen.lr)
