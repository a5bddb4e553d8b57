"""What libraries suggest as learning rate after a ramp, by their exact procedures; none of them is an answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from runner.curves import ema
from runner.finding.ramp import Floats

_DECAY = 0.98  # of the average that fastai and Lightning smooth with
_SLIDE_POINTS, _SLIDE_GAIN = 15, 0.005  # fastai's lr_diff and thresh
_SKIP_BEGIN, _SKIP_END = 10, 1  # points that Lightning leaves out


def steep(lrs: Floats, losses: Floats) -> float:
    """Return the rate at argmin (l[i+1] - l[i]) / (ln lr[i+1] - ln lr[i]).

    Source: fastai, callback/schedule.py.
    """
    points = list(zip(lrs, losses, strict=True))
    slopes = [(b - a) / (math.log(y) - math.log(x)) for (x, a), (y, b) in pairwise(points)]
    return lrs[slopes.index(min(slopes))]


def minimum(lrs: Floats, losses: Floats) -> float:
    """Return a tenth of the rate of the lowest loss.

    Source: fastai, callback/schedule.py.
    """
    return lrs[list(losses).index(min(losses))] / 10


def valley(lrs: Floats, losses: Floats) -> float:
    """Return the rate half-way along the longest strictly falling subsequence, a third of its length from its end.

    With L its length and e the place where it ends: b = e - L, s = int((e - b) / 3), place = b + s + int((e - b) / 6).
    b is the place before its first member only when it skips none, and may be -1.

    Source: fastai, callback/schedule.py (an idea of ESRI).
    """
    longest = [1] * len(losses)
    end = 0
    for i, loss in enumerate(losses):
        longest[i] = 1 + max((longest[j] for j in range(i) if losses[j] > loss), default=0)
        if longest[i] > longest[end]:
            end = i
    begin = end - longest[end] if end else 0
    section = (end - begin) / 3
    return lrs[begin + int(section) + int(section / 2)]


def slide(lrs: Floats, losses: Floats) -> float:
    """Return the lower rate of two points 15 apart, slid down from the end while their slopes differ by over 0.005.

    Slopes are a point, not a decade, and the threshold is in the unit of the loss.

    Source: fastai, callback/schedule.py (an idea of Novetta).
    """
    slopes = gradient(losses, range(len(losses)))
    right, left = len(losses) - 1, len(losses) - 1 - _SLIDE_POINTS
    kept = lrs[max(left, 0)]
    while left >= 0 and abs(slopes[right] - slopes[left]) > _SLIDE_GAIN:
        kept = lrs[left]
        right, left = right - 1, left - 1
    return kept


def lightning(lrs: Floats, losses: Floats) -> float:
    """Return the rate where the loss falls most steeply over the rate itself, not its logarithm.

    On a ramp of equal ratios that is nearly always one of the lowest rates: the same noise over a smaller step.

    Source: Lightning 2.5.3 and later, tuner/lr_finder.py, without the points that it leaves out at either end.
    """
    slopes = gradient(losses, lrs)
    return lrs[slopes.index(min(slopes))]


RULES: dict[str, Callable[[Floats, Floats], float]] = {
    "valley": valley,
    "minimum/10": minimum,
    "steep": steep,
    "slide": slide,
    "lightning": lightning,
}
"""name -> rule: lrs and losses, at least two and finite -> learning rate"""


def gradient(values: Floats, places: Floats) -> list[float]:
    """Return the derivative at every place: to second order inside, to first order at both ends.

    With h the step to the left and k that to the right: (h^2 f(x+k) - k^2 f(x-h) + (k^2 - h^2) f(x)) / (h k (h + k)).

    Args:
        values: f, at least two.
        places: x, strictly rising, one a value.
    Source: numpy.gradient and torch.gradient.
    """
    steps = [b - a for a, b in pairwise(places)]
    ends = [(b - a) / h for (a, b), h in zip(pairwise(values), steps, strict=True)]
    inside = [
        (h * ends[i + 1] + k * ends[i]) / (h + k)  # the same, by the slopes to either side
        for i, (h, k) in enumerate(pairwise(steps))
    ]
    return [ends[0], *inside, ends[-1]]


def as_fastai(lrs: Floats, losses: Floats, *, planned_steps: int) -> dict[str, float]:
    """Return what fastai's `lr_find` suggests: rule -> learning rate; {} where it has too few points.

    It smooths with an average of decay 0.98, and leaves out the first tenth of the planned points, the last five and
    what follows a loss that is no number.

    Args:
        lrs, losses: of the ramp, in order, up to where it was stopped; losses as they were recorded.
        planned_steps: length of the ramp without that.
    Source: fastai, callback/schedule.py.
    """
    cut = slice(planned_steps // 10, -5)
    lost = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), len(losses))
    smoothed = [*ema(losses[:lost], decay=_DECAY), *losses[lost:]][cut]
    kept = smoothed[: max(lost - planned_steps // 10, 0)]
    if len(kept) < 2:
        return {}
    rates = lrs[cut][: len(kept)]
    return {name: RULES[name](rates, kept) for name in ("valley", "minimum/10", "steep", "slide")}


def as_lightning(lrs: Floats, losses: Floats) -> float | None:
    """Return what Lightning's `lr_find` suggests; None where it has too few points.

    It smooths with an average of decay 0.98 whose correction counts one value too many, and leaves out the first ten
    points, the last one and the losses that are no number.

    Args:
        lrs, losses: of the ramp, in order; losses as they were recorded.
    Source: Lightning 2.6, tuner/lr_finder.py.
    """
    averages = ema(losses, decay=_DECAY)
    shrunk = [a * (1 - _DECAY ** (i + 1)) / (1 - _DECAY ** (i + 2)) for i, a in enumerate(averages)]
    points = list(zip(lrs, shrunk, losses, strict=True))[_SKIP_BEGIN:-_SKIP_END]
    kept = [(lr, value) for lr, value, loss in points if math.isfinite(loss)]
    return lightning(*zip(*kept, strict=True)) if len(kept) > 1 else None
