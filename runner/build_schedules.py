"""Config -> factors of the step: warmup, schedule, overlays, and the schedules of other hyperparameters.

Needs neither model nor torch, so that a preview can have them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from runner.assemble import make
from runner.config import Config, LRScheduleNode, ScheduleNode
from runner.durations import Clock, to_steps
from runner.errors import ConfigError, Problem
from runner.nodes import Node
from runner.scan import check_learns, check_overlay, checked_schedule, checked_warmup
from runner.schedules.joins import times
from runner.schedules.overlays import Overlay
from runner.schedules.shape import Schedule, Warmup
from runner.signatures import durations_of


class RunSchedules(NamedTuple):
    """The schedules of a run.

    Attributes:
        clock: of the run, its warmup included.
        warmup: factor that rises to 1.
        body: factor of the learning rate after the warmup.
        overlays: what is laid over both, in this order.
        others: hyperparameter -> factor.
        groups: parameter group -> its own factor in place of the body, for those that have one.
    """

    clock: Clock
    warmup: Warmup
    body: Schedule
    overlays: tuple[Overlay, ...]
    others: Mapping[str, Schedule]
    groups: Mapping[str, Schedule]

    def with_groups(self, own: Mapping[str, Schedule], *, keys: Mapping[str, str]) -> RunSchedules:
        """Return these with the schedules that groups have of their own, by name of the group.

        Args:
            own: group -> its schedule.
            keys: group -> dotted key of its schedule, for messages.
        Raises:
            ConfigError: some give no factor at a step of the run, or 0 at all; all that do are named.
        """
        total, warmup = self.clock.total_steps or 1, self.warmup.steps
        problems: list[Problem] = []
        groups: dict[str, Schedule] = {}
        for name, schedule in own.items():
            try:
                groups[name] = checked_schedule(keys[name], schedule, total_steps=total, warmup_steps=warmup)
                check_learns(keys[name], groups[name], total_steps=total, warmup_steps=warmup)
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)
        return self._replace(groups=groups)

    def lr(self, group: str | None = None) -> Schedule:
        """Return the whole factor of the learning rate, that of the run or of a group."""
        body = self.body if group is None else self.groups.get(group, self.body)
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
        ConfigError: a factory refuses its arguments or makes what a run cannot use; all that do are named.
    """
    base_lr = config.scaled_optimizer.lr
    provided = {"base_lr": base_lr, "seed": config.seed}
    total_steps = clock.total_steps or 1
    problems: list[Problem] = []
    made: dict[str, Any] = {}

    def attempt(key: str, node: Node, time: Clock, *, check: Callable[..., Any] | None = None) -> None:
        try:
            found = make(key, node, time, provided)
            made[key] = found if check is None else check(key, found, total_steps=total_steps)
        except ConfigError as error:
            problems.extend(_as_written(problem, config.schedule, base_lr) for problem in error.problems)

    def attempt_schedule(key: str, node: ScheduleNode) -> None:
        attempt(key, node, made_for(node, clock), check=partial(checked_schedule, warmup_steps=clock.warmup_steps))

    attempt("warmup", config.warmup, clock, check=checked_warmup)
    if "warmup" in made:
        problems += _too_long(made["warmup"], config.warmup, clock)
    # a schedule after a wrong warmup is made as after the shortest, so that it says what is wrong with itself
    clock = clock._replace(warmup_steps=1 if problems else made["warmup"].steps)
    attempt_schedule("schedule", with_floor(config.schedule, base_lr))
    for name, node in config.schedule_of.items():
        attempt_schedule(f"schedule_of.{name}", node)
    for name, overlay in config.overlays.items():
        attempt(f"overlays.{name}", overlay, clock)
    if problems:
        raise ConfigError(problems)
    others = {name: made[f"schedule_of.{name}"] for name in config.schedule_of}
    overlays = {f"overlays.{name}": made[f"overlays.{name}"] for name in config.overlays}
    return _laid_over(RunSchedules(clock, made["warmup"], made["schedule"], (), others, {}), overlays)


def _laid_over(schedules: RunSchedules, overlays: Mapping[str, Any]) -> RunSchedules:
    """Return the schedules with overlays, each checked over those before it."""
    clock = schedules.clock
    learns = partial(check_learns, total_steps=clock.total_steps or 1, warmup_steps=clock.warmup_steps)
    learns("schedule", schedules.lr())
    for key, overlay in overlays.items():
        check_overlay(key, overlay, schedules.lr(), total_steps=clock.total_steps or 1, warmup_steps=clock.warmup_steps)
        schedules = schedules._replace(overlays=(*schedules.overlays, overlay))
        learns(key, schedules.lr())
    return schedules


def made_for(node: ScheduleNode, clock: Clock) -> Clock:
    """Return the clock of a schedule: over its horizon, a step shorter where the last update has the end value."""
    total = clock.total_steps if node.horizon is None else to_steps(node.horizon, clock)
    assert total is not None
    return clock._replace(total_steps=max(total - 1, 1) if node.end == "inclusive" else total)


def _too_long(warmup: Warmup, node: Node, clock: Clock) -> list[Problem]:
    """Return the problem of a warmup that does not end within the run; no body can follow it."""
    if clock.total_steps is None or warmup.steps <= clock.total_steps:
        return []
    name, given = next(iter(durations_of(node).items()), ("", warmup.steps))
    key = f"warmup.{name}" if name else "warmup"
    rule = f"must not be longer than the run of {clock.total_steps} steps, got {given} ({warmup.steps} steps)"
    fix = f"Set {key}=5% or a longer train.duration" if name else "Set warmup=none or a longer train.duration"
    return [Problem(key, rule, fix)]


def _as_written(problem: Problem, schedule: LRScheduleNode, base_lr: float) -> Problem:
    """Return a problem with the floor under the key that the page gives it by."""
    if problem.key != "schedule.floor" or schedule.min_lr is None:
        return problem
    fix = problem.fix.replace("schedule.floor=0.01", f"schedule.min_lr={base_lr / 100:g}")
    rule = f"{problem.rule.rpartition(', got ')[0]}, got {schedule.min_lr:g}"
    return Problem("schedule.min_lr", rule, fix.replace("schedule.floor", "schedule.min_lr"))


def with_floor(node: LRScheduleNode, lr: float) -> LRScheduleNode:
    """Return the schedule with its lowest learning rate as the ratio that it is to the base learning rate."""
    if node.min_lr is None:
        return node
    return node.model_validate({**node.model_dump(by_alias=True), "min_lr": None, "floor": node.min_lr / lr})
