"""Which learning rates break a run down, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from runner.finding.points import COARSE_DECADES, LRPoint

LEVEL = 0.95
SAFE_RATIO = 3.0  # a recommendation is at most the largest stable learning rate over this, where nothing else is asked


class FailureRate(NamedTuple):
    """How often runs with one learning rate failed.

    Attributes:
        lr: base learning rate.
        runs: that ended.
        failed: how many of them failed.
        low: below this share the failures are not, with 95 % confidence; 0 where none failed.
        high: above this share they are not; 1 where all failed.
    """

    lr: float
    runs: int
    failed: int
    low: float
    high: float


class Edge(NamedTuple):
    """Between which learning rates runs begin to fail.

    Attributes:
        stable: largest learning rate up to which no run failed; nan where the smallest has failures.
        first_failing: smallest at which a run failed; nan where none did.
        hopeless: smallest at which every run failed; nan where there is none.
    """

    stable: float
    first_failing: float
    hopeless: float

    @property
    def is_known(self) -> bool:
        """Whether a run failed, so that the edge lies between `stable` and `first_failing`."""
        return not math.isnan(self.first_failing)

    @property
    def is_coarse(self) -> bool:
        """Whether the rates on both sides of it are so far apart that it may lie anywhere between."""
        return self.stable > 0 and math.log10(self.first_failing / self.stable) > COARSE_DECADES


def failure_rate(point: LRPoint) -> FailureRate:
    """Return how often a learning rate failed, with one-sided 95 % bounds.

    0 failures of n: at most 1 - 0.05^(1/n), so that "0 of 5" is "up to 45 %". With k failures: the exact bounds of the
    binomial distribution.

    Source: Clopper and Pearson 1934, Biometrika 26.
    """
    failed, runs = point.failed, len(point.losses) + point.failed
    return FailureRate(point.lr, runs, failed, *failure_bounds(failed, runs))


def failure_bounds(failed: int, runs: int) -> tuple[float, float]:
    """Return the one-sided 95 % bounds of the share that fails: (lower, upper).

    Args:
        failed: failures, 0 to `runs`.
        runs: >= 0.
    """
    if runs == 0:
        return 0.0, 1.0
    rest = 1 - LEVEL
    if failed == 0:
        return 0.0, 1 - rest ** (1 / runs)
    low = _solve(lambda share: 1 - _at_most(failed - 1, runs, share) - rest)
    high = 1.0 if failed == runs else _solve(lambda share: rest - _at_most(failed, runs, share))
    return low, high


def edge_of(points: Sequence[LRPoint]) -> Edge:
    """Return where runs begin to fail.

    Args:
        points: in order of their rates.
    """
    stable = math.nan
    for point in points:
        if point.failed:
            break
        stable = point.lr
    first = next((point.lr for point in points if point.failed), math.nan)
    hopeless = next((point.lr for point in points if point.failed and not point.losses), math.nan)
    return Edge(stable, first, hopeless)


def _at_most(count: int, runs: int, share: float) -> float:
    """Return the probability of at most so many failures."""
    return math.fsum(math.comb(runs, k) * share**k * (1 - share) ** (runs - k) for k in range(count + 1))


def _solve(rising: Callable[[float], float]) -> float:
    """Return where a rising function of a share crosses 0."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2
