"""A quadratic bowl with chosen curvatures, for which the largest stable learning rate is known exactly."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt, MinLen
from pydantic import validate_call
from torch import Tensor, nn

from runner.tasks.protocol import LossSum, Scores
from runner.tasks.scores import LossOnly


class Quadratic:
    """Minimise f(w) = sum_i h_i w_i^2 / 2 from a given start, in float64.

    The gradient is h_i w_i. Gradient descent is stable if and only if lr < 2 / max(h), heavy ball with
    momentum b if and only if lr < (2 + 2b) / max(h). No data set: durations are in steps.

    Args:
        curvatures: h, eigenvalues of the Hessian; each > 0.
        start: w at step 0, as many numbers as there are curvatures; None starts at all ones.
    Raises:
        ValueError: start and curvatures differ in length.
    """

    goals: Mapping[str, Literal["min", "max"]] = {"loss": "min"}
    remarks: Sequence[str] = ()

    @validate_call
    def __init__(
        self,
        *,
        curvatures: Annotated[Sequence[Annotated[float, Gt(0)]], MinLen(1)] = (0.1, 1.0, 10.0),
        start: Sequence[float] | None = None,
    ) -> None:
        if start is not None and len(start) != len(curvatures):
            raise ValueError(f"start: must have one number per curvature ({len(curvatures)}), got {len(start)}")
        self.curvatures = torch.tensor(curvatures, dtype=torch.float64)
        self.start = torch.ones_like(self.curvatures) if start is None else torch.tensor(start, dtype=torch.float64)
        self.examples: Mapping[str, int] = {}
        self.prior_entropy = None
        self.digest = hashlib.sha256(repr((list(curvatures), self.start.tolist())).encode()).hexdigest()[:16]

    def model(self) -> nn.Module:
        """Return the point w as a module: no input -> w, float64, shape (n,)."""
        return _Point(self.start)

    def batch(self, step: int, split: str, part: tuple[int, int] = (0, 1)) -> Tensor | None:
        """Return the curvatures: the same at every step, whole in the first slice."""
        return self.curvatures if part[0] == 0 else None

    def weight(self, batch: Tensor) -> float:
        """Return 1: f(w) is no sum over examples."""
        return 1.0

    def loss(self, apply: Callable[..., Any], batch: Tensor, weight: float) -> LossSum:
        """Return f(w)."""
        point = apply()
        return LossSum(0.5 * (batch * point * point).sum(), 1, point)

    def scores(self) -> Scores:
        """Return nothing: the loss says it all."""
        return LossOnly()


class _Point(nn.Module):
    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(start.clone())

    def forward(self) -> Tensor:
        return self.w
