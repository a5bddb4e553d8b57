"""Reading the items of a data set into batches: the same values in every process, and problems in words."""

from __future__ import annotations

import hashlib
import random
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from runner.errors import Problem, TaskError
from runner.tasks.described import described, first_line
from runner.tasks.protocol import Batch

Collate = Callable[[list[Any]], Batch]


class Request(NamedTuple):
    """Which examples to read: positions in the data set, and the epoch that their randomness belongs to."""

    epoch: int
    indices: Tensor | list[int]


class Unreadable(NamedTuple):
    """What a reader returns in place of a batch: an exception would lose its text on the way out of a worker."""

    problem: Problem
    trace: str

    def as_error(self) -> TaskError:
        """Return the problem as an exception, with the traceback of where it happened as a note."""
        error = TaskError(self.problem)
        error.add_note(self.trace)
        return error


class Read(Protocol):
    """Reads a batch."""

    def __getitem__(self, request: Request) -> Batch | Unreadable: ...


class Rows:
    """Reads batches of tensors that lie in memory, without a step for each example.

    Args:
        tensors: one row an example.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = tuple(tensors)

    def __getitem__(self, request: Request) -> list[Tensor]:
        """Return the rows, as torch's `default_collate` would."""
        return [tensor[request.indices] for tensor in self.tensors]


class Items:
    """Reads batches of any map-style data set, item by item.

    Before each item torch, Python's `random` and numpy are seeded from (seed, split, epoch, index), and afterwards
    they are put back: an item that draws its own randomness is the same in every process, whatever was read before.

    Args:
        dataset: has `__len__` and `__getitem__`.
        key: dotted key of the data set, for messages.
        entropy: numbers that the randomness of the items is drawn from: the run's seed and the split.
        collate: items -> batch; None is torch's `default_collate`.
    """

    def __init__(self, dataset: Any, *, key: str, entropy: Sequence[int], collate: Collate | None) -> None:
        self.dataset = dataset
        self.key = key
        self.entropy = tuple(entropy)
        self.collate = collate

    def __getitem__(self, request: Request) -> Batch | Unreadable:
        """Return the batch, or why it cannot be read."""
        items: list[Any] = []
        indices = request.indices if isinstance(request.indices, list) else request.indices.tolist()
        with _generators_kept():
            for index in indices:
                _seed((*self.entropy, request.epoch, index))
                try:
                    items.append(self.dataset[index])
                except (Exception, SystemExit) as error:  # an exit would end a worker without a word
                    rule = f"must give an item at every index, got {first_line(error)} at index {index}"
                    return Unreadable(Problem(self.key, rule, "Mend the item or leave it out"), traceback.format_exc())
            if self.collate is not None:  # it may draw, too
                _seed((*self.entropy, request.epoch, indices[0], 1))
            try:
                return (self.collate or default_collate)(items)
            except (Exception, SystemExit) as error:
                return Unreadable(self._misfit(items, indices, error), traceback.format_exc())

    def _misfit(self, items: list[Any], indices: list[int], error: BaseException) -> Problem:
        """Say which item differs from the first, or what the collate function does not take."""
        first = described(items[0])
        odd = next((n for n, item in enumerate(items) if described(item) != first), None)
        name = "torch's default_collate" if self.collate is None else "task.collate"
        fix = "Make all items alike" if odd is not None else "Return tensors, arrays or numbers"
        if odd is None:
            rule = f"must give items that {name} can join, got {first} at index {indices[0]}, and {first_line(error)}"
        else:
            other = f"{described(items[odd])} at index {indices[odd]} beside {first} at index {indices[0]}"
            rule = f"must give items that {name} can join, got {other}"
        return Problem(self.key, rule, f"{fix}, or join them by a function at task.collate._target_")


@contextmanager
def _generators_kept() -> Iterator[None]:
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])


def _seed(entropy: tuple[int, ...]) -> None:
    digest = hashlib.blake2b(repr(entropy).encode(), digest_size=8).digest()
    mixed = int.from_bytes(digest, "little")  # numpy's SeedSequence would take longer than all the rest
    torch.default_generator.manual_seed(mixed)
    random.seed(mixed)
    np.random.seed(mixed % 2**32)
