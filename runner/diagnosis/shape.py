"""The shape of a whole curve: where it starts, how low it gets, what it gives back, how it ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from runner.trends import FEW, median, medians, noise, persistence, ratio, trend

if TYPE_CHECKING:
    from runner.diagnosis.series import Series
    from runner.diagnosis.spikes import Spike

BLOCKS = 40
_TAIL = 0.3  # of the run
_LATE = 0.1
_TO_THE_END = 0.9  # of the run
_JUMP = 3.0  # times the first loss: no noise, but the first update
_NOISY = 0.05  # noise, of the first loss: above it that is no level by itself
_MEDIAN_ERROR = 1.25 * math.sqrt(2.0)  # of the difference of two medians, times noise / sqrt(values)
BEYOND_NOISE = math.log(100.0)  # over the median of all: whatever the order of the values says, that is no noise
_NOISE_REACHES = 6.0  # standard deviations


@dataclass(frozen=True, slots=True)
class Shape:
    """Robust statistics of the finite part of a curve. Losses in their own unit, shares of the first loss.

    Attributes:
        count: blocks that there are.
        levels: medians of at most 40 parts.
        first: first loss.
        low: lowest of the levels.
        low_at: where, as a share of the curve, in [0, 1].
        end: median of the last tenth.
        long_low: lowest of the medians of 16 parts, which a short dip does not reach.
        given_back: (end - low) / (first - low) beyond the noise, 0 at the lowest, 1 back at the first loss.
        fall: (first - end) / |first|.
        noise: standard deviation of the noise, share of the first loss.
        log_noise: that of the logarithm.
        over_first: ln of the highest loss over the first one, 0 where that is within the noise or was a bad batch.
        over_first_at: where that is, as a share of the curve.
        above_first: share of the curve that lies above the first loss, beyond the noise.
        last_above: where it was last above the first loss, as a share of the curve; 0 when never.
        wander: sum of the rises from level to level beyond noise, share of the first loss; without the spikes that
            came from data.
        rises: how many of them there are.
        early_wander: the part of it in the first 60%.
        late_wander: the part in the last 40%, as far as it is beyond the noise there.
        ups: share of steps that raise the loss.
        over_usual: ln of the highest loss over the median of all; 0 where they are not positive.
        is_noise: whether the order of the values says nothing: neighbours are no more alike than others.
        tail_slope: change of the logarithm over a run at the pace of the last 30%.
        tail_error: its standard error.
        late_fall: fall of the level over the last 60%, in standard errors.
        half_done: share of the whole fall made in the first half (of the sum of learning rates where known).
        moved: (first level - last level) in standard errors of the levels.
    """

    count: int
    levels: list[float]
    first: float
    low: float
    low_at: float
    end: float
    long_low: float
    given_back: float
    fall: float
    noise: float
    log_noise: float
    over_first: float
    over_first_at: float
    above_first: float
    last_above: float
    wander: float
    rises: int
    early_wander: float
    late_wander: float
    ups: float
    over_usual: float
    is_noise: bool
    tail_slope: float
    tail_error: float
    late_fall: float
    half_done: float
    moved: float


def _first(losses: Sequence[float], around: float) -> float:
    """Return the first loss, or the level of the first ones where they are noisy and it is no far jump from there."""
    level = median(losses[: max(3, len(losses) // BLOCKS)])
    return losses[0] if around < _NOISY * abs(losses[0]) or 0 < _JUMP * losses[0] < level else level


def read_shape(series: Series, spikes: Sequence[Spike] = ()) -> Shape:
    """Return the shape of a curve of at least one value, given its spikes."""
    losses, logs, count = series.losses, series.logs, len(series)
    levels = medians(losses, count=BLOCKS if count >= 3 * BLOCKS else max(count // 3, min(count, FEW)))
    low = min(levels)
    end = median(losses[-max(1, int(_LATE * count)) :])
    around = noise(losses)
    first = _first(losses, around)
    size = abs(first) or 1.0
    calm = _without(losses, [spike for spike in spikes if spike.was_unannounced])
    top = max(range(count), key=calm.__getitem__)
    over = _beyond_tails([loss > first + 3 * around + 0.02 * size for loss in calm])
    error = _MEDIAN_ERROR * around / math.sqrt(max(count / len(levels), 1))
    rises = [ratio(max(b - a - 3 * error, 0.0), size) for a, b in pairwise(medians(calm, count=len(levels)))]
    turn = int(0.6 * len(rises))
    late = [ratio(rise, size) for rise in _rises(calm, len(levels))][turn:]
    tail = medians(logs[-max(3, int(_TAIL * count)) :], count=12)
    slope, slope_error = trend(tail)
    middle = median(losses)
    usual = math.log(max(calm[top] / middle, 1.0)) if middle > 0 else 0.0
    pace = len(tail) / (_TAIL if count > FEW else 1.0)
    return Shape(
        count=count,
        levels=levels,
        first=first,
        low=low,
        low_at=levels.index(low) / max(len(levels) - 1, 1),
        end=end,
        long_low=min(medians(losses, count=16)),
        given_back=ratio(max(end - low - 2 * error, 0.0), first - low),
        fall=ratio(first - end, size),
        noise=ratio(around, size),
        log_noise=noise(logs),
        over_first=_over(calm[top], first, around=around),
        over_first_at=top / max(count - 1, 1),
        above_first=sum(over) / count,
        last_above=max((i for i, is_over in enumerate(over) if is_over), default=0) / max(count - 1, 1),
        wander=min(math.fsum(rises), 1e9),
        rises=sum(rise > 0 for rise in rises),
        early_wander=min(math.fsum(rises[:turn]), 1e9),
        late_wander=min(math.fsum(map(min, late, rises[turn:])), 1e9),
        ups=sum(b > a for a, b in pairwise(losses)) / max(count - 1, 1),
        over_usual=usual,
        is_noise=count >= FEW and usual < BEYOND_NOISE and persistence(losses) < 3 / math.sqrt(count),
        tail_slope=slope * pace,
        tail_error=slope_error * pace,
        late_fall=_late_fall(levels),
        half_done=_half_done(series, first, end),
        moved=_moved(levels),
    )


def _beyond_tails(flags: list[bool]) -> list[bool]:
    """Return none where they come one by one to the very end: batches with heavy tails, whatever the rate has become.

    Of independent ones, pairs of neighbours number about count^2 / steps.
    """
    count, steps = sum(flags), len(flags)
    pairs = sum(a and b for a, b in pairwise(flags))
    chance = count * count / max(steps, 1)
    if any(flags[int(_TO_THE_END * steps) :]) and pairs <= chance + 2 * math.sqrt(chance) + 1:
        return [False] * steps
    return flags


def _rises(losses: list[float], count: int) -> list[float]:
    """Return by how much each level is above the one before, beyond 3 standard errors of the noise there."""
    levels, total = medians(losses, count=count), len(losses)
    found = []
    for i, (before, after) in enumerate(pairwise(levels)):
        here = losses[max(total * (i - 1) // count, 0) : total * (i + 3) // count]
        error = _MEDIAN_ERROR * noise(here) / math.sqrt(max(total / count, 1))
        found.append(max(after - before - 3 * error, 0.0))
    return found


def _over(highest: float, first: float, *, around: float) -> float:
    """Return the logarithm of the highest over the first loss; for losses that have none, that of 1 + the rise."""
    if highest - first <= _NOISE_REACHES * around or highest <= first:
        return 0.0
    return math.log(highest / first) if first > 0 else math.log1p((highest - first) / (abs(first) or 1.0))


def _without(losses: list[float], spikes: Sequence[Spike]) -> list[float]:
    """Return the losses with those of the spikes replaced by the one before."""
    found = list(losses)
    for spike in spikes:
        found[spike.place : spike.end] = [found[max(spike.place - 1, 0)]] * (spike.end - spike.place)
    return found


def _half_done(series: Series, first: float, end: float) -> float:
    """Return the share of the fall from the first loss to the end made by half of the sum of learning rates."""
    rates = series.lrs or [1.0] * len(series)
    if not first > end or not all(0 <= rate < math.inf for rate in rates) or not any(rates):
        return math.nan
    half, done, place = math.fsum(rates) / 2, 0.0, 0
    while done < half and place < len(rates):
        done += rates[place]
        place += 1
    width = max(len(series) // 40, 1)
    return (first - median(series.losses[max(0, place - width) : place + width])) / (first - end)


def _late_fall(levels: list[float]) -> float:
    slope, error = trend(levels[int(0.4 * len(levels)) :])
    return min(max(-slope / error, -1e9), 1e9) if error > 0 else 0.0


def _moved(levels: list[float]) -> float:
    """Return the fall from the first to the last fifth in standard errors, from the noise of the levels."""
    part = max(len(levels) // 5, 1)
    error = noise(levels) * math.sqrt(2 / part)
    change = median(levels[:part]) - median(levels[-part:])
    return min(max(change / error, -1e9), 1e9) if error > 0 else math.copysign(1e9, change) if change else 0.0
