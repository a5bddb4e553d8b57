"""A split of a data set, handed out in batches as a function of the step, with worker processes or without."""

from __future__ import annotations

import atexit
import copy
import itertools
import signal
import traceback
import weakref
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader, Sampler

from runner.errors import Problem
from runner.tasks.described import first_line
from runner.tasks.items import Read, Request, Unreadable
from runner.tasks.order import EpochOrder, in_order
from runner.tasks.protocol import Batch

_GRACE_SECONDS = 10


class Position(NamedTuple):
    """Slice `part` of `parts` of the batch at a step."""

    step: int
    part: int
    parts: int


class Agenda:
    """Which examples of a split are where: a function of the position alone.

    Args:
        members: positions in the data set that belong to the split, int64.
        batch_size: examples of a batch.
        seed: orders the examples afresh every epoch; None reads them from front to back, once.
    """

    def __init__(self, members: Tensor, *, batch_size: int, seed: int | None) -> None:
        self._members = members
        self._batch_size = batch_size
        self._order = None if seed is None else EpochOrder(len(members), batch_size=batch_size, seed=seed)
        self._steps = -(-len(members) // batch_size)

    @property
    def is_shuffled(self) -> bool:
        """Whether the order is a fresh one every epoch."""
        return self._order is not None

    def size(self, position: Position) -> int:
        """Return how many examples a slice has."""
        step, part, parts = position
        if self._order is None and step >= self._steps:
            return 0
        whole = min(self._batch_size, len(self._members) - step % self._steps * self._batch_size)
        return whole // parts + (part < whole % parts)

    def at(self, position: Position) -> Request:
        """Return what to read at a position."""
        step, part = position.step, (position.part, position.parts)
        if self._order is None:
            rows = in_order(len(self._members), step, batch_size=self._batch_size, part=part)
            return Request(0, self._members[rows])
        return Request(step // self._steps, self._members[self._order.indices(step, part)])

    def after(self, position: Position) -> Iterator[Position]:
        """Yield what comes in order after a position, without end; empty slices are left out.

        A split that is read from front to back begins anew past its end.
        """
        step, part, parts = position
        while True:
            part += 1
            if part == parts:
                step, part = step + 1, 0
            if self._order is None:
                step %= self._steps
            if self.size(Position(step, part, parts)):
                yield Position(step, part, parts)


class Split:
    """One split, in batches.

    In-order access is read ahead by worker processes; anything else is read here and now, and where the next
    access follows it in order, the workers start again from there. The workers of a split that is read from front to
    back live on between two evaluations.

    Args:
        read: reads a batch.
        agenda: what to read when.
        workers: processes; 0 reads in this one.
        pin: put batches into page-locked memory, for a faster way to a CUDA device.
    """

    def __init__(self, read: Read, agenda: Agenda, *, workers: int, pin: bool) -> None:
        self._read = read
        self._agenda = agenda
        self._workers = workers
        self._pin = pin and torch.cuda.is_available()
        self._ahead: Iterator[Batch | Unreadable] | None = None
        self._coming: Iterator[Position] = iter(())
        self._next: Position | None = None
        self._latest: tuple[Position, Batch] | None = None
        _OPEN.add(self)

    def batch(self, step: int, part: tuple[int, int]) -> Batch | None:
        """Return slice i of n of the batch at a step, None when it is empty.

        Raises:
            TaskError: an item cannot be read or joined to the others, or a worker process died.
        """
        position = Position(step, *part)
        if self._agenda.size(position) == 0:
            return None
        if self._latest is not None and self._latest[0] == position:
            return self._latest[1]  # asked for again: to read it anew would end the workers
        if position == self._next and self._workers:
            if self._ahead is None:
                self._ahead = self._started(position)
            batch = self._taken(self._ahead)
        else:
            self.close()
            batch = self._read[self._agenda.at(position)]
            if self._pin:
                batch = tree_map_only(Tensor, Tensor.pin_memory, batch)
            self._coming = self._agenda.after(position)
        self._next = next(self._coming)
        if isinstance(batch, Unreadable):
            self.close()
            raise batch.as_error()
        if self._workers and self._agenda.is_shuffled:
            self._latest = position, batch
        return batch

    def close(self) -> None:
        """Stop the worker processes, if there are any."""
        self._ahead = self._next = self._latest = None

    def _started(self, position: Position) -> Iterator[Batch | Unreadable]:
        loader: DataLoader[Batch] = DataLoader(
            self._read,  # type: ignore[arg-type]
            batch_size=None,
            sampler=_Ahead(self._agenda, position),
            num_workers=self._workers,
            collate_fn=_same,
            pin_memory=self._pin,
            worker_init_fn=_outlive_signals,
            generator=torch.Generator(),
        )
        before = signal.getsignal(signal.SIGCHLD)
        iterator = iter(loader)
        if signal.getsignal(signal.SIGCHLD) is not before:
            # torch's handler raises in the middle of whatever runs; without it the next batch tells of a dead worker
            signal.signal(signal.SIGCHLD, before)
        return iterator

    def _taken(self, iterator: Iterator[Batch | Unreadable]) -> Batch | Unreadable:
        try:
            return next(iterator)
        except (RuntimeError, OSError, EOFError) as error:  # EOFError: it died while it sent a batch
            rule = f"must be processes that stay alive, got {first_line(error)}"
            fix = "Set task.workers=0 to see what happens, or fewer workers if memory ran out"
            return Unreadable(Problem("task.workers", rule, fix), traceback.format_exc())


class _Ahead(Sampler[Request]):
    """Requests from a position on; it must not know the split, whose end it would put off to a garbage collection."""

    def __init__(self, agenda: Agenda, position: Position) -> None:
        self._agenda = copy.deepcopy(agenda)  # reads ahead into the next epoch, whose order would replace this one's
        self._position = position

    def __iter__(self) -> Iterator[Request]:
        for position in itertools.chain([self._position], self._agenda.after(self._position)):
            epoch, indices = self._agenda.at(position)
            yield Request(epoch, indices.tolist())  # type: ignore[union-attr]  # a tensor would travel as a file


def _same(batch: Batch) -> Batch:
    return batch


def _outlive_signals(worker: int) -> None:
    """Let a worker go on after Ctrl-C, which reaches it too: the program ends it when the last step is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(_GRACE_SECONDS))


_OPEN: weakref.WeakSet[Split] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # before multiprocessing ends the workers by force
    for split in list(_OPEN):
        split.close()
