"""What a run will use at every step: learning rate and other scheduled hyperparameters of every group, as tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from runner.build_schedules import RunSchedules, build_schedules
from runner.config import Config, OptimizerNode
from runner.durations import Clock, to_steps
from runner.errors import ConfigError, Problem
from runner.needs import is_told
from runner.optim.members import place_of
from runner.schedules.shape import Schedule
from runner.signatures import locate, parameters_of

if TYPE_CHECKING:
    from runner.build import Experiment

MOST_STEPS = 100_000  # that are asked for their values; of a longer run, evenly spaced ones
_SHARES = {"T/4": 0.25, "T/2": 0.5, "3T/4": 0.75}
_MOST_JUMPS = 12  # rows of the table


class Rate(NamedTuple):
    """A scheduled hyperparameter of a parameter group.

    Attributes:
        group: name of the parameter group.
        hyperparameter: "lr", "momentum", "beta1", "beta2", "weight_decay".
        initial: what the factor multiplies, in the unit of the hyperparameter.
        factor: step -> factor, unitless.
    """

    group: str
    hyperparameter: str
    initial: float
    factor: Schedule

    def at(self, step: int) -> float:
        """Return the value that update `step` (0-based) uses."""
        return self.initial * self.factor(step)


class Plan(NamedTuple):
    """What a run will use.

    Attributes:
        steps: T, optimizer steps of the run.
        declared: schedules as the page declares them.
        rates: learning rates of all groups first, then the other hyperparameters.
    """

    steps: int
    declared: RunSchedules
    rates: tuple[Rate, ...]

    @property
    def warmup_steps(self) -> int:
        """W, of its warmup."""
        return self.declared.warmup.steps

    @property
    def lrs(self) -> tuple[Rate, ...]:
        """The learning rates, one a group."""
        return tuple(rate for rate in self.rates if rate.hyperparameter == "lr")

    def name(self, rate: Rate) -> str:
        """Return what tells a rate from the others of the plan: `lr`, or `lr/<group>` where there are several."""
        return rate.hyperparameter if len(self.lrs) == 1 else f"{rate.hyperparameter}/{rate.group}"


def steps_of(config: Config) -> int:
    """Return the updates of a run; its model is not made for that."""
    from runner.build import find_facts  # imports torch

    facts = find_facts(config.task, config.train, config.resume, config.seed)
    return to_steps(config.train.duration, Clock(config.train.batch_size, facts.examples.get("train")))


def plan_of(config: Config) -> Plan:
    """Return what a checked configuration will use; the model is built only where its groups need it.

    Raises:
        ConfigError: a part refuses its arguments.
    """
    if not is_told(dict(config)):
        from runner.build import build  # imports torch

        anywhere = {"device": "cpu", "precision": "fp32", "compile": False}
        return plan_of_experiment(build(config.model_copy(update={"train": config.train.model_copy(update=anywhere)})))
    clock = Clock(config.train.batch_size, config.task.examples)
    return plan_told(config, clock._replace(total_steps=to_steps(config.train.duration, clock)))


def plan_told(config: Config, clock: Clock) -> Plan:
    """Return what a checked configuration with one group of all parameters will use, from its page alone.

    Args:
        config: checked.
        clock: of the run, with its length.
    Raises:
        ConfigError: a part refuses its arguments.
    """
    made, optimizer = build_schedules(config, clock), config.scaled_optimizer
    others = [Rate("all", name, initial_value(optimizer, name), other) for name, other in made.others.items()]
    return Plan(clock.total_steps or 1, made, (Rate("all", "lr", optimizer.lr, made.lr()), *others))


def initial_value(optimizer: OptimizerNode, hyperparameter: str) -> float:
    """Return the value that the page, or else the class, gives to a hyperparameter."""
    known = optimizer.arguments
    if place_of(hyperparameter, known)[0] not in known:  # takes the class, which imports torch
        known = {name: p.default for name, p in parameters_of(locate(optimizer.target)).items()} | known
    name, index = place_of(hyperparameter, known)
    value = known[name]
    return float(value if index is None else value[index])


def plan_of_experiment(experiment: Experiment) -> Plan:
    """Return what a run will use, from its objects."""
    groups = {group["name"]: group for group in experiment.optimizer.param_groups}
    rates = [
        Rate(name, hyperparameter, float(groups[name][f"initial_{hyperparameter}"]), factor)
        for (name, hyperparameter), factor in experiment.schedules.items()
    ]
    rates.sort(key=lambda rate: rate.hyperparameter != "lr")
    return Plan(experiment.plan.steps, experiment.declared, tuple(rates))


def landmarks(plan: Plan) -> dict[int, str]:
    """Return step -> why it is shown: the first two, the end of the warmup, quarters, the last and the one after."""
    steps, warmup = plan.steps, plan.warmup_steps
    names = [(0, "first"), (1, "second")]
    names += [(warmup - 1, "W-1"), (warmup, "W")] if warmup else []
    names += [(math.floor(share * steps), name) for name, share in _SHARES.items()]
    names += [(steps - 1, "T-1"), (steps, "T")]
    return _joined([(step, name) for step, name in names if 0 <= step <= steps])


def plotted_steps(plans: Iterable[Plan]) -> list[int]:
    """Return the steps that are asked for their values: 0 .. T, or evenly spaced ones and the landmarks."""
    known = list(plans)
    last = max(plan.steps for plan in known)
    return sorted({*range(0, last + 1, -(-(last + 1) // MOST_STEPS)), *(s for plan in known for s in landmarks(plan))})


def sampled(plan: Plan, steps: Sequence[int]) -> dict[str, list[float]]:
    """Return name -> the value at each of the steps.

    Raises:
        ConfigError: a value is not finite.
    """
    found: dict[str, list[float]] = {}
    for rate in plan.rates:
        name = plan.name(rate)
        values = found[name] = [rate.at(step) for step in steps]
        wrong = next((i for i, value in enumerate(values) if not math.isfinite(value)), None)
        if wrong is not None:
            rule = f"must be finite at every step, got {values[wrong]} for {name} at step {steps[wrong]:,}"
            raise ConfigError([Problem(_key(plan, rate, steps[wrong]), rule, "Mend the schedule")])
    return found


def _key(plan: Plan, rate: Rate, step: int) -> str:
    """Return the dotted key of the schedule that a value which is not finite comes from."""
    if rate.hyperparameter != "lr":
        return f"schedule_of.{rate.hyperparameter}"
    return "param_groups" if math.isfinite(plan.declared.lr()(step)) else "schedule"


def jumps(steps: Sequence[int], values: Sequence[float]) -> list[int]:
    """Return the steps at which a curve jumps: by over 2% of its peak, and 5 times as far as just before and after.

    Args:
        steps: in order; only those that follow another by 1 are looked at.
        values: one a step.
    """
    least = 0.02 * max(map(abs, values), default=0.0)
    moves = [abs(b - a) for a, b in pairwise(values)]
    padded = [0.0, *moves, 0.0]
    return [
        second
        for (first, second), move, before, after in zip(pairwise(steps), moves, padded, padded[2:], strict=False)
        if second == first + 1 and move > least and move > 5 * max(before, after)
    ]


def shown_steps(plan: Plan, steps: Sequence[int], values: Mapping[str, Sequence[float]]) -> dict[int, str]:
    """Return step -> why it is a row of the table: the landmarks, the peaks, and the first 12 jumps.

    Args:
        plan: what a run will use.
        steps: that were asked.
        values: name -> one value for each of them.
    """
    found = list(landmarks(plan).items())
    jumped: set[int] = set()
    for rate in plan.rates:
        curve = values[plan.name(rate)]
        jumped |= {step for step in jumps(steps, curve) if 1 < step < plan.steps}
        if rate.hyperparameter == "lr":
            found.append((peak(plan, steps, curve)[0], "peak"))
    return _joined(found + [(step, "jump") for step in sorted(jumped)[:_MOST_JUMPS]])


def peak(plan: Plan, steps: Sequence[int], values: Sequence[float]) -> tuple[int, float]:
    """Return the step of the run at which a curve is highest, and its value there."""
    of_run = [(step, value) for step, value in zip(steps, values, strict=True) if step < plan.steps]
    return max(of_run, key=lambda pair: pair[1])


def joined_steps(tables: Iterable[Mapping[int, str]]) -> dict[int, str]:
    """Return the steps of several tables in order, with all that is said of them."""
    return _joined([(step, name) for table in tables for step, names in table.items() for name in names.split(" = ")])


def _joined(found: Iterable[tuple[int, str]]) -> dict[int, str]:
    names: dict[int, list[str]] = {}
    for step, name in found:
        names.setdefault(step, []).append(name)
    return {step: " = ".join(dict.fromkeys(said)) for step, said in sorted(names.items())}


def rate_table(
    rates: Mapping[str, Rate], steps: Mapping[int, str], *, digits: int | None = None
) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of a table: a step each, why it is shown, and every rate at it.

    Args:
        rates: name -> rate.
        steps: step -> why it is shown.
        digits: of the values; None writes them exactly.
    """

    def written(value: float) -> str:
        return repr(value) if digits is None else f"{value:.{digits}g}"

    rows = [[f"{step:,}", why, *(written(rate.at(step)) for rate in rates.values())] for step, why in steps.items()]
    return ["step", "", *rates], rows
