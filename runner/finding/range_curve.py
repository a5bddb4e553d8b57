"""What a learning rate range test tells: a bracket of the learning rate, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from runner.curves import number
from runner.finding.ramp import (
    CLEAR,
    FEWEST,
    FEWEST_A_DECADE,
    Floats,
    Ramp,
    decades,
    half_width,
    per_decade,
    scatter,
    smooth,
)
from runner.finding.range_rules import RULES

MARGIN = 3.0  # between what a ramp shows and the ends of the bracket
_NOT_THE_RATE = "Look at the model, its first weights and the data"
_HEAD = 0.1  # of the decades: the level before anything is learned
_SHARE = 0.1  # of the descent: Smith's range begins and ends where so much of it is gained or lost
_RAGGED = 3.0  # times the scatter before the descent
_ROUNDING = 1e-6  # of the loss, or of a number of points: a smaller change is none
_LEAST = 1e-3  # of the loss: what a ramp that comes to its end has to gain


class Nothing(NamedTuple):
    """Why a ramp suggests nothing, and what to do about it."""

    reason: str
    advice: str


class Curve(NamedTuple):
    """What one ramp tells.

    Attributes:
        lrs, smoothed: the points that are finite.
        rules: name of a rule -> the learning rate that it suggests; {} without a suggestion.
        nothing: why there is none; None where there is.
    """

    lrs: tuple[float, ...]
    smoothed: tuple[float, ...]
    rules: dict[str, float]
    nothing: Nothing | None = None


def read_ramp(ramp: Ramp) -> Curve:
    """Smooth a ramp and ask all rules, or say why it suggests nothing.

    The rules see the smoothed curve without its first tenth and its last five points, as fastai cuts it.
    """
    points = [(lr, loss) for lr, loss in zip(ramp.lrs, ramp.losses, strict=True) if math.isfinite(loss)]
    lrs, losses = tuple(lr for lr, _ in points), [loss for _, loss in points]
    half = half_width(lrs) if len(lrs) > 2 else 0
    smoothed = tuple(smooth(losses, half))
    nothing = _why_nothing(ramp, lrs, losses, smoothed, half)
    if nothing is not None:
        return Curve(lrs, smoothed, {}, nothing)
    rates, values = per_decade(lrs, smoothed)
    cut = slice(len(rates) // 10, -5)
    found = {name: rule(rates[cut], values[cut]) for name, rule in RULES.items()}
    begin, end = smith_range(lrs, losses, smoothed)
    return Curve(lrs, smoothed, {**found, "smith low": begin, "smith high": end})


def _why_nothing(ramp: Ramp, lrs: Floats, losses: Floats, smoothed: Floats, half: int) -> Nothing | None:
    low, planned = ramp.lrs[0], ramp.planned_steps
    lower, further = (
        f"Begin lower: mode.low={number(low / 1000, 2)}",
        f"Go further: mode.high={number(ramp.stop * 1000, 2)}",
    )
    longer = f"mode.steps={4 * planned}"
    if len(lrs) < FEWEST:
        if len(ramp.losses) == 1 and ramp.stopped:
            return Nothing(f"{ramp.stopped} before any update, which no learning rate causes", _NOT_THE_RATE)
        if ramp.stopped:
            text = f"it diverges at once: at lr {number(ramp.stop, 2)}, after {len(ramp.lrs)} steps, {ramp.stopped}"
            return Nothing(text, lower)
        return Nothing(f"it is too short: {len(lrs)} points, at least {FEWEST} tell something", f"Set {longer}")
    dense = (len(lrs) - 1) / decades(lrs[0], lrs[-1])
    if dense < FEWEST_A_DECADE * (1 - _ROUNDING):
        text = f"it is too short: {dense:.2g} points a decade, at least {FEWEST_A_DECADE} tell something"
        return Nothing(text, f"Set {longer}")
    level, noise, largest = _level(lrs, losses), scatter(losses), max(map(abs, smoothed))
    clear = max(CLEAR * noise / math.sqrt(half + 1), 0.0 if ramp.stopped else _LEAST * largest)
    inside = smoothed[half : len(smoothed) - half]
    if level - min(inside) > clear:
        return None
    if ramp.stopped or max(inside) - level > clear:
        text = f"the loss never descends: it begins at {level:.4g} and only rises"
        return Nothing(text, f"{lower}, unless the weights are trained to the end already")
    if noise > _ROUNDING * largest:
        text = (
            f"it is noise: the loss scatters by {noise:.2g} from step to step and falls by no more than that explains"
        )
        return Nothing(text, f"{further}, or take a larger train.batch_size or more steps: {longer}")
    text = f"the curve is flat: the loss stays at {level:.4g} up to lr {number(lrs[-1], 2)}"
    return Nothing(text, f"{further}, and see that something is trained")


def _level(lrs: Floats, losses: Floats) -> float:
    """Return the loss before anything is learned: the median over the first tenth of the decades, 5 points at least."""
    end = lrs[0] * (lrs[-1] / lrs[0]) ** _HEAD
    return median(losses[: max(5, sum(lr <= end for lr in lrs))])


def smith_range(lrs: Floats, losses: Floats, smoothed: Floats) -> tuple[float, float]:
    """Return where the loss starts to fall, and where it becomes ragged or rises: the range of a cyclic schedule.

    With d the descent from the level of the first points to the lowest smoothed loss: the last rate before that at
    which less than d / 10 is gained, and the first after it at which d / 10 is lost again, or where the losses scatter
    around the curve 3 times as far as before, and by d / 10 at least.

    Args:
        lrs, losses, smoothed: of a ramp that descends; finite.
    Source: the range test of Smith 2017, arXiv:1506.01186, which reads the accuracy by eye.
    """
    lowest, level = list(smoothed).index(min(smoothed)), _level(lrs, losses)
    share = _SHARE * (level - smoothed[lowest])
    begin = max((i for i in range(lowest + 1) if smoothed[i] > level - share), default=0)
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
        nothing: why there is no suggestion; None where there is.
    """

    curves: tuple[Curve, ...]
    rules: dict[str, Spread]
    low: float
    high: float
    is_open: bool
    nothing: Nothing | None = None

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
    mute = [curve.nothing for curve in curves if curve.nothing is not None]
    telling = [(ramp, curve) for ramp, curve in zip(ramps, curves, strict=True) if curve.nothing is None]
    if 2 * len(mute) >= len(curves):
        return RangeFound(curves, {}, math.nan, math.nan, is_open=False, nothing=mute[0])
    rules = {name: spread([curve.rules[name] for _, curve in telling]) for name in telling[0][1].rules}
    rules["stop"] = spread([ramp.stop for ramp, _ in telling])
    low, high = rules["valley"].low / MARGIN, rules["stop"].high / MARGIN
    return RangeFound(curves, rules, low, high, is_open=not all(ramp.stopped for ramp, _ in telling))
