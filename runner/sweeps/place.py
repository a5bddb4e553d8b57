"""Where a sweep lies, and who may write there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from runner.errors import ConfigError, Problem
from runner.sweeps.resume import KEY, read_resumed, refuse_if_alive
from runner.tracking.directory import SWEEP
from runner.tracking.lock import alone_in
from runner.tracking.sweep_file import STOP
from runner.tracking.sweep_runs import SweepRuns

_KEY = "hydra.sweep.dir"


def new_directory(directory: Path) -> Path:
    """Make the directory of a new sweep.

    Raises:
        ConfigError: another sweep is there, or it cannot be made.
    """
    if (directory / SWEEP).exists():
        rule = f"must be a directory without a sweep, got {str(directory)!r}"
        raise ConfigError([Problem(_KEY, rule, f"Set {KEY}={directory} to go on with it")])
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / STOP).unlink(missing_ok=True)  # of a sweep that was there before
    except OSError as error:
        rule = f"must be a directory that can be made and written to, got {str(directory)!r} ({error.strerror})"
        raise ConfigError([Problem(_KEY, rule, "Run from a directory you may write to")]) from None
    return directory


def alone(directory: Path) -> AbstractContextManager[None]:
    """Keep other processes out of the directory of a sweep.

    Raises:
        ConfigError: another process runs it, or it cannot be written to.
    """
    return alone_in(directory, key=KEY, what="a sweep that no other process is running")


@contextmanager
def reopened(directory: Path) -> Iterator[SweepRuns]:
    """Keep other processes out of the directory of a sweep that goes on; return what its runs came to.

    What is there is read once they are out: one that ends at this moment still adds to it.

    Raises:
        ConfigError: there is none, it was started elsewhere, or another process runs it.
    """
    read_resumed(directory)  # before a lock is put where no sweep is
    with alone(directory):
        runs = SweepRuns(read_resumed(directory), Path.cwd())
        refuse_if_alive(directory, runs.directories())
        (directory / STOP).unlink(missing_ok=True)  # a signal that ended an earlier launch is forgotten
        yield runs
