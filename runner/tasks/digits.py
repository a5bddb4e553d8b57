"""Handwritten digits: 1,797 images of 8 x 8 pixels in ten classes, shipped with scikit-learn."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Lt
from pydantic import validate_call
from torch import Tensor, nn

from runner.errors import TaskError
from runner.tasks.mlp import mlp
from runner.tasks.protocol import LossSum, Scores
from runner.tasks.scores import Accuracy
from runner.tasks.tensors import TensorData, entropy

TRAIN_EXAMPLES = 1400
SPLIT_SEED = 0
CLASSES = 10


class Digits:
    """Classify scikit-learn's digits; loss in nats (cross entropy).

    Pixels are scaled to [0, 1] and centred with the training mean. 1,400 examples train, 397 validate;
    the split is the same for every seed.

    Args:
        model: "mlp" (64-hidden-10, ReLU) or "cnn" (two 3 x 3 convolutions and a linear layer).
        hidden: widths of the hidden layers of the mlp.
        dropout: probability of dropping a hidden unit; in [0, 1).
        batch_size: examples per optimizer step, from the run.
        seed: order of the data, from the run.
    Raises:
        TaskError: scikit-learn's file is not there.
    """

    goals: Mapping[str, Literal["min", "max"]] = {"loss": "min", "accuracy": "max"}
    remarks: Sequence[str] = ()

    @validate_call
    def __init__(
        self,
        *,
        batch_size: int,
        seed: int,
        model: Literal["mlp", "cnn"] = "mlp",
        hidden: Sequence[Annotated[int, Ge(1)]] = (128, 128),
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
    ) -> None:
        self.architecture = model
        self.hidden = tuple(hidden)
        self.dropout = dropout
        splits, self.digest = _load()
        self._data = TensorData(splits, batch_size=batch_size, seed=seed)
        self.examples = self._data.examples
        self.prior_entropy = entropy(splits["train"][1])

    def model(self) -> nn.Module:
        """Return a freshly initialised network: (n, 64) pixels -> (n, 10) logits."""
        return _cnn(self.dropout) if self.architecture == "cnn" else mlp(64, self.hidden, CLASSES, dropout=self.dropout)

    def batch(self, step: int, split: str, part: tuple[int, int] = (0, 1)) -> tuple[Tensor, ...] | None:
        """Return (pixels float32 (n, 64), classes int64 (n,)) of a slice of a batch, None when it is empty."""
        return self._data.batch(step, split, part)

    def weight(self, batch: tuple[Tensor, ...]) -> float:
        """Return the number of examples."""
        return len(batch[1])

    def loss(self, apply: Callable[..., Any], batch: tuple[Tensor, ...], weight: float) -> LossSum:
        """Return the cross entropy summed over the batch, in nats."""
        inputs, targets = batch
        logits = apply(inputs)
        return LossSum(nn.functional.cross_entropy(logits, targets, reduction="sum"), len(targets), logits)

    def logits(self, outputs: Tensor) -> Tensor:
        """Return the outputs: they are logits."""
        return outputs

    def scores(self) -> Scores:
        """Return the share of right answers."""
        return Accuracy()


def _load() -> tuple[dict[str, tuple[Tensor, Tensor]], str]:
    # scikit-learn's loader would import the library, which costs a second
    spec = importlib.util.find_spec("sklearn")
    path = Path(spec.origin).parent / "datasets/data/digits.csv.gz" if spec and spec.origin else None
    if path is None or not path.exists():
        raise TaskError("task: must find scikit-learn's digits. Install it with: pip install scikit-learn.")
    return _read(path)


@functools.cache
def _read(path: Path) -> tuple[dict[str, tuple[Tensor, Tensor]], str]:
    """Return the splits and the digest of the table; all runs of a process share them, and none changes them."""
    table = np.loadtxt(path, delimiter=",", dtype=np.float32)
    digest = hashlib.sha256(table.tobytes()).hexdigest()[:16]
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(SPLIT_SEED))
    inputs, targets = torch.from_numpy(table[:, :64]) / 16.0, torch.from_numpy(table[:, 64]).long()
    train, val = order[:TRAIN_EXAMPLES], order[TRAIN_EXAMPLES:]
    inputs = inputs - inputs[train].mean(dim=0)
    return {"train": (inputs[train], targets[train]), "val": (inputs[val], targets[val])}, digest


def _cnn(dropout: float) -> nn.Module:
    drop: list[nn.Module] = [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        *drop,
        nn.Linear(128, CLASSES),
    )
