"""What the runs with each learning rate came to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from runner.finding.observed import LEARNED, Observed

COARSE_DECADES = 0.75  # between learning rates; further apart, nothing is known of what lies between


class LRPoint(NamedTuple):
    """What the runs with one learning rate came to.

    Attributes:
        lr: base learning rate.
        losses: those that are finite, one a seed.
        failed: number of runs that diverged, or ended with a loss that is no number.
    """

    lr: float
    losses: tuple[float, ...]
    failed: int = 0

    @property
    def mean(self) -> float:
        """Mean loss; inf without one."""
        return mean_of(self.losses)

    @property
    def is_sound(self) -> bool:
        """Whether there is a loss, and no run failed."""
        return bool(self.losses) and not self.failed


def measured_points(observed: Iterable[Observed]) -> list[LRPoint]:
    """Return what each learning rate came to, in order; runs that neither finished nor broke down do not count."""
    losses: dict[float, list[float]] = {}
    failed: dict[float, int] = {}
    for one in observed:
        if one.has_failed:
            failed[one.lr] = failed.get(one.lr, 0) + 1
        elif one.status == "finished":
            losses.setdefault(one.lr, []).append(one.loss)
    return [LRPoint(lr, tuple(losses.get(lr, ())), failed.get(lr, 0)) for lr in sorted({*losses, *failed})]


def points_of(observed: Sequence[Observed]) -> list[LRPoint]:
    """Return what each learning rate came to, in order; a run that has learned nothing has failed.

    That is judged above the best rate only (below it, the rate was merely too low), by `Observed.has_learned` with the
    smallest first loss, and not where the best rate itself ends so high.
    """
    points = measured_points(observed)
    best, first = (
        best_of(points),
        min((o.first_loss for o in observed if math.isfinite(o.first_loss)), default=math.inf),
    )
    if best is None or best.mean >= (1 - LEARNED) * first:
        return points
    return measured_points(
        one if one.lr <= best.lr or one.has_learned(first) or one.status != "finished" else one._replace(loss=math.nan)
        for one in observed
    )


def mean_of(values: Sequence[float]) -> float:
    """Return the mean, of large numbers too; inf without any."""
    return sum(value / len(values) for value in values) if values else math.inf


def sound(points: Iterable[LRPoint]) -> list[LRPoint]:
    """Return the learning rates at which there is a loss and no run failed."""
    return [point for point in points if point.is_sound]


def best_of(points: Iterable[LRPoint]) -> LRPoint | None:
    """Return the sound point with the smallest mean loss, the smaller rate of two; None where there is none."""
    return min(sound(points), key=lambda point: (point.mean, point.lr), default=None)


def variance(values: Sequence[float], *, unit: float = 1.0) -> float:
    """Return the sample variance (n - 1) in a unit; 0 where there are fewer than two values."""
    if len(values) < 2:
        return 0.0
    mean = mean_of(values)
    return sum(((value - mean) / unit) ** 2 for value in values) / (len(values) - 1)


def pooled_sd(samples: Iterable[Sequence[float]]) -> float:
    """Return the standard deviation within samples, sqrt(sum (n-1) s^2 / sum (n-1)); their means may differ.

    Returns:
        nan where none has two values.
    """
    several = [values for values in samples if len(values) > 1]
    freedom = sum(len(values) - 1 for values in several)
    if not freedom:
        return math.nan
    unit = max(abs(value) for values in several for value in values) or 1.0
    return unit * math.sqrt(sum((len(values) - 1) * variance(values, unit=unit) for values in several) / freedom)


def sd_of(values: Sequence[float]) -> float:
    """Return the sample standard deviation (n - 1), of large numbers too; nan where there are fewer than two values."""
    unit = max(map(abs, values), default=0.0) or 1.0
    return unit * math.sqrt(variance(values, unit=unit)) if len(values) > 1 else math.nan
