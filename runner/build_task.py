"""The node of a task -> the task, made once for a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from runner.assemble import make
from runner.config import TaskNode
from runner.durations import Clock
from runner.tasks.protocol import Task


class TaskFacts(NamedTuple):
    """What `check` asks of a task; kept where the task is not."""

    examples: Mapping[str, int]
    goals: Mapping[str, Literal["min", "max"]]


_LAST_TASK: dict[tuple[str, int, int], Task] = {}
_TASK_FACTS: dict[str, TaskFacts] = {}


def build_task(node: TaskNode, *, batch_size: int, seed: int) -> Task:
    """Make the task, or return the one made last where it is the same, so that a run reads its data once.

    Raises:
        ConfigError: it refuses its arguments or cannot get its data.
    """
    key = (_data_key(node), batch_size, seed)
    if key not in _LAST_TASK:
        _LAST_TASK.clear()  # first, so that two data sets never lie in memory at once
        _LAST_TASK[key] = make_task(node, batch_size=batch_size, seed=seed)
    return _LAST_TASK[key]


def make_task(node: TaskNode, *, batch_size: int, seed: int) -> Task:
    """Make the task anew.

    Raises:
        ConfigError: it refuses its arguments or cannot get its data.
    """
    task: Task = make("task", node, Clock(batch_size), {"batch_size": batch_size, "seed": seed})
    return task


def task_facts(node: TaskNode, *, batch_size: int, seed: int) -> TaskFacts:
    """Return the facts of a task, the same for every seed and batch size: the jobs of a grid need not all be built."""
    key = _data_key(node)
    if key not in _TASK_FACTS:
        task = build_task(node, batch_size=batch_size, seed=seed)
        _TASK_FACTS[key] = TaskFacts(dict(task.examples), dict(task.goals))
    return _TASK_FACTS[key]


def _data_key(node: TaskNode) -> str:
    """Return what a task is made of, and where, as paths may be relative."""
    return f"{Path.cwd()} {node.model_dump_json(by_alias=True, exclude={'init_from', 'regime', 'examples'})}"
