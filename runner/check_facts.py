"""Rules that take the data and the machine to decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from runner.config import TaskNode, Train, nodes
from runner.durations import Clock, to_steps
from runner.errors import ConfigError, nearest
from runner.signatures import duration_arguments, has_fused
from runner.wording import Findings, fix, shown


class Facts(NamedTuple):
    """What only the data and the machine can tell.

    Attributes:
        examples: split -> number of examples; empty when the task has no data set.
        goals: metric of an evaluation -> whether less or more is better.
        device: type of the device that `train.device` stands for here; None when it is not there.
        devices: devices that are there.
    """

    examples: Mapping[str, int]
    goals: Mapping[str, Literal["min", "max"]]
    device: str | None
    devices: tuple[str, ...]


FindFacts = Callable[[TaskNode, Train, int], Facts]


def check_facts(found: Findings, find_facts: FindFacts) -> None:
    """Rules that take the data and the machine to decide."""
    train: Train = found.sections["train"]
    try:
        facts = find_facts(found.sections["task"], train, found.sections["seed"])
    except ConfigError as error:
        found.problems.extend(error.problems)
        return
    _check_batches(train, facts, found)
    _check_durations(train, facts, found)
    if facts.device is None:
        there = ", ".join(facts.devices)
        found.add(
            "train.device", f"must be a device of this machine ({there}), got {train.device!r}", "Set train.device=auto"
        )
    elif train.precision == "fp16" and facts.device == "cpu":
        found.add("train.precision", "must be fp32 or bf16 on a CPU, got 'fp16'", "Set train.precision=bf16")
    metric = train.early_stop.metric
    if facts.examples and metric not in facts.goals:
        close = nearest(metric, list(facts.goals))
        rule = f"must be a metric of the task ({', '.join(facts.goals)}), got {metric!r}"
        found.add("train.early_stop.metric", rule, f"Set train.early_stop.metric={close or 'loss'}")
    optimizer = found.sections.get("optimizer")
    if train.watch_every > 1 and optimizer is not None and not has_fused(optimizer.target):
        rule = f"must be 1 with an optimizer that has no fused form, got {train.watch_every}"
        found.add("train.watch_every", rule, "Set train.watch_every=1, or optimizer=sgd, adam, adamw or adagrad")
    resume = found.sections.get("resume")
    if resume is not None and resume.source is not None:
        _check_resume(Path(resume.source), resume.checkpoint, found)


def _check_batches(train: Train, facts: Facts, found: Findings) -> None:
    examples = facts.examples.get("train")
    if examples is not None and train.batch_size > examples:
        rule = f"must be at most the {examples} training examples of the task, got {train.batch_size}"
        found.add("train.batch_size", rule, f"Set train.batch_size={examples} or less")
    if examples is not None and train.accumulate > train.batch_size:
        rule = f"must be at most train.batch_size={train.batch_size}, got {train.accumulate}"
        found.add("train.accumulate", rule, f"Set train.accumulate={train.batch_size} or less")


def _check_durations(train: Train, facts: Facts, found: Findings) -> None:
    clock = Clock(train.batch_size, facts.examples.get("train"))
    total = _resolve("train.duration", train.duration, clock, found)
    if total is None:
        return
    clock = clock._replace(total_steps=total)
    for name in ("eval_every", "checkpoint_every"):
        if (duration := getattr(train, name)) is not None:
            _resolve(f"train.{name}", duration, clock, found)
    for key, node in nodes(found.sections):
        if any(problem.key.startswith(f"{key}.") for problem in found.problems):
            continue
        for name, duration in duration_arguments(node).items():
            steps = _resolve(f"{key}.{name}", duration, clock, found)
            if key == "warmup" and steps is not None and steps > total:
                rule = f"must not be longer than the run of {total} steps, got {duration} ({steps} steps)"
                found.add(f"{key}.{name}", rule, f"Set {key}.{name}=5% or a longer train.duration")


def _resolve(key: str, duration: str | int, clock: Clock, found: Findings) -> int | None:
    try:
        return to_steps(duration, clock)
    except ValueError as error:
        found.add(key, f"{error}, got {shown(duration)}", fix(key))
        return None


def _check_resume(directory: Path, checkpoint: str, found: Findings) -> None:
    path = directory / "checkpoints" / f"{checkpoint}.pt"
    if not directory.is_dir():
        found.add(
            "resume.from", f"must be a run directory, got {str(directory)!r} (not there)", "Give a path under runs/"
        )
    elif not path.is_file():
        rule = f"must be a run directory with a checkpoint, got {str(directory)!r} without checkpoints/{path.name}"
        found.add("resume.from", rule, "Give a run that reached its first checkpoint, or start afresh")
