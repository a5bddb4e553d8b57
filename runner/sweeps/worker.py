"""One job of a sweep, maybe in a process of its own."""

from __future__ import annotations

import contextlib
import functools
import io
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from signal import SIGINT

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from runner.errors import in_words
from runner.job import run
from runner.records import RunResult
from runner.search.judge import Judge, find_judge, read_judge
from runner.sweeps.signals import interruptible
from runner.tracking.address import shown
from runner.tracking.directory import TRACEBACK
from runner.tracking.lock import is_locked
from runner.tracking.sweep_file import STOP, Sweep, find_sweep

_POLL_SECONDS = 1.0
_busy = threading.Lock()


def run_in_sweep(composed: DictConfig) -> str:
    """Run one job of a sweep, maybe in a process of its own; print nothing but warnings, raise nothing.

    After SIGINT or SIGTERM it ends as soon as its run is saved, and no further job of the sweep starts.

    Returns:
        why it failed, as a person reads it; "" when it did not, for the rest is on disk.
    """
    _leave_with_parent()
    directory = Path(HydraConfig.get().sweep.dir)
    stop = directory / STOP
    sweep = find_sweep(directory)
    is_orphan = sweep is not None and not is_locked(directory)  # the parent was killed
    if stop.exists() or is_orphan:
        return ""  # the disk says that it has not begun
    if sweep is not None:
        _take_command_line(sweep)
    prune = _judge(directory, sweep) if sweep is not None else None
    return quietly(lambda: run(composed, prune=prune), directory, name=HydraConfig.get().job.override_dirname)


def _take_command_line(sweep: Sweep) -> None:
    """Give a worker of Ray, which has a command line of its own, that of its sweep."""
    if Path(sys.argv[0]).name == "default_worker.py":
        sys.argv[1:] = [*sweep.page, "--multirun", *sweep.overrides]


def _judge(directory: Path, sweep: Sweep) -> Judge | None:
    """Return what says at every evaluation whether the run is given up; None where its sweep prunes nothing."""
    if read_judge(directory) is None:
        return None
    key = sweep.key(HydraConfig.get().overrides.task)
    job = next((job.number for job in sweep.jobs if sweep.key(job.overrides) == key), None)
    try:
        return find_judge(directory, job) if job is not None else None
    except Exception as error:  # whatever a storage raises
        print(f"warning search: the run is not pruned, for its study fails: {shown(in_words(error))}", file=sys.stderr)
        return None


def quietly(job: Callable[[], RunResult | None], directory: Path, *, name: str) -> str:
    """Run one job of a sweep; print nothing but warnings, raise nothing.

    Args:
        job: returns what came of its run.
        directory: of the sweep; `.stop` is written there after a signal, and the traceback of a job that fails.
        name: of the job, for the traceback.
    Returns:
        why it failed, as a person reads it; "" when it did not.
    """
    stop = directory / STOP
    try:
        with _busy, interruptible(stop), contextlib.redirect_stdout(io.StringIO()):
            result = job()
            if result is not None and result.signal is not None:
                stop.write_text(str(result.signal), encoding="utf-8")
        return ""
    except KeyboardInterrupt:
        if not stop.exists():
            stop.write_text(str(int(SIGINT)), encoding="utf-8")
        return ""
    except Exception as error:
        _keep_traceback(directory / TRACEBACK, name)
        return in_words(error)


@functools.cache
def _leave_with_parent() -> None:
    """Let a worker end when the sweep was killed and its job is done; it would wait for the next one forever."""
    if multiprocessing.current_process().name != "MainProcess":
        threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    with _busy:
        os._exit(1)


def _keep_traceback(path: Path, name: str) -> None:
    """Append the traceback of the job that has just failed."""
    text = f"{name}\n{traceback.format_exc()}\n"
    with contextlib.suppress(OSError), path.open("a", encoding="utf-8") as file:
        file.write(text)
