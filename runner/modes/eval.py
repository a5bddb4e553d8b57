"""mode=eval: a checkpoint of a run, evaluated on any split of its task."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from runner.build_task import build_task
from runner.config import Config, Invocation
from runner.errors import CheckpointError, ConfigError, Problem
from runner.load import evaluate_checkpoint
from runner.records import EvalRecord
from runner.tasks.described import first_line
from runner.tasks.protocol import Task
from runner.tracking.directory import RECORDS, RESULT
from runner.tracking.jsonl import append_evaluation, find_result, read_records
from runner.tracking.tables import number, print_table
from runner.train.saved import Weights, find_checkpoint, has_average

_MEND = ". Mend or remove it to see what the run recorded"


def run(
    config: Config,
    invocation: Invocation,
    *,
    split: str = "val",
    checkpoint: str = "best",
    weights: Weights = "averaged",
) -> None:
    """Evaluate, print metric by metric beside what the run recorded, and append a line to `evaluations.jsonl`.

    Args:
        config: that of the run `source`, with the command line on top.
        invocation: how the program was called.
        split: which data; "train" is one pass over the training examples.
        checkpoint: "best", "last", or the path of a checkpoint.
        weights: "averaged" takes those of the weight average where there is one.

    Raises:
        ConfigError: no such split or checkpoint, or one of another model.
    """
    directory = Path(str(config.source.path))
    task = build_task(config.task, batch_size=config.train.batch_size, seed=config.seed)
    path = _found(directory, checkpoint, task, split)
    started = time.monotonic()
    try:
        step, metrics = evaluate_checkpoint(config, path, split, weights=weights)
    except CheckpointError as error:
        rule = f"must be a readable checkpoint, but {str(error).rstrip('.')}"
        raise ConfigError([Problem("mode.checkpoint", rule, "Set mode.checkpoint to another one")]) from error
    seconds = round(time.monotonic() - started, 3)
    same_weights = weights == "averaged" or not has_average(path)
    recorded, damage = _recorded(directory, task, step, split) if same_weights else ({}, "")
    print(f"{directory.name}: {path.name} of step {step:,}, {split}")
    print_table(
        ["metric", "value", "recorded"],
        [[name, number(value), number(recorded.get(name))] for name, value in metrics.items()],
    )
    if damage:
        print(f"warning {damage}.", file=sys.stderr)
    append_evaluation(
        directory,
        {
            "time_ms": time.time_ns() // 1_000_000,
            "split": split,
            "checkpoint": str(path),
            "step": step,
            "weights": weights,
            "metrics": metrics,
            "recorded": recorded,
            "digest": task.digest,
            "overrides": invocation.overrides,
            "seconds": seconds,
        },
    )
    print(config.source.path, flush=True)


def _found(directory: Path, checkpoint: str, task: Task, split: str) -> Path:
    """Return the checkpoint.

    Raises:
        ConfigError: there is no such checkpoint or split; both are named.
    """
    problems = []
    splits = list(task.examples) or ["train"]
    if split not in splits:
        rule = f"must be a split of the task ({', '.join(splits)}), got {split!r}"
        problems.append(Problem("mode.split", rule, f"Set mode.split={splits[-1]}"))
    try:
        path = find_checkpoint(directory, checkpoint)
    except CheckpointError as error:
        rule = str(error).removeprefix("checkpoint: ").rstrip(".")
        problems.append(Problem("mode.checkpoint", rule, "Set another one, or wait for the run's first checkpoint"))
    if problems:
        raise ConfigError(problems)
    return path


def _recorded(directory: Path, task: Task, step: int, split: str) -> tuple[Mapping[str, float], str]:
    """Return what the run itself found with these weights on this split, and why nothing compares, or ""."""
    result = find_result(directory)
    if result is None:
        return {}, f"{directory / RESULT}: must be a readable result, it is missing or damaged{_MEND}"
    if result.dataset.get("digest") != task.digest:
        return {}, "source: the data is not that of the run, so nothing it recorded compares"
    try:
        found = [r for r in read_records(directory) if isinstance(r, EvalRecord) and (r.step, r.split) == (step, split)]
    except UnicodeDecodeError:
        return {}, f"{directory / RECORDS}: must be text in UTF-8, it is damaged{_MEND}"
    except ValueError as error:
        return {}, str(error).rstrip(".") + _MEND
    except (OSError, TypeError) as error:
        return {}, f"{directory / RECORDS}: must be readable records, got {first_line(error)}{_MEND}"
    return (found[-1].metrics if found else {}), ""
