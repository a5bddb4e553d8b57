"""Metrics of a split beside its loss, through torchmetrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from runner.errors import Problem, TaskError
from runner.tasks.described import described, first_line
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


class Accuracy:
    """The share of right answers among (n, classes) logits and (n,) classes.

    A count needs no torchmetrics, which takes two seconds to import and more for a batch than a small model.
    """

    def __init__(self) -> None:
        self._right: list[Tensor] = []
        self._answers = 0

    def update(self, outputs: Any, batch: Batch) -> None:
        """Take in the logits of one batch; nothing waits for a GPU."""
        self._right.append((outputs.argmax(dim=1) == batch[1]).sum())
        self._answers += len(batch[1])

    def compute(self, loss: float) -> dict[str, float]:
        """Return the share, nan without any answer."""
        return {"accuracy": sum(map(int, self._right)) / self._answers if self._answers else math.nan}


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
        """Take in one batch; the metrics move to the device of the predictions.

        Raises:
            TaskError: a metric does not take them.
        """
        predictions, targets = self._pair(outputs, batch)
        for name, metric in self._metrics.items():
            try:
                metric.to(predictions.device).update(predictions, targets)
            except (Exception, SystemExit) as error:
                given = f"outputs {described(predictions)} and targets {described(targets)}"
                rule = f"must take {given}, but {type(metric).__name__} says: {first_line(error)}"
                raise TaskError(
                    Problem(f"task.metrics.{name}", rule, "Choose another metric, or its arguments")
                ) from error

    def compute(self, loss: float) -> dict[str, float]:
        """Return name -> value over everything taken in.

        Raises:
            TaskError: a metric gives no number, or cannot be computed.
        """
        return {name: self._value(name, metric) for name, metric in self._metrics.items()}

    def _value(self, name: str, metric: Metric) -> float:
        try:
            value = metric.compute()
        except (Exception, SystemExit) as error:
            rule = f"must be computable over the split, but {type(metric).__name__} says: {first_line(error)}"
            raise TaskError(Problem(f"task.metrics.{name}", rule, "Choose another metric, or its arguments")) from error
        if not isinstance(value, Tensor) or value.numel() != 1:
            rule = f"must give one number, got {described(value)} from {type(metric).__name__}"
            raise TaskError(Problem(f"task.metrics.{name}", rule, "Set its average, or choose another metric"))
        return float(value)


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
