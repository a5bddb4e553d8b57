"""The logits of a classifier, for tasks that have some."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class HasLogits(Protocol):
    """A task whose loss takes a softmax of what the model returns."""

    def logits(self, outputs: Any) -> Tensor | None:
        """Return the logits (..., classes) in the outputs of a model, None where they hold none."""
        ...
