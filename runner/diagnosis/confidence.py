"""From the scores of the rules to the confidence of a verdict, in one place.

A confidence is meant as a share: of all verdicts given with 0.8, about 80% should name the right cause. The constants
were fixed on the training part of experiments/instability_benchmark, which prints what came out on its test part.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.diagnosis.curve import Family

_OFFSET = -0.6
_PER_SCORE = 3.7
_PER_LEAD = 0.3  # over the next best score
_FOREIGN = -0.4  # when nothing is known beside the columns: no optimizer, no signals
_BARE = -0.8  # and when there is nothing beside the losses
_FEW = ((6, 0.65), (12, 0.75), (30, 0.85))  # values fewer than -> at most this
_FEW_FINITE = 0.5  # up to 12 values that are all numbers
_MOST = 0.97
_HEALTHY = {"sgd": 0.97, "momentum": 0.97, "adaptive": 0.86, None: 0.88}
"""what "healthy" is at most: that of an adaptive optimizer at too high a rate, or of too low a one, looks the same"""
_HEALTHY_BARE = 0.77


def confidence(
    score: float, runner_up: float, *, count: int, is_finite: bool, is_bare: bool, family: Family | None = None
) -> float:
    """Return the probability that the best-scored cause is right.

    1 / (1 + exp(-(a + b score + c (score - runner_up) + d))), d for what is not known, at most 0.97, less for few
    values.

    Args:
        score: of the best cause, in [0, 1].
        runner_up: of the next one, in [0, 1].
        count: values of the curve.
        is_finite: whether it ends in a number.
        is_bare: whether there are losses alone, no learning rates or gradient norms.
        family: of the optimizer, None where it is not known.
    """
    evidence = _OFFSET + _PER_SCORE * score + _PER_LEAD * (score - runner_up)
    evidence += _FOREIGN * (family is None) + _BARE * is_bare
    share = 1.0 / (1.0 + math.exp(-evidence))
    most = next((most for few, most in _FEW if count <= few), _MOST)
    if is_finite and count <= _FEW[1][0]:
        most = _FEW_FINITE
    return min(share, most)


def most_healthy(family: Family | None, *, is_bare: bool) -> float:
    """Return what the confidence of "healthy" is at most."""
    return min(_HEALTHY[family], _HEALTHY_BARE if is_bare else 1.0)
