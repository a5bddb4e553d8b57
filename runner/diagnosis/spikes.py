"""Sudden rises of a loss above what the steps before it lead to expect."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from runner.trends import median, noise, ratio, spread

if TYPE_CHECKING:
    from runner.diagnosis.series import Series

WINDOW = 16  # blocks before it, the value itself excluded
BACK = 1 / 3  # of the rise: below that it has come back
_LEAST = 6  # blocks before a value that can be judged
_Z = 6.0
_FACTOR = math.log(1.3)
CALM_NORM = 3.0  # times the usual gradient norm: below that the step before did not lead to it
QUIET_NORM = 1.7  # below that nothing at all announced it
WILD_NORM = 10.0  # from here on it did
# z and share of the fall from the first loss to the lowest; one of the pairs must be exceeded
_MATERIAL = ((3.0, 10.0), (6.5, 2.5), (7.5, 0.4), (8.0, 0.25), (15.0, 0.08))
_FAR = 10.0  # standard deviations
AT_ONCE = 0.6  # of the rise
_TAIL = 0.98  # quantile of the z of all other values; above 2.5 their tails are heavy
_BURST = 4  # blocks in a row
_SOON = 8  # blocks from a batch on in which its damage shows
_EXPLODED = 20.0  # times the usual gradient norm
_BURST_WINDOW = 48  # blocks before them
_RATE_JUMP = 1.5  # of the learning rate: it is no wonder then


@dataclass(frozen=True, slots=True)
class Spike:
    """One sudden rise.

    Attributes:
        place: block where it begins.
        peak: block where it is highest.
        end: first block that is back, the number of blocks when none is.
        rise: of the peak above what was expected, on the log scale.
        share: of the peak above what was expected, of the fall from the first loss to the lowest.
        first_rise: of its first value, on the log scale.
        z: of its first value, in standard deviations of the noise before, fewer where tails are heavy.
        norm_before: gradient norm of the step before, times the usual one; None without norms.
        norm_at: that of its first block.
        lr_jumped: whether the learning rate had just risen by half.
        told: whether a detector warned of it.
        sure: the standard deviations that do not depend on tails: those of a burst, and of the detector.
        norm_jump: gradient norm at its first block over the usual one, where that was like none before; else 0.
        stands_high: whether four losses or more in a row stand above all before them, from the first to the last.
    """

    place: int
    peak: int
    end: int
    rise: float
    share: float
    first_rise: float
    z: float
    norm_before: float | None
    norm_at: float | None
    lr_jumped: bool
    told: bool = False
    sure: float = 0.0
    norm_jump: float = 0.0
    stands_high: bool = False

    @property
    def is_burst(self) -> bool:
        """Whether it stands high from its first loss to its last after no wild gradient, as spoiled batches do."""
        return self.stands_high and self.norm_before is not None and self.norm_before < CALM_NORM

    @property
    def is_gradual(self) -> bool:
        """Whether it grew step by step, as no single batch does: below four times and a third of the rise at first."""
        return not self.norm_jump and self.first_rise < min(math.log(4.0), BACK * self.rise)

    @property
    def was_unannounced(self) -> bool:
        """Whether nothing at all led to it: usual gradients, the same learning rate.

        A larger gradient did not lead to one that is 20 times larger still. Without norms: whether it is far out and
        most of it comes at once.
        """
        if self.lr_jumped:
            return False
        if self.norm_before is None or self.norm_at is None:
            return self.z > _FAR and self.first_rise > AT_ONCE * self.rise
        is_new = self.norm_before < CALM_NORM and self.norm_at > _EXPLODED * self.norm_before
        return self.norm_before < QUIET_NORM or is_new or self.is_burst

    @property
    def came_from_data(self) -> bool | None:
        """Whether the step before had a usual gradient, so that the batch made it; None without norms."""
        if self.lr_jumped:
            return False
        return None if self.norm_before is None else self.norm_before < CALM_NORM


def material(spikes: Iterable[Spike]) -> list[Spike]:
    """Return the spikes that stand out of heavy tails."""
    return [
        s
        for s in spikes
        if s.told
        or (s.norm_jump and s.share > _MATERIAL[3][1])
        or any(s.z > z and s.share > share for z, share in _MATERIAL)
    ]


def find_spikes(series: Series, told: Mapping[int, float] | None = None) -> list[Spike]:
    """Return the sudden rises, in order.

    A block is one when the largest loss in it is over 6 standard deviations and 1.3 times above the line through the
    16 blocks before (itself excluded, the slope of their halves taken off); the noise is the larger of that around
    this line and half that of the whole curve. It lasts until the loss is back within a third of its rise.

    It also is one where it and the three after it exceed all of the 48 before, at 3 standard deviations on average:
    independent values of any distribution do so in 1 of 270,000 places. And where the norm of the gradient is like none
    before (`_norm_jump`).

    Args:
        series: the curve.
        told: block -> standard deviations that a detector found there, which looks further back.
    """
    told = told or {}
    logs, highs = series.logs, series.high_logs
    least = max(noise(logs) / 2, 0.01)
    found: list[Spike] = []
    usual: list[float] = []
    i = _LEAST
    while i < len(logs):
        expected, around = _line(highs[max(0, i - WINDOW) : i])
        around, jump = max(around, least), _norm_jump(series, i)
        peak = max(range(i, min(i + _SOON, len(logs))), key=highs.__getitem__) if jump else i
        above = highs[peak] - expected
        z, burst = (highs[i] - expected) / around, _of_burst(highs, i, expected, around)
        low = expected + BACK * max(above, _FACTOR)
        end = next((j for j in range(peak + 1, len(logs)) if logs[j] < low), len(logs))
        sure = max(told.get(i, 0.0), burst if end - i <= _BURST_WINDOW else 0.0)  # a burst ends
        if (max(z, sure) <= _Z and not jump) or above <= _FACTOR:
            usual.append(z)
            i += 1
            continue
        peak = max(range(i, end), key=highs.__getitem__)
        spike = _from_steepest(series, _spike(series, i, peak, end, expected=expected, z=z), expected, around)
        is_told = any(place in told for place in range(i, spike.place + 1))
        at_once = spike.first_rise > AT_ONCE * spike.rise and min(highs[i:end]) > expected + BACK * spike.rise
        stands_high = at_once and burst > 0 and end - i <= _BURST_WINDOW
        found.append(replace(spike, sure=sure, norm_jump=jump, told=is_told, stands_high=stands_high))
        i = max(end, i + 1) + 1
    tail = sorted(usual)[int(_TAIL * len(usual))] if usual else 0.0
    judged = [replace(spike, z=max(spike.z / max(tail / 2.5, 1.0), spike.sure)) for spike in found]
    return [s for s in judged if s.z > _Z or s.told or s.norm_jump or (s.z > _Z / 2 and s.share > _MATERIAL[0][1])]


def _from_steepest(series: Series, spike: Spike, expected: float, around: float) -> Spike:
    """Return a spike that seems gradual as it begins where most of it comes at once, if only noise was up before."""
    highs = series.high_logs
    if not spike.is_gradual or spike.place == spike.peak:
        return spike
    place = max(range(spike.place + 1, spike.peak + 1), key=lambda i: highs[i] - highs[i - 1])
    if highs[place] - highs[place - 1] < AT_ONCE * spike.rise:
        return spike
    z = (highs[place] - expected) / around
    moved = _spike(series, place, spike.peak, spike.end, expected=expected, z=z)
    return spike if moved.came_from_data is False else moved


def _norm_jump(series: Series, place: int) -> float:
    """Return how many times the usual gradient norm that of a block is where no block before it was like that, else 0.

    20 times the median of the 48 before and five times all of them, after a usual one; the loss is 1.3 times its own
    median, and within eight blocks higher than in all of the 48: what a batch of another kind does.
    """
    norms, highs, before = series.high_norms, series.high_logs, max(0, place - _BURST_WINDOW)
    if not norms or place < _BURST_WINDOW or norms[place] < _EXPLODED * min(norms[before:place]):
        return 0.0
    usual = median(norms[before:place])
    jump = ratio(norms[place], usual)
    if jump < _EXPLODED or norms[place - 1] > QUIET_NORM * usual or 5 * max(norms[before:place]) > norms[place]:
        return 0.0
    is_up = highs[place] > median(highs[before:place]) + _FACTOR  # a gradient alone is no batch: it explodes
    return jump if is_up and max(highs[place : place + _SOON]) > max(highs[before:place]) else 0.0


def _of_burst(highs: list[float], place: int, expected: float, around: float) -> float:
    """Return the standard deviations of four values in a row that exceed all before them, 0 where they do not."""
    before, burst = highs[max(0, place - _BURST_WINDOW) : place], highs[place : place + _BURST]
    if len(before) < WINDOW or len(burst) < _BURST or min(burst) <= max(before):
        return 0.0
    z = (math.fsum(burst) / _BURST - expected) / around
    return z * math.sqrt(_BURST) if z > _Z / 2 else 0.0


def _line(before: list[float]) -> tuple[float, float]:
    """Return what comes next on the line through the medians of two halves, and the spread around it."""
    half = len(before) // 2
    slope = min((median(before[half:]) - median(before[:half])) / (len(before) - half), 0.0)
    flat = [value - slope * (place - len(before)) for place, value in enumerate(before)]
    return median(flat), spread(flat)


def _spike(series: Series, place: int, peak: int, end: int, *, expected: float, z: float) -> Spike:
    norms = series.norms
    usual = median(norms[max(0, place - WINDOW) : max(place - 1, 1)]) if norms else 0.0
    base = median(series.losses[max(0, place - WINDOW) : place])
    fall = max(series.losses[0], *series.losses[:5]) - min(series.losses)
    return Spike(
        place=place,
        peak=peak,
        end=end,
        rise=series.high_logs[peak] - expected,
        share=ratio(series.highs[peak] - base, fall),
        first_rise=series.high_logs[place] - expected,
        z=min(z, 1e9),
        norm_before=ratio(norms[place - 1], usual) if norms and usual > 0 else None,
        norm_at=ratio(norms[place], usual) if norms and usual > 0 else None,
        lr_jumped=_lr_jumped(series.lrs, place),
    )


def _lr_jumped(lrs: list[float] | None, place: int) -> bool:
    if not lrs:
        return False
    before = max(lrs[max(0, place - WINDOW) : max(place - 2, 1)])
    return lrs[place] > _RATE_JUMP * before or lrs[max(place - 1, 0)] > _RATE_JUMP * before
