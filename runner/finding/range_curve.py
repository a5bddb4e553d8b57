"""What a learning rate range test tells: a bracket of the learning rate, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Literal, NamedTuple

from runner.finding.range_rules import RULES, Floats

FEWEST = 20  # points of a curve that tells something
FEWEST_A_DECADE = 5
TYPICAL_A_DECADE = 20
MARGIN = 3.0  # between what a ramp shows and the ends of the bracket
BLOW_UP = 4.0  # times the best average: the ramp is over (fastai's stop_div)
_WINDOW = 0.5  # decades that a smoothed value is made of, at its foot; half of it counts most
_HEAD = 0.1  # of the points: the level before anything is learned
_CLEAR = 4.0  # standard errors that are no noise
_SHARE = 0.1  # of the descent: Smith's range begins and ends where so much of it is gained or lost
_RAGGED = 3.0  # times the scatter before the descent
_ROUNDING = 1e-6  # of the loss: a smaller change is none

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
        smoothed.append(math.fsum(w * v for w, v in zip(weights, part, strict=True)) / (reach + 1) ** 2)
    return smoothed


class Brake:
    """Says when a ramp is over: at a loss that is no number, or when its running average has blown up.

    The average reaches back a quarter of a decade. It has blown up above 4 times its best value, where that is above 0,
    and where all that was gained is lost: when it is back above the level of the first points after it was clearly
    below. The second holds for a loss of any sign, and for a network that falls back to chance.

    Args:
        half: points that the average reaches back, see `half_width`.
    """

    def __init__(self, half: int) -> None:
        self._decay = 1 - 1 / (half + 1)
        self._average = self._best = math.nan
        self._losses: list[float] = []

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
        if self._average > BLOW_UP * self._best > 0:
            return f"the loss was over {BLOW_UP:g} times its best"
        if len(self._losses) < FEWEST:
            return ""
        return "the loss had lost all that it had gained" if self._has_lost_all() else ""

    def _has_lost_all(self) -> bool:
        head = self._losses[: max(5, FEWEST // 4)]
        level, noise = median(head), scatter(self._losses)
        return self._average > level + noise and self._best < level - _CLEAR * noise


def scatter(losses: Floats) -> float:
    """Return the standard deviation of a loss around its course: 1.4826 median |l_i - l_(i-1)| / sqrt 2."""
    return 1.4826 * median(abs(b - a) for a, b in pairwise(losses)) / math.sqrt(2) if len(losses) > 1 else 0.0


class Curve(NamedTuple):
    """What one ramp tells.

    Attributes:
        lrs, smoothed: the points that are finite.
        rules: name of a rule -> the learning rate that it suggests; {} without a suggestion.
        reason: why there is none; "" where there is.
    """

    lrs: tuple[float, ...]
    smoothed: tuple[float, ...]
    rules: dict[str, float]
    reason: str = ""


def read_ramp(ramp: Ramp) -> Curve:
    """Smooth a ramp and ask all rules, or say why it suggests nothing.

    The rules see the smoothed curve without its first tenth and its last five points, as fastai cuts it.
    """
    points = [(lr, loss) for lr, loss in zip(ramp.lrs, ramp.losses, strict=True) if math.isfinite(loss)]
    lrs, losses = tuple(lr for lr, _ in points), [loss for _, loss in points]
    half = half_width(lrs) if len(lrs) > 2 else 0
    smoothed = tuple(smooth(losses, half))
    reason = _why_nothing(ramp, lrs, losses, smoothed, half)
    if reason:
        return Curve(lrs, smoothed, {}, reason)
    cut = slice(len(lrs) // 10, -5)
    found = {name: rule(lrs[cut], smoothed[cut]) for name, rule in RULES.items()}
    begin, end = smith_range(lrs, losses, smoothed)
    return Curve(lrs, smoothed, {**found, "smith low": begin, "smith high": end})


def _why_nothing(ramp: Ramp, lrs: Floats, losses: Floats, smoothed: Floats, half: int) -> str:
    if len(lrs) < FEWEST:
        if ramp.stopped:
            return f"it diverges at once: at lr {ramp.stop:.2g}, after {len(ramp.lrs)} steps, {ramp.stopped}"
        return f"it is too short: {len(lrs)} points, at least {FEWEST} tell something"
    per_decade = (len(lrs) - 1) / decades(lrs[0], lrs[-1])
    if per_decade < FEWEST_A_DECADE:
        return f"it is too short: {per_decade:.2g} points a decade, at least {FEWEST_A_DECADE} tell something"
    level, noise = _level(losses), scatter(losses)
    clear = max(_CLEAR * noise / math.sqrt(half + 1), _ROUNDING * max(map(abs, smoothed)) if not ramp.stopped else 0.0)
    inside = smoothed[half : len(smoothed) - half]
    if level - min(inside) > clear:
        return ""
    if ramp.stopped or max(inside) - level > clear:
        return f"the loss never descends: it begins at {level:.4g} and only rises"
    if noise > _ROUNDING * max(map(abs, smoothed)):
        return (
            f"it is noise: the loss scatters by {noise:.2g} from step to step and falls by no more than that explains"
        )
    return f"the curve is flat: the loss stays at {level:.4g} up to lr {lrs[-1]:.2g}"


def _level(losses: Floats) -> float:
    return median(losses[: max(5, int(_HEAD * len(losses)))])


def smith_range(lrs: Floats, losses: Floats, smoothed: Floats) -> tuple[float, float]:
    """Return where the loss starts to fall, and where it becomes ragged or rises: the range of a cyclic schedule.

    With d the descent from the level of the first points to the lowest smoothed loss: the last rate before that at
    which less than d / 10 is gained, and the first after it at which d / 10 is lost again, or where the losses scatter
    around the curve 3 times as far as before, and by d / 10 at least.

    Args:
        lrs, losses, smoothed: of a ramp that descends; finite.
    Source: the range test of Smith 2017, arXiv:1506.01186, which reads the accuracy by eye.
    """
    lowest = list(smoothed).index(min(smoothed))
    share = _SHARE * (_level(losses) - smoothed[lowest])
    begin = max((i for i in range(lowest + 1) if smoothed[i] > _level(losses) - share), default=0)
    scatters = [abs(loss - value) for loss, value in zip(losses, smoothed, strict=True)]
    calm = median(scatters[: lowest + 1])
    after = range(lowest, len(lrs))
    rises = (i for i in after if smoothed[i] > smoothed[lowest] + share)
    is_ragged = (i for i in after if median(scatters[max(i - 2, 0) : i + 3]) > max(_RAGGED * calm, share))
    return lrs[begin], lrs[min(next(rises, len(lrs) - 1), next(is_ragged, len(lrs) - 1))]


class Spread(NamedTuple):
    """What a rule suggests over repeats: geometric mean, least, most."""

    middle: float
    low: float
    high: float


def spread(values: Floats) -> Spread:
    """Return the spread of learning rates, at least one."""
    return Spread(math.exp(math.fsum(map(math.log, values)) / len(values)), min(values), max(values))


class RangeFound(NamedTuple):
    """What all repeats tell.

    Attributes:
        curves: one a ramp.
        rules: rule -> spread over the ramps that suggest something, and "stop", the rate where they were stopped.
        low, high: the bracket; nan without a suggestion.
        is_open: whether a ramp came to its end without blowing up, so that the bracket may reach higher.
        reason: why there is no suggestion; "" where there is.
    """

    curves: tuple[Curve, ...]
    rules: dict[str, Spread]
    low: float
    high: float
    is_open: bool
    reason: str = ""

    @property
    def middle(self) -> float:
        """Geometric middle of the bracket."""
        return math.sqrt(self.low * self.high)


def find_bracket(ramps: Sequence[Ramp]) -> RangeFound:
    """Return the bracket [valley / 3, stop / 3], the widest over the repeats.

    Widest, since a bracket is there to contain the optimum: a repeat that differs by a factor 3 costs a search one more
    point of a half-decade grid, a bracket that misses costs it all. There is no suggestion where half of the ramps or
    more have none; the reason is that of the first of them.

    Args:
        ramps: repeats, at least one.
    """
    curves = tuple(map(read_ramp, ramps))
    mute = [curve.reason for curve in curves if curve.reason]
    telling = [(ramp, curve) for ramp, curve in zip(ramps, curves, strict=True) if not curve.reason]
    if 2 * len(mute) >= len(curves):
        return RangeFound(curves, {}, math.nan, math.nan, is_open=False, reason=mute[0])
    rules = {name: spread([curve.rules[name] for _, curve in telling]) for name in telling[0][1].rules}
    rules["stop"] = spread([ramp.stop for ramp, _ in telling])
    low, high = rules["valley"].low / MARGIN, rules["stop"].high / MARGIN
    return RangeFound(curves, rules, low, high, is_open=not all(ramp.stopped for ramp, _ in telling))
