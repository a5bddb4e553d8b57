"""The finite part of a curve, reduced to what a diagnosis can look at in milliseconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from runner.diagnosis.ends import Ending, broken_end
from runner.trends import median

if TYPE_CHECKING:
    from runner.diagnosis.curve import Curve

MOST = 2000  # blocks
_SAMPLE = 32  # values of a long block that its median is taken of, evenly spaced; its maximum is that of all
_LARGEST = 1e100  # larger numbers count as this, so that sums and squares stay finite
_COLUMNS = ("steps", "losses", "highs", "logs", "high_logs", "lrs", "norms", "high_norms", "clipped")
_RISE = math.log(1.3)  # above the blocks before: there something begins
_NORM_RISE = 3.0  # times the gradient norms before
_BEFORE = 3  # blocks
_SPORADIC = 0.8  # finite values after the first that is not: from this share on it is a hole, not the end


@dataclass(frozen=True, slots=True)
class Hole:
    """Losses in a row that are no numbers, before which or after which the curve has some.

    Attributes:
        first: step of the first.
        last: step of the last.
        count: how many.
        value: of the first.
    """

    first: int
    last: int
    count: int
    value: float


@dataclass(frozen=True, slots=True)
class Rows:
    """What blocks are made of.

    Attributes:
        size: rows a block.
        steps: of the rows.
        losses: of the rows.
        norms: their gradient norms, nan where not finite; empty where not recorded.
        scale: 0 for logarithms, else what asinh divides by.
    """

    size: int
    steps: list[int]
    losses: list[float]
    norms: list[float]
    scale: float


@dataclass(frozen=True, slots=True)
class Series:
    """Blocks of consecutive steps up to where the loss stops being finite; blocks of one unless there are many.

    Attributes:
        block: values a block, those included that a reader left out.
        steps: first step of each block.
        losses: median loss of the block.
        highs: largest loss of the block.
        logs: losses on a scale on which factors count: ln loss, or asinh(loss / median |loss|) where some are <= 0.
        high_logs: highs on that scale.
        lrs: learning rate in its middle, the last finite one where it is no number; None when none is recorded.
        norms: median gradient norm; None when not recorded.
        high_norms: largest gradient norm.
        clipped: share of clipped steps; None when unknown.
        holes: non-finite losses that the curve came back from; the scale of fp16 makes gradients overflow, no loss.
        rows: what the blocks are made of.
    """

    block: int
    steps: list[int]
    losses: list[float]
    highs: list[float]
    logs: list[float]
    high_logs: list[float]
    lrs: list[float] | None
    norms: list[float] | None
    high_norms: list[float] | None
    clipped: list[float] | None
    holes: list[Hole]
    rows: Rows

    def __len__(self) -> int:
        return len(self.steps)

    def until(self, place: int) -> Series:
        """Return the blocks before a place."""
        cut = {name: getattr(self, name) for name in _COLUMNS}
        return replace(self, **{name: values[:place] for name, values in cut.items() if values is not None})

    def begins(self, place: int) -> int:
        """Return the step of a block where what sets it apart from the three before begins.

        That of the first loss over 1.3 times theirs, else of the largest gradient norm over 3 times theirs, else of
        the largest loss where it is larger than theirs; the first step of the block where nothing sets it apart.
        """
        first, end = self._span(place)
        before = slice(max(place - _BEFORE, 0), place)
        if end - first <= 1 or not self.high_logs[before]:
            return self.steps[place]
        rows, usual = self.rows, max(self.high_logs[before])
        if self.high_logs[place] > usual + _RISE:
            logs = _logs(rows.losses[first:end], rows.scale)
            return rows.steps[first + next(i for i, log in enumerate(logs) if log > usual + _RISE)]
        if self.high_norms and self.high_norms[place] > _NORM_RISE * max(self.high_norms[before]):
            return rows.steps[rows.norms.index(self.high_norms[place], first)]
        if self.high_logs[place] > usual:
            return rows.steps[rows.losses.index(self.highs[place], first)]
        return self.steps[place]

    def ends(self, place: int) -> int:
        """Return the last step of a block, that of its last loss over 1.3 times the next one where it falls to that."""
        first, end = self._span(place)
        rows, after = self.rows, self.high_logs[place + 1 : place + 2]
        if after and self.high_logs[place] > after[0] + _RISE:
            logs = _logs(rows.losses[first:end], rows.scale)
            return rows.steps[first + max(i for i, log in enumerate(logs) if log > after[0] + _RISE)]
        return rows.steps[end - 1]

    def _span(self, place: int) -> tuple[int, int]:
        first = place * self.rows.size
        return first, min(first + self.rows.size, len(self.rows.steps))


def read_series(curve: Curve) -> tuple[Series, Ending | None]:
    """Return the finite part of a curve, and where it ends when it does not reach the last step.

    Losses that are no numbers are holes where the curve begins with them, or comes back from them for good; else the
    first of them is the end.
    """
    count, losses = len(curve.losses), curve.losses
    places: Sequence[int] = range(count)
    cut, holes = count, []
    if not math.isfinite(sum(losses)):
        places = [i for i, loss in enumerate(losses) if math.isfinite(loss)]
        begin = places[0] if places else count
        first = begin + next((i for i, place in enumerate(places) if place != begin + i), len(places))
        cut = places[-1] + 1 if places else 0
        if len(places) - (first - begin) < _SPORADIC * (cut - first):
            cut, places = first, places[: first - begin]
        holes = _holes(curve, [i for i in range(cut) if not math.isfinite(losses[i])])
    ending = None
    if cut < count:
        ending = Ending(len(places), curve.steps[cut], "loss", losses[cut])
    elif places:
        places, ending = broken_end(curve, places)
    return _reduced(curve, places, holes), ending


def _holes(curve: Curve, places: Sequence[int]) -> list[Hole]:
    found: list[Hole] = []
    latest = -2
    for i in places:
        if i == latest + 1:
            found[-1] = replace(found[-1], last=curve.steps[i], count=found[-1].count + 1)
        else:
            found.append(Hole(curve.steps[i], curve.steps[i], 1, curve.losses[i]))
        latest = i
    return found


def _reduced(curve: Curve, places: Sequence[int], holes: list[Hole]) -> Series:
    size = -(-len(places) // MOST) or 1
    starts = range(0, len(places), size)
    losses = _column(curve.losses, places)
    scale = _scale(losses)
    lrs, norms = _filled(_column(curve.lrs, places)), _column(curve.grad_norms, places)
    clipped = _column(curve.clipped, places)
    middles, highs = _middles(losses, starts, size)
    usual, high_norms = _middles(norms, starts, size)
    return Series(
        block=round(size * curve.thinned),
        steps=[curve.steps[places[i]] for i in starts],
        losses=middles,
        highs=highs,
        logs=_logs(middles, scale),
        high_logs=_logs(highs, scale),
        lrs=[lrs[min(i + size // 2, len(lrs) - 1)] for i in starts] if lrs else None,
        norms=usual or None,
        high_norms=high_norms or None,
        clipped=[math.fsum(clipped[i : i + size]) / len(clipped[i : i + size]) for i in starts] if clipped else None,
        holes=holes,
        rows=Rows(size, [curve.steps[i] for i in places], losses, norms, scale),
    )


def _column(values: Sequence[float] | None, places: Sequence[int]) -> list[float]:
    """Return the values at the places; too large ones are cut, nan stands for all that are not finite."""
    if values is None:
        return []
    kept = list(values) if len(places) == len(values) else [values[i] for i in places]
    if kept and math.isfinite(sum(kept)) and min(kept) >= -_LARGEST and max(kept) <= _LARGEST:
        return kept
    return [min(max(value, -_LARGEST), _LARGEST) if math.isfinite(value) else math.nan for value in kept]


def _filled(values: list[float]) -> list[float]:
    """Return the values with the last finite one in place of nan, the first finite one before it; none of only nan."""
    latest = next((value for value in values if math.isfinite(value)), None)
    if latest is None:
        return []
    filled = []
    for value in values:
        latest = value if math.isfinite(value) else latest
        filled.append(latest)
    return filled


def _middles(values: list[float], starts: range, size: int) -> tuple[list[float], list[float]]:
    """Return median and maximum of the finite values of each block; those of the one before where it has none."""
    if not values:
        return [], []
    has_holes = not math.isfinite(sum(values))
    middles, highs = [0.0], [0.0]
    for i in starts:
        block = values[i : i + size]
        if has_holes:
            block = [value for value in block if math.isfinite(value)] or [middles[-1]]
        middles.append(median(block[:: -(-size // _SAMPLE)]) if size > 1 else block[0])
        highs.append(max(block))
    return middles[1:], highs[1:]


def _scale(losses: list[float]) -> float:
    """Return 0 for logarithms, else what asinh divides by."""
    if not losses or min(losses) > 0:
        return 0.0
    return max(median([abs(loss) for loss in losses]) or max(abs(loss) for loss in losses), 1e-100)


def _logs(losses: list[float], scale: float) -> list[float]:
    if scale == 0:
        return [math.log(loss) for loss in losses]
    return [math.asinh(min(max(loss / scale, -_LARGEST), _LARGEST)) for loss in losses]
