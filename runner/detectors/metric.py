"""The value that a detector of progress watches: a metric of a split, or the training loss."""

from __future__ import annotations

from typing import Annotated

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


def read(record: StepRecord | EvalRecord, metric: str) -> float | None:
    """Return the value of a metric in a record, None where the record has none."""
    if isinstance(record, StepRecord):
        return record.loss if metric == TRAIN_LOSS else None
    split, _, name = metric.partition("/")
    return record.metrics.get(name) if record.split == split else None


def is_better(value: float, best: float, *, mode: str, threshold: float, threshold_mode: str) -> bool:
    """Whether a value beats the best so far by more than the threshold; nan never does.

    value < best (1 - threshold) for min and rel, value < best - threshold for min and abs, likewise for max.
    A relative threshold asks a negative best for less than itself, as in torch.
    """
    sign = -1.0 if mode == "min" else 1.0
    bound = best * (1.0 + sign * threshold) if threshold_mode == "rel" else best + sign * threshold
    return value < bound if mode == "min" else value > bound
