"""The order of the data, as a function of the step."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


class EpochOrder:
    """Every example once an epoch, in an order drawn afresh from (seed, epoch).

    epoch = step // E, with E = ceil(n / B) batches; the last batch of an epoch may be smaller.

    Args:
        examples: n, examples in the data set.
        batch_size: B, examples per optimizer step.
        seed: the run's seed.
    """

    def __init__(self, examples: int, *, batch_size: int, seed: int) -> None:
        self.examples = examples
        self.batch_size = batch_size
        self.seed = seed
        self.steps_per_epoch = math.ceil(examples / batch_size)
        self._epoch = -1
        self._batches: tuple[Tensor, ...] = ()

    def indices(self, step: int, part: tuple[int, int] = (0, 1)) -> Tensor:
        """Return the examples of slice i of n of the batch at this step, int64, shape (k,)."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            # seed + epoch would give seed 1 the orders of seed 0, one epoch late
            mixed = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0])
            generator = torch.Generator().manual_seed(mixed)
            self._batches = torch.split(torch.randperm(self.examples, generator=generator), self.batch_size)
            self._epoch = epoch
        return _slice(self._batches[batch], part)


def in_order(examples: int, step: int, *, batch_size: int, part: tuple[int, int] = (0, 1)) -> Tensor:
    """Return the examples of batch `step` of a split that is read from front to back."""
    return _slice(torch.arange(examples)[step * batch_size : (step + 1) * batch_size], part)


def _slice(indices: Tensor, part: tuple[int, int]) -> Tensor:
    index, count = part
    return indices if count == 1 else indices.tensor_split(count)[index]
