"""What is known of a run before its first step: where it writes, what made it, and a headline."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path

from runner.build import Experiment, hardware
from runner.commands import PROGRAM
from runner.config import Config, Invocation
from runner.continue_run import as_saved_today, same_run, saved_tree
from runner.optim.readout import lr_rules
from runner.provenance import lr_provenance
from runner.records import RunResult
from runner.tracking.directory import git_commit, new_run_directory, versions
from runner.tracking.jsonl import find_result


def run_directory(config: Config, invocation: Invocation) -> tuple[Path, RunResult | None]:
    """Return where to write, and the result of the run that goes on there, if one does."""
    source = config.resume.source
    if source is not None:
        directory = Path(source).absolute()
        saved, earlier = saved_tree(directory), find_result(directory)
        if saved is not None and earlier is not None:
            saved = as_saved_today(saved, page=invocation.page)
            if same_run(invocation.tree, saved):
                return directory, earlier
    return new_run_directory(invocation.directory, config.name or invocation.choices["task"]), None


def first_result(config: Config, invocation: Invocation, experiment: Experiment) -> RunResult:
    """Return what is known before the first step."""
    choices = invocation.choices
    learning_rate = lr_provenance(config, invocation, experiment.optimizer.param_groups)
    tags = {group: choices[group] for group in ("task", "optimizer", "schedule", "warmup")}
    tags |= {"sweep": invocation.sweep} if invocation.sweep is not None else {}
    return RunResult(
        mode="train",
        status="running",
        verdict="running",
        title=(
            f"{choices['optimizer']} lr={learning_rate['used']:g} {choices['schedule']} "
            f"w{experiment.declared.warmup.steps}"
        ),
        experiment=config.name or choices["task"],
        command=shlex.join([*PROGRAM, *invocation.page, *invocation.overrides]),
        seed=config.seed,
        overrides=invocation.overrides,
        choices={group: option for group, option in choices.items() if not group.startswith("hydra")},
        tags={**tags, **{key: str(value) for key, value in config.tags.items()}},
        planned_steps=experiment.plan.steps,
        learning_rate={**learning_rate, "rules": list(lr_rules(experiment.optimizer))},
        initial_weights=asdict(experiment.initial_weights) if experiment.initial_weights is not None else {},
        dataset={
            "name": choices["task"],
            "examples": dict(experiment.task.examples),
            "digest": experiment.task.digest,
            "prior_entropy": experiment.task.prior_entropy,
        },
        versions={**versions(), **hardware(experiment.plan)},
        commit=git_commit(invocation.directory),
    )


def headline(config: Config, result: RunResult, experiment: Experiment) -> str:
    """Return what is about to run, in a few lines."""
    parameters = sum(parameter.numel() for parameter in experiment.model.parameters())
    begin = [str(experiment.initial_weights)] if experiment.initial_weights is not None else []
    begin += [f"learning rate: {result.learning_rate['in_words']}"] if config.scaling.rule != "none" else []
    first = (
        f"{result.experiment}: {result.title}, {experiment.plan.steps:,} steps, {parameters:,} parameters, "
        f"{result.versions['device']}"
    )
    bracket = result.learning_rate.get("upper_bracket_in_words")
    end = [bracket] if bracket is not None else []
    return "\n".join([first, *begin, *result.learning_rate.get("rules", ()), *end])
