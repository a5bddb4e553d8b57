"""What trials are judged by: metrics that the task reports, and whether less or more is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from runner.config import Config
from runner.config_search import Direction
from runner.errors import ConfigError, Problem, nearest

Goal = Literal["min", "max"]
WAYS: Mapping[Goal, Direction] = {"min": "minimize", "max": "maximize"}


def reported(goals: Mapping[str, Goal], splits: Mapping[str, int]) -> dict[str, Goal]:
    """Return the metrics that a run has at its end -> whether less or more is better.

    Args:
        goals: metrics of an evaluation.
        splits: split -> examples.
    """
    of_val: dict[str, Goal] = {f"val/{name}": goal for name, goal in goals.items()} if "val" in splits else {}
    return {**of_val, "train/loss": "min"}


def goals_of(
    config: Config, metrics: Sequence[str], directions: Sequence[Direction], *, section: str
) -> tuple[list[str], list[Direction]]:
    """Return what the trials of a page are judged by; see `choose_goals`."""
    from runner.build import find_facts  # imports torch

    facts = find_facts(config.task, config.train, config.resume, config.seed)
    return choose_goals(metrics, directions, reported(facts.goals, facts.examples), section=section)


def choose_goals(
    metrics: Sequence[str], directions: Sequence[Direction], known: Mapping[str, Goal], *, section: str
) -> tuple[list[str], list[Direction]]:
    """Return metrics by their whole names and a direction for each.

    Args:
        metrics: as given, such as loss or val/accuracy; [] is the val loss, or the training loss where there is none.
        directions: as given; [] is as the task says.
        known: metrics that a run has at its end.
        section: dotted key of what says so, for messages.
    Raises:
        ConfigError: a run does not report a metric, or there are not as many directions.
    """
    if not metrics:
        metrics = [next(iter(known)) if "val/loss" not in known else "val/loss"]
    whole = [name if "/" in name else f"val/{name}" for name in metrics]
    problems = [
        Problem(f"{section}.metric", f"must be a metric that the runs report, got {given}", _fix(name, known))
        for name, given in zip(whole, metrics, strict=True)
        if name not in known
    ]
    if directions and len(directions) != len(metrics):
        rule = f"must have one direction for each of {len(metrics)} metrics, got {', '.join(directions)}"
        problems.append(Problem(f"{section}.direction", rule, "Leave it out for what the task says"))
    if problems:
        raise ConfigError(problems)
    return whole, list(directions) or [WAYS[known[name]] for name in whole]


def _fix(name: str, known: Mapping[str, Goal]) -> str:
    close = nearest(name, list(known))
    which = f"one of {', '.join(known)}" if len(known) > 1 else next(iter(known))
    return f"Set {close}, or {which}" if close and len(known) > 1 else f"Set {which}"
