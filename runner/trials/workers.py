"""backend=processes: trials in worker processes, several at once; one that dies takes no trial with it but its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from signal import Signals
from typing import NamedTuple

from runner.trials.trial import Batch, Trial, make_run

_POLL_SECONDS = 0.2  # another thread may have caught a signal, which this one then handles
_LAST_SECONDS = 5.0  # for a worker that has nothing to do to end


_BEGUN = None
"""what a worker says when it takes a trial up"""


class _Worker(NamedTuple):
    """A worker process, and how it is spoken to."""

    process: BaseProcess
    connection: Connection


@dataclass
class _AtWork:
    """A trial that a worker was given, and whether it has taken it up."""

    worker: _Worker
    trial: Trial
    has_begun: bool = False


class Workers:
    """Worker processes, kept from batch to batch.

    Args:
        most: how many there are at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._workers: list[_Worker] = []

    def run(self, trials: Sequence[Trial], batch: Batch) -> None:
        """Make the runs; those that fail are named in `batch.errors`.

        A trial whose worker died before it took it up is given to another one, once.
        """
        waiting, at_work, lost = deque(trials), dict[Connection, _AtWork](), set[int]()
        while True:
            idle = self._living([worker for worker in self._workers if worker.connection not in at_work])
            while waiting and len(at_work) < self._most and not batch.is_stopped:
                worker = idle.pop() if idle else self._start()
                with contextlib.suppress(OSError):  # it has died, which shows when it is listened to
                    worker.connection.send((waiting[0], batch.directory, batch.on_eval is not None))
                at_work[worker.connection] = _AtWork(worker, waiting.popleft())
            if not at_work:
                return
            for connection in wait(list(at_work), _POLL_SECONDS):
                assert isinstance(connection, Connection)
                one = at_work[connection]
                if not self._hear(one, batch):
                    continue
                del at_work[connection]
                if not one.has_begun and one.trial.job.number not in lost:
                    lost.add(one.trial.job.number)
                    batch.errors.pop(one.trial.job.number, None)
                    waiting.appendleft(one.trial)

    def pass_on(self, number: int) -> None:
        """Send a signal to all workers."""
        for worker in list(self._workers):
            if worker.process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.process.pid, number)

    def close(self) -> None:
        """Let the workers end."""
        for worker in self._workers:
            worker.connection.close()
        for worker in self._workers:
            worker.process.join(_LAST_SECONDS)
            if worker.process.exitcode is None:
                worker.process.kill()
        self._workers.clear()

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")  # a fork would inherit the threads of torch as they are
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(there,), daemon=True)
        process.start()
        there.close()
        self._workers.append(worker := _Worker(process, here))
        return worker

    def _living(self, idle: Sequence[_Worker]) -> list[_Worker]:
        """Forget workers that died while they had nothing to do; return the others."""
        for worker in idle:
            if not worker.process.is_alive():
                self._forget(worker)
        return [worker for worker in idle if worker in self._workers]

    def _forget(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.connection.close()
        worker.process.join()

    def _hear(self, one: _AtWork, batch: Batch) -> bool:
        """Take in what a worker says; return whether its trial has ended."""
        worker, trial = one.worker, one.trial
        try:
            said = worker.connection.recv()
        except (EOFError, OSError):
            self._forget(worker)
            if not batch.is_stopped:  # what was interrupted has not failed
                batch.errors[trial.job.number] = _death(worker.process.exitcode)
            return True
        if said is _BEGUN:
            one.has_begun = True
            return False
        if isinstance(said, str):
            if said:
                batch.errors[trial.job.number] = said
            return True
        step, metrics = said
        with contextlib.suppress(OSError):
            worker.connection.send(batch.on_eval is not None and batch.on_eval(trial.place, step, metrics))
        return False


def _death(code: int | None) -> str:
    """Return how a worker has ended, in words."""
    how = f"{Signals(-code).name}({code})" if code is not None and code < 0 else f"exit code {code}"
    return f"its worker process ended with {how}, maybe for want of memory"


def _work(connection: Connection) -> None:
    """Make the runs that come, until no more do; a worker whose parent was killed ends its run first."""
    from runner.sweeps.worker import quietly

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    while True:
        try:
            trial, directory, is_asked = connection.recv()
        except (EOFError, OSError):
            return
        with contextlib.suppress(OSError):
            connection.send(_BEGUN)
        prune = partial(_ask, connection) if is_asked else None
        error = quietly(partial(make_run, trial, prune), Path(directory), name=trial.job.name)
        with contextlib.suppress(OSError):
            connection.send(error)


def _ask(connection: Connection, step: int, planned: int, metrics: Mapping[str, float]) -> bool:
    """Ask the process of the sweep whether the trial is given up; where that has died it is not."""
    try:
        connection.send((step, dict(metrics)))
        return bool(connection.recv())
    except (EOFError, OSError):
        return False
