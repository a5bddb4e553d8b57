"""Config -> factors of the step: warmup, schedule, overlays, and the schedules of other hyperparameters.

Needs neither model nor torch, so that a preview can have them at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from runner.assemble import make
from runner.config import Config, LRScheduleNode, OptimizerNode, ScheduleNode
from runner.durations import Clock, to_steps
from runner.errors import ConfigError, Problem
from runner.nodes import Node
from runner.schedules.joins import times
from runner.schedules.overlays import Overlay
from runner.schedules.shape import Schedule, Warmup
from runner.signatures import locate, parameters_of

_BETAS = {"beta1": 0, "beta2": 1}


class RunSchedules(NamedTuple):
    """The schedules of a run.

    Attributes:
        clock: of the run, its warmup included.
        warmup: factor that rises to 1.
        body: factor of the learning rate after the warmup.
        overlays: what is laid over both, in this order.
        others: hyperparameter -> factor.
    """

    clock: Clock
    warmup: Warmup
    body: Schedule
    overlays: tuple[Overlay, ...]
    others: Mapping[str, Schedule]

    def lr(self, own: Schedule | None = None) -> Schedule:
        """Return the whole factor of the learning rate, with a group's own schedule in place of the run's."""
        body = self.body if own is None else own
        factor = times(self.warmup.factor, body) if self.warmup.steps or self.warmup.factor(0) != 1.0 else body
        for overlay in self.overlays:
            factor = overlay(factor)
        return factor


def build_schedules(config: Config, clock: Clock) -> RunSchedules:
    """Make the schedules of a checked configuration.

    Args:
        config: checked.
        clock: of the run.
    Raises:
        ConfigError: a factory refuses its arguments, or the optimizer lacks a hyperparameter; all that do are named.
    """
    provided = {"base_lr": config.optimizer.lr, "seed": config.seed}
    problems: list[Problem] = []
    made: dict[str, Any] = {}

    def attempt(key: str, node: Node, time: Clock) -> None:
        try:
            made[key] = make(key, node, time, provided)
        except ConfigError as error:
            problems.extend(error.problems)

    attempt("warmup", config.warmup, clock)
    clock = clock._replace(warmup_steps=made["warmup"].steps if "warmup" in made else 0)
    attempt("schedule", with_floor(config.schedule, config.optimizer.lr), made_for(config.schedule, clock))
    for name, node in config.schedule_of.items():
        attempt(f"schedule_of.{name}", node, made_for(node, clock))
        try:
            initial_value(config.optimizer, name)
        except ConfigError as error:
            problems.extend(error.problems)
    for name, overlay in config.overlays.items():
        attempt(f"overlays.{name}", overlay, clock)
    if problems:
        raise ConfigError(problems)
    overlays = tuple(made[f"overlays.{name}"] for name in config.overlays)
    others = {name: made[f"schedule_of.{name}"] for name in config.schedule_of}
    return RunSchedules(clock, made["warmup"], made["schedule"], overlays, others)


def made_for(node: ScheduleNode, clock: Clock) -> Clock:
    """Return the clock of a schedule: over its horizon, a step shorter where the last update has the end value."""
    total = clock.total_steps if node.horizon is None else to_steps(node.horizon, clock)
    assert total is not None
    return clock._replace(total_steps=max(total - 1, 1) if node.end == "inclusive" else total)


def with_floor(node: LRScheduleNode, lr: float) -> LRScheduleNode:
    """Return the schedule with its lowest learning rate as the ratio that it is to the base learning rate."""
    if node.min_lr is None:
        return node
    return node.model_validate({**node.model_dump(by_alias=True), "min_lr": None, "floor": node.min_lr / lr})


def initial_value(optimizer: OptimizerNode, hyperparameter: str) -> float:
    """Return the value that the page, or else the class, gives to a hyperparameter.

    Raises:
        ConfigError: the optimizer has none of this name.
    """
    name = "betas" if hyperparameter in _BETAS else hyperparameter
    value = optimizer.arguments.get(name)
    if value is None:
        parameter = parameters_of(locate(optimizer.target)).get(name)  # imports torch
        value = parameter.default if parameter is not None else None
    if hyperparameter in _BETAS and isinstance(value, Sequence):
        value = value[_BETAS[hyperparameter]]
    if not isinstance(value, int | float):
        rule = f"must be a schedule of a number of {optimizer.target}, which has no {hyperparameter}"
        raise ConfigError([Problem(f"schedule_of.{hyperparameter}", rule, "Remove it, or choose another optimizer")])
    return float(value)
