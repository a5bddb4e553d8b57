"""The rise with which a curve leaves for good."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.trends import FEW, median, medians, ratio

if TYPE_CHECKING:
    from runner.diagnosis.series import Series
    from runner.diagnosis.shape import Shape

_LEVELS = 12
_BAND = math.log(1.3)
_NARROW = math.log(1.05)  # with few values
_JUMP = 2 / 3
_DIP = 1  # values in a row that may lie low on the way: a batch with a loss of 0 for all weights that are far off


@dataclass(frozen=True, slots=True)
class Exit:
    """From the lowest level to the last values, all of them above it.

    Attributes:
        place: first value of the rise.
        steps: values from there to the end.
        base: level that it leaves, in the unit of the loss.
        rise: largest of the last three values over that level, on the log scale.
        is_jump: whether two thirds of the rise happen in its first step.
        norm_before: gradient norm of the step before it over the usual one; None without norms.
    """

    place: int
    steps: int
    base: float
    rise: float
    is_jump: bool
    norm_before: float | None


def find_exit(series: Series, shape: Shape) -> Exit | None:
    """Return the rise to the end of a curve, None when it ends within the noise of its lowest level.

    The band of a level is the larger of 4 standard deviations and a factor 1.3 (1.05 below 12 values).
    """
    logs = series.logs
    levels = medians(logs, count=_LEVELS) if len(logs) >= FEW else logs
    base, band = min(levels), _NARROW if len(logs) < FEW else max(4 * shape.log_noise, _BAND)
    if logs[-1] <= base + band:
        return None
    place = len(logs)
    while place > 0 and max(logs[max(place - _DIP - 1, 0) : place]) > base + band:
        place -= 1
    while place < len(logs) and logs[place] <= base + band:
        place += 1
    if place == len(logs):
        return None
    rise = max(logs[max(place, len(logs) - 3) :]) - base
    norms = series.norms
    usual = median(norms[max(0, place - 16) : max(place - 1, 1)]) if norms and place > 2 else 0.0
    before = logs[place - 1] if place else base
    return Exit(
        place=place,
        steps=len(logs) - place,
        base=min(series.losses, key=lambda loss: abs(loss - shape.low)),
        rise=rise,
        is_jump=logs[place] - before >= _JUMP * rise,
        norm_before=ratio(norms[place - 1], usual) if norms and usual > 0 else None,
    )
