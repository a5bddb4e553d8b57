"""Metrics of a split beside its loss, through torchmetrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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


def regression(scale: float) -> Scores:
    """Return r2, and the mean absolute and the root mean squared error in the unit of the target.

    Args:
        scale: standard deviation by which the targets were divided; outputs and targets have shape (n,).
    """
    from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError, R2Score

    metrics: dict[str, Metric] = {
        "r2": R2Score(),
        "mae": MeanAbsoluteError(),
        "rmse": MeanSquaredError(squared=False),
    }
    return MetricScores(metrics, lambda outputs, batch: (outputs.float() * scale, batch[1] * scale))


def classification(names: Iterable[str], classes: int) -> Scores:
    """Return metrics of (n, classes) logits and (n,) classes.

    Args:
        names: "accuracy" (share of right answers), "f1" (mean over the classes), "auroc" (area under the ROC curve).
        classes: number of classes.
    """
    from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC, MulticlassF1Score  # takes a second

    known: dict[str, Callable[[], Metric]] = {
        "accuracy": lambda: MulticlassAccuracy(classes, average="micro", validate_args=False),
        "f1": lambda: MulticlassF1Score(classes, average="macro", validate_args=False),
        "auroc": lambda: MulticlassAUROC(classes, validate_args=False),
    }
    # logits that happen to lie in [0, 1] would be taken for probabilities
    return MetricScores(
        {name: known[name]() for name in names}, lambda outputs, batch: (outputs.float().softmax(dim=1), batch[1])
    )


def accuracy(classes: int) -> Scores:
    """Return the share of right answers among (n, classes) logits and (n,) classes."""
    return classification(["accuracy"], classes)
