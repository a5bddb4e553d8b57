"""Data that lies in memory as tensors, handed out in batches as a function of the step."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from runner.tasks.order import EpochOrder, in_order


class TensorData:
    """Splits of tensors that share their first dimension.

    Args:
        splits: split -> tensors with one row an example; "train" is handed out in a fresh order every epoch, the
            others from front to back.
        batch_size: examples per optimizer step.
        seed: the run's seed, which orders the training data.
    """

    def __init__(self, splits: Mapping[str, tuple[Tensor, ...]], *, batch_size: int, seed: int) -> None:
        self._splits = dict(splits)
        self._batch_size = batch_size
        self.examples = {split: len(tensors[0]) for split, tensors in splits.items()}
        self._order = EpochOrder(self.examples["train"], batch_size=batch_size, seed=seed)

    def batch(self, step: int, split: str, part: tuple[int, int] = (0, 1)) -> tuple[Tensor, ...] | None:
        """Return the rows of slice i of n of a batch, None when the slice is empty."""
        if split == "train":
            indices = self._order.indices(step, part)
        else:
            indices = in_order(self.examples[split], step, batch_size=self._batch_size, part=part)
        if not indices.numel():
            return None
        return tuple([tensor.index_select(0, indices) for tensor in self._splits[split]])


def fingerprint(*tensors: Tensor) -> str:
    """Return 16 hex digits of the SHA-256 of the tensors' bytes."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def entropy(targets: Tensor) -> float:
    """Return the entropy of the classes in nats: -sum p log p over their shares p."""
    shares = torch.unique(targets, return_counts=True)[1].double() / targets.numel()
    return float(-(shares * shares.log()).sum())
