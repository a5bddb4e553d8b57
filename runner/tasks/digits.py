"""Handwritten digits: 1,797 images of 8 x 8 pixels in ten classes, shipped with scikit-learn."""

from __future__ import annotations

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
from runner.tasks.order import EpochOrder, in_order
from runner.tasks.protocol import LossSum

TRAIN_EXAMPLES = 1400
SPLIT_SEED = 0


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
        self.batch_size = batch_size
        self._data, self.digest = _load()
        self.examples = {split: len(targets) for split, (_, targets) in self._data.items()}
        self._order = EpochOrder(self.examples["train"], batch_size=batch_size, seed=seed)

    def model(self) -> nn.Module:
        """Return a freshly initialised network: (n, 64) pixels -> (n, 10) logits."""
        return _cnn(self.dropout) if self.architecture == "cnn" else _mlp(self.hidden, self.dropout)

    def batch(self, step: int, split: str, part: tuple[int, int] = (0, 1)) -> tuple[Tensor, Tensor] | None:
        """Return (pixels float32 (n, 64), classes int64 (n,)) of a slice of a batch, None when it is empty."""
        inputs, targets = self._data[split]
        if split == "train":
            indices = self._order.indices(step, part)
        else:
            indices = in_order(len(targets), step, batch_size=self.batch_size, part=part)
        return (inputs[indices], targets[indices]) if len(indices) else None

    def loss(self, apply: Callable[..., Any], batch: tuple[Tensor, Tensor]) -> LossSum:
        """Return the cross entropy summed over the batch, in nats."""
        inputs, targets = batch
        logits, examples = apply(inputs), targets.numel()
        return LossSum(nn.functional.cross_entropy(logits, targets, reduction="sum"), examples, examples, logits)

    def metrics(self, outputs: Tensor, batch: tuple[Tensor, Tensor]) -> dict[str, tuple[float, float]]:
        """Return the number of right answers and of answers."""
        targets = batch[1]
        return {"accuracy": (float((outputs.argmax(dim=-1) == targets).sum()), float(len(targets)))}


def _load() -> tuple[dict[str, tuple[Tensor, Tensor]], str]:
    # scikit-learn's loader would import the library, which costs a second
    spec = importlib.util.find_spec("sklearn")
    path = Path(spec.origin).parent / "datasets/data/digits.csv.gz" if spec and spec.origin else None
    if path is None or not path.exists():
        raise TaskError("task: must find scikit-learn's digits. Install it with: pip install scikit-learn.")
    table = np.loadtxt(path, delimiter=",", dtype=np.float32)
    digest = hashlib.sha256(table.tobytes()).hexdigest()[:16]
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(SPLIT_SEED))
    inputs, targets = torch.from_numpy(table[:, :64]) / 16.0, torch.from_numpy(table[:, 64]).long()
    train, val = order[:TRAIN_EXAMPLES], order[TRAIN_EXAMPLES:]
    inputs = inputs - inputs[train].mean(dim=0)
    return {"train": (inputs[train], targets[train]), "val": (inputs[val], targets[val])}, digest


def _mlp(hidden: tuple[int, ...], dropout: float) -> nn.Module:
    layers: list[nn.Module] = []
    width = 64
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ReLU()]
        layers += [nn.Dropout(dropout)] if dropout else []
        width = size
    return nn.Sequential(*layers, nn.Linear(width, 10))


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
        nn.Linear(128, 10),
    )
