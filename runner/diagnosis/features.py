"""Everything that the rules look at, from one pass over a curve."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from runner.diagnosis.curve import Curve, Known
from runner.diagnosis.ends import Ending
from runner.diagnosis.exits import Exit, find_exit
from runner.diagnosis.series import Series, read_series
from runner.diagnosis.shape import Shape, read_shape
from runner.diagnosis.spikes import Spike, find_spikes, material
from runner.records import Action, Alarm
from runner.trends import FEW, median, ratio

OF_THE_RATE = ("divergence", "blow_up", "grad_explosion")  # detectors that ring where steps are too long
WANDER = 0.08  # of the first loss: rises from level to level that no healthy run of ours showed
LOST = 0.1  # of the gain in held-out loss: what a wild run loses; one that overfits loses it step by step
LEARNED = 0.15  # nats below the prior entropy: less is nothing learned
NEAR_PRIOR = 0.05  # of the prior entropy
_LONG = 16
_FEW_SPIKES = 3  # more are no single batches
_LEFT = 0.02  # of the first loss
_FAR_OFF = 1.5  # times the lowest held-out loss; 1.32 in the worst healthy run of ours
_GIVEN_BACK = 0.25  # of the fall of the loss
_FAR_ABOVE = 1.5  # times the prior entropy
_HELD = 0.9  # of the peak
_WELL = 0.2  # of the first loss
_RISING = 0.7  # of the peak: a learning rate that was below that for the first 60% rises late
_EXPLODED = 10.0  # times the usual gradient norm


@dataclass(frozen=True, slots=True)
class Norms:
    """Gradient norms, in multiples of what was usual.

    Attributes:
        exploded: steps over 10 times the median of the 16 before.
        before_end: the last norm over the median of the 16 before the last three.
    """

    exploded: list[int]
    before_end: float


@dataclass(frozen=True, slots=True)
class Rates:
    """Learning rates.

    Attributes:
        peak: highest.
        end: last over highest.
        before: highest of the first 60% over the highest: below 1 it rises late.
        peak_at: where it first reaches its highest, as a share of the curve.
    """

    peak: float
    end: float
    before: float
    peak_at: float


@dataclass(frozen=True, slots=True)
class Evals:
    """Loss on held-out data, without the evaluations that were not finite.

    Attributes:
        count: how many.
        best: lowest.
        best_step: its step.
        last: median of the last three.
        final: the last one.
        worse: last / best - 1, on the scale of the loss.
        given_back: (last - best) / (first loss - best), the share of the gain that is lost again; 1 without a gain.
        best_at: where the best one was, as a share of the evaluations.
    """

    count: int
    best: float
    best_step: int
    last: float
    final: float
    worse: float
    given_back: float
    best_at: float

    @property
    def ends_far_off(self) -> bool:
        """Whether the last one is far above the lowest."""
        return self.best > 0 and self.final >= _FAR_OFF * self.best


@dataclass(frozen=True, slots=True)
class Features:
    """What a curve shows, before anybody says why.

    Attributes beside those of their own classes:
        clipped: share of the steps whose gradient was clipped; None when unknown.
        log_z: step and size of the largest |log sum exp| of the outputs, in nats; None when not measured.
    """

    series: Series
    shape: Shape
    ending: Ending | None
    way_out: Exit | None
    spikes: list[Spike]
    norms: Norms | None
    rates: Rates | None
    evals: Evals | None
    clipped: float | None
    log_z: tuple[int, float] | None
    alarms: Sequence[Alarm]
    actions: Sequence[Action]
    known: Known

    @property
    def rests_at_prior(self) -> bool:
        """Whether the loss rests where a model rests that has learned only how frequent the targets are."""
        prior, shape = self.known.prior_entropy, self.shape
        if self.ending is not None or prior is None or prior <= 0 or shape.count < FEW:
            return False
        near = abs(shape.end - prior) <= max(NEAR_PRIOR * prior, 0.02)
        return near and abs(shape.tail_slope) < max(0.05, 3 * shape.tail_error) and shape.late_fall < 4

    @property
    def never_learned(self) -> bool:
        """Whether the loss never was clearly below the prior entropy."""
        prior, shape = self.known.prior_entropy, self.shape
        if self.ending is not None or prior is None or prior <= 0 or shape.count < FEW:
            return False
        return shape.long_low > prior - LEARNED

    @property
    def is_far_above_prior(self) -> bool:
        """Whether the loss ends well above what a model has that has learned only how frequent the targets are."""
        prior = self.known.prior_entropy
        return prior is not None and self.shape.end > _FAR_ABOVE * prior > 0

    @property
    def was_wild(self) -> bool:
        """Whether the loss was clearly above the first one, for a moment or often."""
        return self.shape.over_first > 0.05 or self.shape.above_first > 0.1

    @property
    def warned_of_rate(self) -> bool:
        """Whether a detector rang that rings where the steps are too long."""
        return any(alarm.detector in OF_THE_RATE and alarm.severity != "info" for alarm in self.alarms)

    @property
    def rises_late(self) -> bool:
        """Whether the learning rate is highest near the end of a run that is mostly done."""
        rates = self.rates
        return rates is not None and self.is_mostly_done and rates.before < _RISING and rates.peak_at > 0.6

    @property
    def is_mostly_done(self) -> bool:
        """Whether more than half of the planned steps are there, as far as that is known."""
        return self.share(len(self.series) - 1) > 0.5

    @property
    def gave_up_late(self) -> bool:
        """Whether a loss that was learned well and calmly is lost again at a learning rate that is held to the end."""
        shape, evals = self.shape, self.evals
        if self.rates is None or self.rates.end < _HELD or self.ending is not None:
            return False
        learned = shape.long_low < _WELL * shape.first and shape.early_wander < 2 * WANDER
        return learned and (shape.given_back > _GIVEN_BACK or (evals is not None and evals.ends_far_off))

    def step(self, place: int) -> int:
        """Return the step where what a block shows begins."""
        return self.series.begins(self._within(place))

    def share(self, place: int) -> float:
        """Return where a block is, as a share of the run: planned where that is known, else recorded."""
        first, last = self.series.steps[0], self.series.steps[-1]
        total = max(last - first, (self.known.total_steps or 0) - 1 - first, 1)
        return (self.series.steps[self._within(place)] - first) / total

    def _within(self, place: int) -> int:
        return min(max(place, 0), len(self.series) - 1)


def read_features(curve: Curve) -> Features | None:
    """Return what a curve shows; None when no loss is finite."""
    series, ending = read_series(curve)
    if not len(series):
        return None
    spikes = find_spikes(series, _told(curve, series, ending))
    shape = read_shape(series, spikes)
    return Features(
        series=series,
        shape=shape,
        ending=ending,
        way_out=find_exit(series, shape),
        spikes=spikes,
        norms=_norms(series),
        rates=_rates(series),
        evals=_evals(curve),
        clipped=math.fsum(series.clipped) / len(series) if series.clipped else None,
        log_z=_log_z(curve, ending),
        alarms=curve.alarms,
        actions=curve.actions,
        known=curve.known,
    )


def came_back_to_prior(f: Features) -> bool:
    """Whether the loss had left the prior entropy downwards, went far up, and gave back what it had gained."""
    shape = f.shape
    gained = shape.first - shape.low > _LEFT * abs(shape.first)
    return gained and shape.given_back > 0.5 and shape.over_first > 0.1


def before_bad_batch(f: Features) -> Features | None:
    """Return what a curve shows up to its largest jump that nothing led to; None where there is no such jump."""
    sudden = material(f.spikes)
    batches = [s for s in sudden if s.was_unannounced and not s.is_gradual and s.place >= _LONG]
    if not batches or len(sudden) > _FEW_SPIKES or f.rises_late:
        return None
    place = max(batches, key=lambda spike: spike.rise).place
    if any(spike.place < place and spike.came_from_data is False for spike in sudden):
        return None
    series = f.series.until(place)
    spikes = [spike for spike in f.spikes if spike.end <= place]
    shape = read_shape(series, spikes)
    log_z = f.log_z if f.log_z is not None and f.log_z[0] < f.series.steps[place] else None
    return replace(
        f, series=series, shape=shape, spikes=spikes, ending=None, way_out=None, evals=None, log_z=log_z, alarms=()
    )  # fmt: skip


def _told(curve: Curve, series: Series, ending: Ending | None) -> dict[int, float]:
    """Return block -> standard deviations of the largest spike in it that a detector warned of."""
    told: dict[int, float] = {}
    end = math.inf if ending is None else ending.step
    for alarm in curve.alarms:
        if alarm.detector == "loss_spike" and alarm.severity == "warn" and alarm.step < end:
            place = bisect_right(series.steps, alarm.step) - 1
            told[place] = max(told.get(place, 0.0), alarm.evidence.get("z", 0.0))
    return told


def _log_z(curve: Curve, ending: Ending | None) -> tuple[int, float] | None:
    points = [(step, abs(value)) for step, value in curve.signals.get("log_z", ()) if math.isfinite(value)]
    if ending is not None:
        points = [(step, value) for step, value in points if step < ending.step]
    return max(points, key=lambda point: point[1], default=None)


def _norms(series: Series) -> Norms | None:
    norms, highs = series.norms, series.high_norms
    if not norms or highs is None or not any(norms):
        return None
    exploded = []
    for i in range(6, len(norms)):
        usual = median(norms[max(0, i - _LONG) : i])
        if highs[i] > _EXPLODED * usual > 0:
            exploded.append(i)
    before = median(norms[-_LONG - 3 : -3])
    return Norms(
        exploded=exploded,
        before_end=ratio(highs[-1], before) if before > 0 else 1.0,
    )


def _rates(series: Series) -> Rates | None:
    lrs = series.lrs
    if not lrs or not max(lrs) > 0:
        return None
    peak = max(lrs)
    return Rates(
        peak=peak,
        end=lrs[-1] / peak,
        before=max(lrs[: max(int(0.6 * len(lrs)), 1)]) / peak,
        peak_at=next(i for i, lr in enumerate(lrs) if lr >= 0.999 * peak) / max(len(lrs) - 1, 1),
    )


def _evals(curve: Curve) -> Evals | None:
    finite = [(step, loss) for step, loss in curve.evals if math.isfinite(loss)]
    if len(finite) < 3:
        return None
    losses = [loss for _, loss in finite]
    smooth = [median(losses[max(0, i - 1) : i + 2]) for i in range(len(losses))]
    place = min(range(len(smooth)), key=smooth.__getitem__)
    best, last = smooth[place], median(losses[-3:])
    begin = max(losses[0], curve.losses[0]) if math.isfinite(curve.losses[0]) else losses[0]
    return Evals(
        count=len(losses),
        best=best,
        best_step=finite[place][0],
        last=last,
        final=losses[-1],
        worse=ratio(last - best, abs(best)),
        given_back=ratio(last - best, begin - best) if begin > best else float(last > best),
        best_at=place / (len(losses) - 1),
    )
