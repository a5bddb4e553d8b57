"""The end of a task: no worker process outlives what it reads for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from runner.errors import AGAINST_EXIT, Problem, TaskError, with_place
from runner.tasks.protocol import Task


@runtime_checkable
class Closable(Protocol):
    """A task that holds more than memory."""

    def close(self) -> None:
        """End worker processes and the like; a batch that is asked for afterwards starts them again."""
        ...


@contextmanager
def in_use(task: Task) -> Iterator[None]:
    """Read batches of a task inside; at the end, however it comes, the task is closed.

    Raises:
        TaskError: code of the task ended the program.
    """
    try:
        yield
    except SystemExit as error:
        raise without_exit(error) from error
    finally:
        if isinstance(task, Closable):
            task.close()


def without_exit(error: Exception | SystemExit) -> Exception:
    """Return an error as it is, or what is wrong with code of the task that ends the program."""
    if isinstance(error, Exception):
        return error
    found = TaskError(Problem("task", f"must not end the program, got {with_place(error)}", AGAINST_EXIT))
    found.__cause__ = error
    return found
