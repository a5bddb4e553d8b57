"""From the scores of the rules to the confidence of a verdict, in one place.

A confidence is meant as a share: of all verdicts given with 0.8, about 80% should name the right cause. The constants
were fixed on the training part of experiments/instability_benchmark, which prints what came out on its test part.
"""

from __future__ import annotations

import math

_OFFSET = -2.4
_PER_SCORE = 5.0
_PER_LEAD = 0.3  # over the next best score
_BARE = -0.6  # when there is nothing beside the losses
_FEW = ((6, 0.65), (12, 0.75), (30, 0.85))  # values fewer than -> at most this
_FEW_FINITE = 0.5  # up to 12 values that are all numbers
_MOST = 0.97


def confidence(score: float, runner_up: float, *, count: int, is_finite: bool, is_bare: bool) -> float:
    """Return the probability that the best-scored cause is right.

    1 / (1 + exp(-(a + b score + c (score - runner_up) + d))), d for bare losses, at most 0.97, less for few values.

    Args:
        score: of the best cause, in [0, 1].
        runner_up: of the next one, in [0, 1].
        count: values of the curve.
        is_finite: whether it ends in a number.
        is_bare: whether there are losses alone, no learning rates or gradient norms.
    """
    evidence = _OFFSET + _PER_SCORE * score + _PER_LEAD * (score - runner_up) + _BARE * is_bare
    share = 1.0 / (1.0 + math.exp(-evidence))
    most = next((most for few, most in _FEW if count <= few), _MOST)
    if is_finite and count <= _FEW[1][0]:
        most = _FEW_FINITE
    return min(share, most)
