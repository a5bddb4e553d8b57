"""Statistics of curves, and what an axis has to show of them: sequences of floats in, floats out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

Point = tuple[int, float]  # step and value

_LOG_DECADES = 1.5  # a range wider than this is drawn on a log scale
_FAR = 3.0  # widths of the bulk: beyond is off scale
_HUGE = 1e75  # no axis reaches further (or closer to 0 when logarithmic), so that its arithmetic stays finite


class AxisRange(NamedTuple):
    """What an axis shows: from `low` to `high`, in the unit of the values, on a log scale or not."""

    low: float
    high: float
    log: bool

    def shows(self, value: float) -> bool:
        """Return whether the value is finite and on the axis."""
        return self.low <= value <= self.high

    def clamp(self, values: Iterable[float]) -> list[float]:
        """Return the values, far-away ones moved to one range outside the axis and non-finite ones made nan."""
        low, high = self.low, self.high
        below, above = (low * (low / high), high * (high / low)) if self.log else (2 * low - high, 2 * high - low)
        return [min(max(v, below), above) if math.isfinite(v) else math.nan for v in values]

    def strays(self, steps: Sequence[int], values: Sequence[float]) -> tuple[list[Point], list[Point], list[Point]]:
        """Return the points above the axis, those below it, and those that are not finite."""
        points = [point for point in zip(steps, values, strict=True) if not self.shows(point[1])]
        above = [point for point in points if self.high < point[1] < math.inf]
        below = [point for point in points if self.low > point[1] > -math.inf]
        return above, below, [point for point in points if not math.isfinite(point[1])]


def ema(values: Sequence[float], *, decay: float) -> list[float]:
    """Smooth with an exponential moving average that is right from the first value on.

    v_i = decay * v_(i-1) + (1 - decay) * x_i with v_(-1) = 0, and the result is v_i / (1 - decay^(i+1)).
    Non-finite values are skipped: i counts the finite ones only, and in the place of a skipped value
    stands the average so far (nan before the first finite value).

    Args:
        values: x, in order.
        decay: weight of the past, unitless, in [0, 1); the average reaches back about 1 / (1 - decay) values.
    Returns:
        one average a value, in the unit of the values.
    Raises:
        ValueError: decay is outside [0, 1).
    Source: the bias correction of Kingma and Ba 2015, arXiv:1412.6980, section 3.
    """
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"decay: must be in [0, 1), got {decay}.")
    average, forgotten = math.nan, 1.0
    averages = []
    for value in values:
        if math.isfinite(value):
            started = forgotten < 1.0
            forgotten *= decay
            weight = (1.0 - decay) / (1.0 - forgotten)
            average = (1.0 - weight) * average + weight * value if started else value
        averages.append(average)
    return averages


def downsample(steps: Sequence[int], values: Sequence[float], *, most: int) -> tuple[list[int], list[float]]:
    """Thin a curve so that its picture stays the same: a spike or a gap never vanishes.

    The curve is cut into `most // 5` blocks of consecutive points; each keeps its first and last point,
    its smallest and largest finite value, and its first non-finite value. Order is kept.

    Args:
        steps: x, one a value.
        values: y, in order of x; non-finite values allowed.
        most: the largest number of points to return, at least 5.
    Returns:
        steps and values of the points kept; all of them when there are no more than `most`.
    Raises:
        ValueError: most < 5, or steps and values differ in length.
    """
    if most < 5:
        raise ValueError(f"most: must be >= 5, got {most}.")
    if len(steps) != len(values):
        raise ValueError(f"steps: must be as many as values, got {len(steps)} and {len(values)}.")
    count = len(values)
    if count <= most:
        return list(steps), list(values)
    blocks = most // 5
    kept: list[int] = []
    for block in range(blocks):
        start, stop = count * block // blocks, count * (block + 1) // blocks
        kept.extend(_outline(values, start, stop))
    return [steps[i] for i in kept], [values[i] for i in kept]


def axis_range(series: Iterable[Sequence[float]], *, log: bool | None = None) -> AxisRange:
    """Return the range in which all curves can be read, although a few values may be far away.

    It is the union of `robust_limits` of the curves and 5% more at either end.

    Args:
        series: curves that share the axis; non-finite values are left out.
        log: whether the axis is logarithmic; None for yes when the range is wider than 1.5 decades
            and no value is negative.
    Returns:
        the range; not logarithmic when no value is above 0; 0 to 1 when no value is finite.
    """
    curves = [[min(max(v, -_HUGE), _HUGE) for v in values if math.isfinite(v)] for values in series]
    if log is None:
        low, high = _union(curves, log=True)
        log = high > low * 10**_LOG_DECADES and all(v >= 0 for values in curves for v in values)
    low, high = _union(curves, log=log)
    if log and high > 0:
        low, high = max(low, 1 / _HUGE), max(high, 1 / _HUGE)
        room = max((high / low) ** 0.05, 1.05)
        return AxisRange(low / room, high * room, log=True)
    if not any(curves):
        return AxisRange(0.0, 1.0, log=False)
    low, high = _union(curves, log=False)
    room = max(0.05 * (high - low), 0.005 * max(abs(low), abs(high))) or 0.5
    return AxisRange(low - room, high + room, log=False)


def robust_limits(values: Sequence[float], *, log: bool = False) -> tuple[float, float] | None:
    """Return the smallest and the largest value that are not far out.

    On the scale of the axis (log10 when `log`) the bulk is [min(q25, z), max(q75, a)], where q are
    quartiles, a the median of the first five values and z that of the last five: the transient at the start
    belongs to the curve. Its width w counts as at least 0.15 decades (log) or 5% of its larger magnitude, and,
    since few values prove little, as at least 4 / n decades or magnitudes for n values.
    A value more than 3 w outside the bulk is far out. For normal noise this is beyond 4.7 standard deviations.

    Args:
        values: the curve, in order; non-finite values are left out, and with `log` those <= 0.
        log: whether the axis is logarithmic.
    Returns:
        (low, high), both of them among the values; None when no value is left.
    Source: the outer fences of Tukey 1977, Exploratory Data Analysis, with a bulk that knows of training.
    """
    shown = [v for v in values if math.isfinite(v) and (not log or v > 0)]
    if not shown:
        return None
    scaled = [math.log10(v) for v in shown] if log else shown
    ordered = sorted(scaled)
    last = len(ordered) - 1
    bottom = min(ordered[-(-last // 4)], _median(scaled[-5:]))
    top = max(ordered[last * 3 // 4], _median(scaled[:5]))
    least = max(0.15, 4 / len(shown)) if log else max(0.05, 4 / len(shown)) * max(abs(bottom), abs(top))
    width = max(top - bottom, least)
    near = [v for v, x in zip(shown, scaled, strict=True) if bottom - x <= _FAR * width and x - top <= _FAR * width]
    return min(near), max(near)


def roughness(values: Sequence[float]) -> float:
    """Return how much longer than its range the way of a curve is: sum |x_i - x_(i-1)| / (max x - min x).

    1 for a monotone curve, about n / 6 for n values of pure noise, 0 for a constant one. Values must be finite.
    """
    span = max(values, default=0.0) - min(values, default=0.0)
    return sum(abs(b - a) for a, b in pairwise(values)) / span if span > 0 else 0.0


def hugs_zero(values: Iterable[float], *, peak: float) -> bool:
    """Return whether over a third of the values above 0 lie under 1/30 of `peak`: a linear axis would hide them."""
    positive = [v for v in values if v > 0]
    return 3 * sum(v < peak / 30 for v in positive) > len(positive)


def spells(steps: Iterable[int], *, gap: float) -> list[tuple[int, int]]:
    """Group steps that follow each other closely.

    Args:
        steps: in any order.
        gap: steps at most this far apart belong together.
    Returns:
        (first, last) step of every group, in order.
    """
    groups: list[tuple[int, int]] = []
    for step in sorted(steps):
        if groups and step - groups[-1][1] <= gap:
            groups[-1] = (groups[-1][0], step)
        else:
            groups.append((step, step))
    return groups


def sparkline(values: Sequence[float], *, width: int, symbols: str) -> str:
    """Draw a curve as one line of text.

    The curve is cut into at most `width` blocks of consecutive values; each is drawn by the height of its median on
    the `axis_range` of all medians, and as "x" when a value in it is not finite.

    Args:
        values: in order; may be empty.
        width: the largest number of blocks, at least 1.
        symbols: from the lowest to the highest, one character each.
    """
    count = min(width, len(values))
    blocks = [values[len(values) * i // count : len(values) * (i + 1) // count] for i in range(count)]
    medians = [_median(block) if all(map(math.isfinite, block)) else math.nan for block in blocks]
    low, high, log = shown = axis_range([medians])
    scale = math.log if log else float
    heights = [(scale(v) - scale(low)) / (scale(high) - scale(low)) for v in shown.clamp(medians)]
    top = len(symbols) - 1
    return "".join("x" if h != h else symbols[min(max(int(h * len(symbols)), 0), top)] for h in heights)


def ticks(shown: AxisRange, *, most: int) -> list[float]:
    """Return round numbers on an axis, at most `most`.

    On a log axis of a decade or more: 1, 2 and 5 times the powers of ten, or only the powers, or every second,
    fifth, tenth ... of them, whichever is the first to fit. Else the multiples of the smallest fitting one of
    1, 2, 2.5 and 5 times a power of ten.
    """
    low, high, log = shown
    if log and high >= 10 * low:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for parts, stride in (((1, 2, 5), 1), *(((1,), stride) for stride in (1, 2, 5, 10, 20, 50, 100))):
            found = [part * 10.0**k for k in powers if k % stride == 0 for part in parts]
            found = [place for place in found if shown.shows(place)]
            if len(found) <= most:
                return found
    smallest = math.floor(math.log10((high - low) / most))
    for step in (part * 10.0**k for k in range(smallest, smallest + 3) for part in (1, 2, 2.5, 5)):
        count = range(math.ceil(low / step), math.floor(high / step) + 1)
        if len(count) <= most:
            break
    return [n * step for n in count]


def labels(places: Sequence[float]) -> list[str]:
    """Write the ticks of an axis with as few digits as are exact, with exponents when all are below 0.01."""
    near = 1e-3 * min((b - a for a, b in pairwise(places)), default=math.inf)
    plain = 1e-3 if max(map(abs, places), default=0.0) > 0.0099 else 1.0
    written = ([number(place, digits, plain) for place in places] for digits in range(2, 9))
    return next(
        (texts for texts in written if all(abs(float(t) - p) <= near for t, p in zip(texts, places, strict=True))),
        [number(place, 8, plain) for place in places],
    )


def number(value: float, digits: int = 3, plain: float = 1e-3) -> str:
    """Write a number as people write learning rates: 0.05, 3e-4, 1.2e6; below `plain` it gets an exponent.

    Numbers that are not finite are written inf, -inf and nan.
    """
    if not math.isfinite(value):
        return str(value)
    if value == 0 or plain <= abs(value) < 1e5:
        return f"{value:.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"


def _union(curves: Iterable[Sequence[float]], *, log: bool) -> tuple[float, float]:
    """Return the union of the robust limits of the curves; (0, 0) when none has any."""
    limits = [found for values in curves if (found := robust_limits(values, log=log))]
    return min((low for low, _ in limits), default=0.0), max((high for _, high in limits), default=0.0)


def _outline(values: Sequence[float], start: int, stop: int) -> list[int]:
    """Return, in order, the places of first, last, smallest, largest and first non-finite value of a block."""
    finite = [i for i in range(start, stop) if math.isfinite(values[i])]
    places = {start, stop - 1}
    if finite:
        places.add(min(finite, key=values.__getitem__))
        places.add(max(finite, key=values.__getitem__))
    if len(finite) < stop - start:
        places.add(next(i for i in range(start, stop) if not math.isfinite(values[i])))
    return sorted(places)


def _median(values: Sequence[float]) -> float:
    """Return the middle value (the lower one of two)."""
    return sorted(values)[(len(values) - 1) // 2]
