"""The value that a detector of progress watches: a metric of a split, or the training loss."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator

from runner.records import EvalRecord, StepRecord

TRAIN_LOSS = "train/loss"


def _is_metric(text: str) -> str:
    split, _, name = text.partition("/")
    if not split or not name:
        raise ValueError("must be <split>/<metric> such as val/loss or train/loss")
    return text


MetricOfSplit = Annotated[str, AfterValidator(_is_metric)]
"""An argument of a detector: train/loss, or a metric of an evaluation such as val/accuracy."""


def needs_of(metric: str) -> frozenset[str]:
    """Return what a detector of a metric cannot do without beyond the training loss."""
    return frozenset() if metric == TRAIN_LOSS else frozenset({"eval"})


def read(record: StepRecord | EvalRecord, metric: str) -> float | None:
    """Return the value of a metric in a record, None where the record has none."""
    if isinstance(record, StepRecord):
        return record.loss if metric == TRAIN_LOSS else None
    split, _, name = metric.partition("/")
    return record.metrics.get(name) if record.split == split else None


class Gain(NamedTuple):
    """What counts as a better value.

    Attributes:
        mode: whether less (min) or more (max) is better.
        threshold: a smaller gain is none; a share of the best value (rel) or in the unit of the metric (abs).
        threshold_mode: what the threshold is.
    """

    mode: Literal["min", "max"]
    threshold: float
    threshold_mode: Literal["rel", "abs"]

    @property
    def worst(self) -> float:
        """What every number beats."""
        return float("inf") if self.mode == "min" else float("-inf")

    def is_over(self, value: float, best: float) -> bool:
        """Whether a value beats the best so far by more than the threshold; nan never does.

        value < best (1 - threshold) for min and rel, value < best - threshold for min and abs, likewise for max.
        A relative threshold asks a negative best for less than itself, as in torch.
        """
        sign = -1.0 if self.mode == "min" else 1.0
        bound = best * (1.0 + sign * self.threshold) if self.threshold_mode == "rel" else best + sign * self.threshold
        return value < bound if self.mode == "min" else value > bound
