"""Which process writes to the directory of a run or a sweep: one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from runner.errors import ConfigError, Problem
from runner.tracking.directory import WRITER_LOCK


@contextmanager
def alone_in(directory: Path, *, key: str, what: str) -> Iterator[None]:
    """Keep other processes from writing to a directory.

    Args:
        directory: of a run or a sweep.
        key: dotted key that names it, for the message.
        what: the rule for what it must be, such as "a run that no other process is writing".
    Raises:
        ConfigError: another process writes to it, or nobody can.
    """
    lock = FileLock(directory / WRITER_LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        rule = f"must be {what}, got {str(directory)!r}"
        raise ConfigError([Problem(key, rule, "Wait for its end, or interrupt it")]) from None
    except OSError as error:
        rule = f"must be a directory that can be written to, got {str(directory)!r} ({error.strerror})"
        raise ConfigError([Problem(key, rule, "Mend its rights")]) from None
    try:
        yield
    finally:
        lock.release()


def is_locked(directory: Path) -> bool:
    """Whether a process is writing to a directory."""
    path = directory / WRITER_LOCK
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
