"""A parabola in ln lr, by weighted least squares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Quadratic:
    """c2 x^2 + c1 x + c0 with x = ln lr.

    Attributes:
        c2, c1, c0: the coefficients.
        vertex: learning rate where it is smallest; nan where c2 <= 0.
    """

    c2: float
    c1: float
    c0: float
    vertex: float

    def at(self, lr: float) -> float:
        """Return its value."""
        x = math.log(lr)
        return (self.c2 * x + self.c1) * x + self.c0


def fit_quadratic(lrs: Sequence[float], values: Sequence[float], weights: Sequence[float] | None = None) -> Quadratic:
    """Fit c2 x^2 + c1 x + c0 with x = ln lr by weighted least squares.

    lr* = exp(-c1 / (2 c2))

    Args:
        lrs: at least three that differ, > 0.
        values: one a rate.
        weights: 1 / variance of the values; None weighs all alike.
    Raises:
        ValueError: fewer than three rates differ.
    """
    if len(set(lrs)) < 3:
        raise ValueError(f"lrs: at least three must differ, got {len(set(lrs))}.")
    weigh = [1.0] * len(lrs) if weights is None else list(weights)
    logs, total = [math.log(lr) for lr in lrs], sum(weigh)
    center = sum(w * x for w, x in zip(weigh, logs, strict=True)) / total
    xs = [x - center for x in logs]
    # orthogonal polynomials: p1 = x, p2 = x^2 - a x - b
    s2, s3 = _dot(weigh, xs, xs), _dot(weigh, xs, [x * x for x in xs])
    a, b = s3 / s2, s2 / total
    p2 = [x * x - a * x - b for x in xs]
    c2 = _dot(weigh, p2, values) / _dot(weigh, p2, p2)
    d1, d0 = _dot(weigh, xs, values) / s2, sum(w * y for w, y in zip(weigh, values, strict=True)) / total
    slope = d1 - a * c2  # of x around the center
    vertex = math.exp(min(max(center - slope / (2 * c2), -700.0), 700.0)) if c2 > 0 else math.nan
    c1 = slope - 2 * c2 * center
    return Quadratic(c2, c1, d0 - b * c2 - slope * center + c2 * center * center, vertex)


def _dot(weights: Sequence[float], left: Sequence[float], right: Sequence[float]) -> float:
    return sum(w * a * b for w, a, b in zip(weights, left, right, strict=True))
