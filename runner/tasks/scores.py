"""Metrics of a split beside its loss, through torchmetrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from runner.tasks.protocol import Batch, Scores

if TYPE_CHECKING:
    from torchmetrics import Metric

Goal = Literal["min", "max"]


class LossOnly:
    """No metrics beside the loss."""

    def update(self, outputs: Any, batch: Batch) -> None:
        """Do nothing."""

    def compute(self, loss: float) -> dict[str, float]:
        """Return nothing: the loss says it all."""
        return {}


class MetricScores:
    """Metrics of torchmetrics, fed with predictions and targets.

    Args:
        metrics: name -> a fresh metric with one number as its result.
        pair: model outputs and batch -> predictions and targets, as the metrics take them.
    """

    def __init__(self, metrics: Mapping[str, Metric], pair: Callable[[Any, Batch], tuple[Tensor, Tensor]]) -> None:
        self._metrics = dict(metrics)
        self._pair = pair

    def update(self, outputs: Any, batch: Batch) -> None:
        """Take in one batch; the metrics move to the device of the predictions."""
        predictions, targets = self._pair(outputs, batch)
        for metric in self._metrics.values():
            metric.to(predictions.device).update(predictions, targets)

    def compute(self, loss: float) -> dict[str, float]:
        """Return name -> value over everything taken in."""
        return {name: float(metric.compute()) for name, metric in self._metrics.items()}


def accuracy(classes: int) -> Scores:
    """Return the share of right answers among (n, classes) logits and (n,) classes."""
    from torchmetrics.classification import MulticlassAccuracy  # takes a second, and only an evaluation needs it

    metric = MulticlassAccuracy(num_classes=classes, average="micro", validate_args=False)
    return MetricScores({"accuracy": metric}, lambda outputs, batch: (outputs, batch[1]))
