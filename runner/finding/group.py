"""The report of one group: the runs that differ in learning rate and seed only."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from runner.finding.basin import Basin, Slopes, basin_of, is_near, loss_at, slopes_of
from runner.finding.failures import SAFE_RATIO
from runner.finding.fit import Fit
from runner.finding.interval import Interval, interval_of
from runner.finding.missing import Missing, missing_of
from runner.finding.observed import VERIFY, Observed
from runner.finding.points import LRPoint, best_of, measured_points, points_of, pooled_sd
from runner.finding.procedure import is_hopeless
from runner.finding.rates import Rate, Verified, compared_of, fresh_of, rates_of, verified_of
from runner.finding.recommend import Recommendation, recommend
from runner.finding.sensitivity import Windowed, sensitivity_on_grid, windowed_sensitivity

_HOPELESS = "every run broke down before its first update, which no learning rate causes"


class Runs(NamedTuple):
    """Which runs a report of a group rests on.

    Attributes:
        full_steps: updates of a full run; 0 where that is not known.
        curve_steps: updates of the runs of the curve: fewer than `full_steps` where there are only short ones.
        short_runs: number of shorter runs, which tell of failures only.
        unfinished: status -> number of runs without an end, which tell nothing.
    """

    full_steps: int
    curve_steps: int
    short_runs: int
    unfinished: Mapping[str, int]


@dataclass(frozen=True)
class GroupReport:
    """What was found of the learning rate, everything else alike.

    Attributes:
        name: what tells the group apart, as on the command line; "" where there is one only.
        advice: which learning rate to use, the parabola and the edge that it rests on.
        safety: a recommendation is at most the largest stable rate over this.
        expected_loss: at the recommendation, by the fit or by a line between its neighbours.
        uncapped_loss: what it would be without regard to the edge.
        best_loss: mean loss at the learning rate where that is smallest; nan without one.
        likely_loss: what groups are ranked by, the loss to be expected at the recommendation: the mean of fresh seeds,
            else `expected_loss`, else by a line between its neighbours however far apart, else `best_loss`; nan
            without a recommendation.
        interval: where the best learning rate lies; None where every run failed.
        basin: learning rates that are hardly worse.
        slopes: what a third and three times the best rate cost.
        noise: standard deviation over seeds, at the best rate and of fresh ones; nan for one seed.
        initial_loss: training loss before the first update, median over the runs; nan where it is not known.
        has_learned: whether some run ended below the first loss, or did so and then overfitted.
        stuck: learning rates above the best at which nothing was learned, which counts as failed.
        sensitivity: as defined by Wortsman et al., over 3e-4 to 3e-1; None where these were not tried.
        windowed: LR sensitivity over 1.5 decades each side of the best rate, as far as tried; None where too little.
        missing: what was not tried.
        verified: what fresh seeds came to; None without any.
        compared: the rate at which it is compared with other groups: as good as what is recommended, or near that
            where it keeps away from the edge and was tried; else a near-optimal one.
        rates: all that were tried, in order.
        runs: which it rests on.
    """

    name: str
    advice: Recommendation
    safety: float
    expected_loss: float
    uncapped_loss: float
    best_loss: float
    likely_loss: float
    interval: Interval | None
    basin: Basin | None
    slopes: Slopes
    noise: float
    initial_loss: float
    has_learned: bool
    stuck: tuple[float, ...]
    sensitivity: float | None
    windowed: Windowed | None
    missing: Missing
    verified: Verified | None
    compared: Rate | None
    rates: tuple[Rate, ...]
    runs: Runs

    @property
    def recommended(self) -> float:
        """The learning rate to use, in three digits; nan where every run failed."""
        return self.advice.lr

    @property
    def best_lr(self) -> float:
        """Learning rate with the smallest mean loss; nan without one."""
        return self.advice.fit.best

    @property
    def is_compared_as_recommended(self) -> bool:
        """Whether the rate at which it is compared is within 15 % of what is recommended."""
        return self.compared is not None and is_near(self.compared.lr, self.recommended)


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
    curve, ended, counted = _curve(runs, full_steps)
    measured, points, tried = measured_points(curve), points_of(curve), points_of([*ended, *fresh_of(runs)])
    advice, best = recommend(points, tried, safety=safety), best_of(points)
    missing = missing_of(points, tried, advice)
    if is_hopeless(ended):
        advice = advice._replace(fit=replace(advice.fit, why_not=_HOPELESS))
        missing = missing._replace(try_next=())
    initial = [one.first_loss for one in runs if math.isfinite(one.first_loss)]
    initial_loss = statistics.median(initial) if initial else math.nan
    rates = rates_of(curve, measured, tried)
    verified = verified_of(runs, advice.lr)
    noise = pooled_sd(
        [*([best.losses] if best is not None else []), *([verified.losses] if verified is not None else [])]
    )
    expected = _expected(advice.fit, points, advice.lr)
    return GroupReport(
        name=name,
        advice=advice,
        safety=safety,
        expected_loss=expected,
        uncapped_loss=_expected(advice.fit, points, advice.uncapped),
        best_loss=best.mean if best is not None else math.nan,
        likely_loss=_likely(verified, expected, points, advice),
        interval=interval_of(points),
        basin=basin_of(points, lowest=_lowest(advice), noise=noise),
        slopes=slopes_of(points),
        noise=noise,
        initial_loss=initial_loss,
        has_learned=not initial or any(one.has_learned(min(initial)) for one in curve),
        stuck=tuple(p.lr for p, plain in zip(points, measured, strict=True) if p.failed > plain.failed),
        sensitivity=sensitivity_on_grid(measured, initial_loss),
        windowed=windowed_sensitivity(measured, initial_loss, center=advice.fit.lr) if best is not None else None,
        missing=missing,
        verified=verified,
        compared=compared_of(points, rates, advice.lr if advice.is_capped else math.nan),
        rates=rates,
        runs=counted,
    )


def _curve(runs: Sequence[Observed], full_steps: int | None) -> tuple[list[Observed], list[Observed], Runs]:
    """Return the runs of the curve, all that ended but those that verify, and how many others there are."""
    full = full_steps or max(one.planned_steps for one in runs)
    trials = [one for one in runs if one.purpose != VERIFY]
    ended = [one for one in trials if one.has_failed or one.status == "finished"]
    planned = [one.planned_steps for one in ended]
    length = full if not planned or 0 in planned or max(planned) >= full else max(planned)
    curve = [one for one in ended if one.planned_steps >= length or one.planned_steps == 0]
    unfinished = Counter(one.status for one in trials if one not in ended)
    return curve, ended, Runs(full, length, len(ended) - len(curve), dict(unfinished))


def _lowest(advice: Recommendation) -> LRPoint | None:
    """Return the lowest point of the parabola, where it is trusted: what is recommended, but for the edge."""
    return LRPoint(advice.uncapped, (advice.fit.loss,)) if advice.fit.is_vertex else None


def _expected(found: Fit, points: Sequence[LRPoint], lr: float) -> float:
    if math.isnan(lr):
        return math.nan
    low, high = found.window
    value = found.loss_at(lr) if found.is_vertex and low <= lr <= high else loss_at(points, lr)
    return value if math.isfinite(value) else math.nan


def _likely(verified: Verified | None, expected: float, points: Sequence[LRPoint], advice: Recommendation) -> float:
    """Return the loss to be expected at the recommendation, by the best evidence that there is."""
    best = best_of(points)
    if best is None:
        return math.nan
    fresh = verified.mean if verified is not None and verified.lr == advice.lr else math.nan
    found = (fresh, expected, loss_at(points, advice.lr, most_decades=math.inf))
    return next((loss for loss in found if math.isfinite(loss)), best.mean)
