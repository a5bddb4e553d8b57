"""What runs in one pass share: tasks with the same data, and the time."""

from __future__ import annotations

import time
from collections.abc import Callable

from runner.config import Config
from runner.tasks.protocol import Task


class SharedTasks:
    """One task for all runs with the same data in the same order: lanes with one task object share its batches."""

    def __init__(self) -> None:
        self._made: dict[str, Task] = {}

    def of(self, config: Config, task: Task) -> Task:
        """Return the task that was made for a configuration, or an earlier one that is the same."""
        key = f"{config.task.model_dump_json()} {config.train.batch_size} {config.seed}"
        return self._made.setdefault(key, task)


class SharedClock:
    """Goes as many times slower as runs share the time: what each reads between its begin and its end is its share.

    Args:
        real: the seconds that pass.
    """

    def __init__(self, real: Callable[[], float] = time.monotonic) -> None:
        self._real = real
        self._runs = 0
        self._seconds, self._latest = 0.0, real()

    def __call__(self) -> float:
        """Return the seconds so far."""
        before, self._latest = self._latest, self._real()
        self._seconds += (self._latest - before) / max(1, self._runs)
        return self._seconds

    def change(self, by: int) -> None:
        """Let a run share from now on, or no longer."""
        self()
        self._runs += by
