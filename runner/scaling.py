"""Rules that carry a learning rate from one batch size to another: numbers in, numbers out."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

Rule = Literal["none", "linear", "sqrt"]

LARGEST_LINEAR_FACTOR = 32
LARGEST_LINEAR_BATCH = 8192


class Hyperparameters(NamedTuple):
    """What depends on the batch size.

    Attributes:
        lr: base learning rate.
        betas: decay per update of Adam's first and second moment; None leaves them out.
        eps: added to Adam's denominator, in units of the gradient; None leaves it out.
    """

    lr: float
    betas: tuple[float, float] | None = None
    eps: float | None = None


def scale(before: Hyperparameters, *, rule: Rule, factor: float) -> Hyperparameters:
    """Return the hyperparameters for a batch that is k times as large.

    linear: lr <- k lr.
    sqrt: lr <- sqrt(k) lr, 1 - beta <- k (1 - beta) for both betas, eps <- eps / sqrt(k).

    SGD's momentum is left alone, as in the source of the linear rule.

    Args:
        before: those of the reference batch size; what is None stays None.
        rule: none changes nothing; linear changes the learning rate only.
        factor: k, new batch size / reference batch size; > 0.

    Raises:
        ValueError: k (1 - beta) >= 1, so that an average would keep nothing of the past.

    Source: linear: Goyal et al. 2017, arXiv:1706.02677. sqrt: Malladi et al. 2022, arXiv:2205.10287.
    """
    if rule == "none":
        return before
    if rule == "linear":
        return before._replace(lr=factor * before.lr)
    root = math.sqrt(factor)
    betas = None if before.betas is None else (_scale(before.betas[0], factor), _scale(before.betas[1], factor))
    return Hyperparameters(root * before.lr, betas, None if before.eps is None else before.eps / root)


def _scale(beta: float, factor: float) -> float:
    share = factor * (1 - beta)
    if share >= 1:
        raise ValueError(f"must keep (1 - beta) * k below 1, got (1 - {beta:g}) * {factor:g} = {share:g}")
    return 1 - share
