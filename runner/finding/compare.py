"""Whether one group (an optimizer, a schedule) is better than another, each at a learning rate of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runner.finding.points import mean_of, sd_of, variance

SIGNIFICANT = 0.05
FEWEST_SEEDS = 3  # that show a difference
# two-sided 95 % quantiles of Student's t for 1, 2 ... 30 degrees of freedom
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Two groups against each other.

    Attributes:
        better: the group with the smaller mean loss.
        other: the one that it is compared with.
        lrs: the learning rate of each (`GroupReport.compared`).
        seeds: number of seeds that were compared: those in common, or, without any, the smaller number of the two.
        is_paired: whether the same seeds were compared.
        difference: mean loss of the other minus that of the better.
        error: standard error of the difference; nan with one seed.
        wins: seeds at which the better group was better; 0 where they are not paired.
        p_sign: two-sided p of the sign test; nan where the seeds are not paired.
        is_cut: whether the best of the other lies at an end of what was tried, so that it may do better.
        is_shown: whether the difference is there: 0 lies outside its 95 % interval by Student's t, with at least three
            seeds, and the other is not cut.
    """

    better: str
    other: str
    lrs: tuple[float, float]
    seeds: int
    is_paired: bool
    difference: float
    error: float
    wins: int
    p_sign: float
    is_cut: bool
    is_shown: bool


def sign_test(wins: int, losses: int) -> float:
    """Return the two-sided p of the sign test; ties are left out before. 1 without any.

    5 of 5 give 0.0625, 6 of 6 give 0.031.
    """
    count = wins + losses
    tail = sum(math.comb(count, k) for k in range(min(wins, losses) + 1))
    return min(1.0, tail / float(2 ** (count - 1))) if count else 1.0


def compare(
    better: str,
    other: str,
    lrs: tuple[float, float],
    left: Mapping[int, float],
    right: Mapping[int, float],
    *,
    cut: tuple[bool, bool] = (False, False),
) -> Comparison:
    """Compare two groups, each at its learning rate.

    Args:
        better: name of the group with the smaller mean.
        other: name of the other.
        lrs: the learning rate of each.
        left: seed -> loss of the better group; at least one.
        right: the same of the other.
        cut: whether the best of each lies at an end of what was tried.
    Returns:
        the comparison, in which the two have changed places where the seeds in common say the opposite of the means.
    """
    common = sorted(left.keys() & right.keys())
    if common:
        differences = [right[seed] - left[seed] for seed in common]
        count, freedom, difference = len(common), len(common) - 1, mean_of(differences)
        error = sd_of(differences) / math.sqrt(count)
        wins, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
        p_sign = sign_test(wins, losses)
    else:
        a, b = list(left.values()), list(right.values())
        count, wins, p_sign, difference = min(len(a), len(b)), 0, math.nan, mean_of(b) - mean_of(a)
        unit = max(map(abs, (*a, *b))) or 1.0
        parts = [variance(a, unit=unit) / len(a), variance(b, unit=unit) / len(b)]
        error = unit * math.sqrt(sum(parts)) if count > 1 else math.nan
        freedom = _welch(parts, [len(a) - 1, len(b) - 1]) if count > 1 else 0
    if difference < 0:
        return compare(other, better, (lrs[1], lrs[0]), right, left, cut=(cut[1], cut[0]))
    is_shown = not cut[1] and count >= FEWEST_SEEDS and abs(difference) > _T[min(freedom, len(_T)) - 1] * error
    return Comparison(better, other, lrs, count, bool(common), difference, error, wins, p_sign, cut[1], is_shown)


def _welch(parts: Sequence[float], freedoms: Sequence[int]) -> int:
    """Return the degrees of freedom of Welch's test, rounded down, at least 1."""
    total = sum(part * part / n for part, n in zip(parts, freedoms, strict=True))
    return max(1, int(sum(parts) ** 2 / total)) if total > 0 else sum(freedoms)
