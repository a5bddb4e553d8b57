"""A ramp of the learning rate: which rates, when it is over, and its losses without their noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Literal, NamedTuple

FEWEST = 20  # points of a curve that tells something
FEWEST_A_DECADE = 5
TYPICAL_A_DECADE = 20
_LINEAR_STEPS = 200  # of a ramp of equal differences
CLEAR = 4.0  # standard errors that are no noise
_BLOW_UP = 4.0  # times the best average: the ramp is over (fastai's stop_div)
_FAR = 6.0  # times the scatter: heavy-tailed losses alone do not get so far above their best average
_WINDOW = 0.5  # decades that a smoothed value is made of, at its foot; half of it counts most

Floats = Sequence[float]
Shape = Literal["exponential", "linear"]


class Ramp(NamedTuple):
    """One ramp of the learning rate.

    Attributes:
        lrs: base learning rate of every update made.
        losses: training loss before that update, as it was; inf where it or the gradient was no number.
        planned_steps: updates that it would have made, had nothing stopped it.
        stopped: why it was stopped; "" where it came to its end.
    """

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    planned_steps: int
    stopped: str = ""

    @property
    def stop(self) -> float:
        """The highest rate, at which it was stopped or has ended."""
        return self.lrs[-1]


def ramp_lrs(low: float, high: float, *, steps: int, shape: Shape = "exponential") -> list[float]:
    """Return the rates of a ramp, both ends included: low (high / low)^x or low + (high - low) x, x = i / (steps - 1).

    Args:
        low, high: 0 < low < high.
        steps: >= 2.
        shape: equal ratios or equal differences.
    """
    shares = [i / (steps - 1) for i in range(steps)]
    if shape == "linear":
        return [low + (high - low) * share for share in shares]
    return [low * (high / low) ** share for share in shares]


def fewest_steps(low: float, high: float, shape: Shape) -> int:
    """Return how many updates a ramp needs to tell something: 5 a decade, 20 at least."""
    return max(FEWEST, math.ceil(FEWEST_A_DECADE * decades(low, high)) + 1 if shape == "exponential" else 0)


def usual_steps(low: float, high: float, shape: Shape) -> int:
    """Return how many updates a ramp has of itself: 20 a decade; 200 where differences are equal."""
    if shape == "linear":
        return _LINEAR_STEPS
    return max(FEWEST, round(TYPICAL_A_DECADE * decades(low, high)) + 1)


def decades(low: float, high: float) -> float:
    """Return how many there are between two rates."""
    return math.log10(high / low)


def half_width(lrs: Floats) -> int:
    """Return how many points to either side a smoothed value is made of: a quarter of a decade, wherever that is.

    At least 1 and at most a tenth of the points; of a ramp of equal differences, that of its middle.
    """
    middle = len(lrs) // 2
    spacing = decades(lrs[middle - 1], lrs[middle]) if len(lrs) > 2 else 1.0
    return max(1, min(round(_WINDOW / 2 / spacing), len(lrs) // 10))


def smooth(values: Floats, half: int) -> list[float]:
    """Smooth without a lag: the median of three, then a centred mean with weights that fall to either side.

    s_i = sum_j (h + 1 - |j|) m_(i+j) / sum_j (h + 1 - |j|), j = -h .. h, with h = min(half, points to the nearer end),
    so that the curve is not bent at its ends. A value alone that stands out leaves no trace.

    Args:
        values: finite.
        half: points to either side, >= 0.
    """
    last = len(values) - 1
    middles = [sorted(values[max(i - 1, 0) : i + 2])[1] if 0 < i < last else v for i, v in enumerate(values)]
    smoothed = []
    for i in range(len(middles)):
        reach = min(half, i, last - i)
        weights = [reach + 1 - abs(j) for j in range(-reach, reach + 1)]
        part = middles[i - reach : i + reach + 1]
        # so that no sum of the largest floats overflows; a power of 2 rounds nothing
        least = 0.25 ** (reach + 1).bit_length()
        total = math.fsum(w * (least * v) for w, v in zip(weights, part, strict=True))
        smoothed.append(total / (reach + 1) ** 2 / least)
    return smoothed


class Brake:
    """Says when a ramp is over: at a loss that is no number, or when its running average has blown up.

    The average reaches back a quarter of a decade. It has blown up above 4 times its best value, where that is above 0
    and 6 times the scatter away, and where all that was gained is lost: when it is back above the level of the first
    points after it was clearly below. The second holds for a loss of any sign, and for a network that falls back to
    chance; it begins when the average no longer hangs on the first loss. Of 7,500 healthy curves with Gaussian
    noise it ended none before the minimum, of as many with noise of Student's t with 3 degrees of freedom one.

    Args:
        half: points that the average reaches back, see `half_width`.
    """

    def __init__(self, half: int) -> None:
        self._decay = 1 - 1 / (half + 1)
        self._settled = max(FEWEST, 3 * half)
        self._average = self._best = math.nan
        self._lowest = math.inf  # average, once it is settled
        self._losses: list[float] = []
        self._scatter, self._scatter_of = 0.0, 0

    def why(self, loss: float) -> str:
        """Return why to stop after this loss, "" to go on."""
        if not math.isfinite(loss):
            return "the loss or its gradient was no number"
        self._losses.append(loss)
        if len(self._losses) == 1:
            self._average = self._best = loss
            return ""
        self._average = self._decay * self._average + (1 - self._decay) * loss
        self._best = min(self._best, self._average)
        if self._average > _BLOW_UP * self._best > 0 and self._average - self._best > _FAR * self._noise():
            return f"the loss was over {_BLOW_UP:g} times its best"
        return "the loss had lost all that it had gained" if self._has_lost_all() else ""

    def _has_lost_all(self) -> bool:
        if len(self._losses) < self._settled:
            return False
        self._lowest = min(self._lowest, self._average)
        level = median(self._losses[: max(5, FEWEST // 4)])
        if not self._lowest < level < self._average:
            return False
        return self._average > level + self._noise() and self._lowest < level - CLEAR * self._noise()

    def _noise(self) -> float:
        """Return the scatter of the losses, made anew when there are 2 % more: to sort them all at each takes long."""
        if len(self._losses) > 1.02 * self._scatter_of:
            self._scatter, self._scatter_of = scatter(self._losses), len(self._losses)
        return self._scatter


def scatter(losses: Floats) -> float:
    """Return the standard deviation of a loss around its course: 1.4826 median |l_i - l_(i-1)| / sqrt 2."""
    return 1.4826 * median(abs(b - a) for a, b in pairwise(losses)) / math.sqrt(2) if len(losses) > 1 else 0.0


def per_decade(lrs: Floats, smoothed: Floats) -> tuple[Floats, Floats]:
    """Return a smoothed curve at equal ratios: rules count points, so one of equal differences is read at 20 a decade.

    It begins where there are 5 a decade, and is straight over ln lr between two points. One of equal ratios is returned
    as it is.
    """
    gaps = [math.log10(b / a) for a, b in pairwise(lrs)]
    if max(gaps) < 1.01 * min(gaps):
        return lrs, smoothed
    first = max((i + 1 for i, gap in enumerate(gaps) if gap > 1 / FEWEST_A_DECADE), default=0)
    steps = round(TYPICAL_A_DECADE * decades(lrs[first], lrs[-1])) + 1
    rates = ramp_lrs(lrs[first], lrs[-1], steps=steps) if steps > 1 else list(lrs[first:])
    values, left = [], first
    for rate in rates:
        while left < len(lrs) - 2 and lrs[left + 1] < rate:
            left += 1
        share = math.log10(rate / lrs[left]) / gaps[left] if left < len(gaps) else 1.0
        values.append(smoothed[left] + share * (smoothed[min(left + 1, len(lrs) - 1)] - smoothed[left]))
    return rates, values
