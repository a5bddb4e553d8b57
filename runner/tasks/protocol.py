"""What a task is: a model, data as a function of the step, a loss, metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from torch import Tensor, nn

Batch = Any
"""What one call of the loss takes: a tensor, or tuples, lists and dicts of tensors."""


class LossSum(NamedTuple):
    """A sum over a batch; means of ragged batches cannot be averaged, sums and weights can.

    Attributes:
        total: sum of the loss over the batch, a scalar tensor that can be differentiated.
        examples: number of examples in it.
        outputs: what the model returned, for `Scores.update`.
    """

    total: Tensor
    examples: int
    outputs: Any


class Scores(Protocol):
    """Metrics of one pass over a split, gathered batch by batch: F1 or AUROC are no means over batches."""

    def update(self, outputs: Any, batch: Batch) -> None:
        """Take in the outputs of one batch."""
        ...

    def compute(self, loss: float) -> dict[str, float]:
        """Return metric -> value over all batches, without the loss; `loss` is the mean over the split."""
        ...


class Task(Protocol):
    """A task knows no optimizer, learning rate, device, rank, precision or tracking.

    A task that holds processes or files also has a method `close`: see `runner.tasks.closing`.

    Attributes:
        examples: split -> number of examples; empty when the task has no data set (then no epochs either);
            the same for every seed and batch size, as are the goals.
        goals: metrics that an evaluation reports -> whether less or more is better; always has "loss".
        digest: fingerprint of the data.
        prior_entropy: entropy of the training targets in nats: the loss of a model that has learned nothing but how
            often each target comes; None where that is unknown or means nothing.
        remarks: what the user should know of the data before it trains, a sentence each, the key first.
    """

    @property
    def examples(self) -> Mapping[str, int]: ...

    @property
    def goals(self) -> Mapping[str, Literal["min", "max"]]: ...

    @property
    def digest(self) -> str: ...

    @property
    def prior_entropy(self) -> float | None: ...

    @property
    def remarks(self) -> Sequence[str]: ...

    def model(self) -> nn.Module:
        """Return a freshly initialised model; draws from torch's global generator."""
        ...

    def batch(self, step: int, split: str, part: tuple[int, int] = (0, 1)) -> Batch | None:
        """Return slice i of n of the batch of a step, on the CPU; None when the slice is empty.

        The same step gives the same batch, always. Splits other than "train" are read in order:
        there `step` counts batches from the beginning of the split.
        """
        ...

    def weight(self, batch: Batch) -> float:
        """Return what the loss summed over a batch is divided by: examples, or tokens that count; 0 where none does.

        The batch is on the CPU still: to read a value of it on a GPU would make the host wait at every step.
        """
        ...

    def loss(self, apply: Callable[..., Any], batch: Batch, weight: float) -> LossSum:
        """Return the summed loss of a batch of this weight; calls `apply` (the model, wrapped or not) exactly once.

        Nothing in here may bring a value from the device to the host.
        """
        ...

    def scores(self) -> Scores:
        """Return fresh metrics for one pass over a split."""
        ...
