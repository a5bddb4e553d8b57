"""Parameter groups: which parameters share which hyperparameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, NamedTuple

from torch import nn
from torch.optim import Optimizer

from runner.durations import FromRun
from runner.errors import ConfigError, Problem
from runner.optim.names import SHOWN
from runner.tasks.described import listed


@dataclass(frozen=True)
class Group:
    """A named set of parameters.

    Attributes:
        name: appears in records, charts and the preview.
        parameters: the parameters, each in exactly one group.
        lr_multiplier: the group's own factor on `optimizer.lr`; unitless.
        hyperparameters: values that replace the optimizer's, such as {"weight_decay": 0.0}.
        schedule: the group's own factor of the step in place of the run's schedule, unitless; the run's warmup still
            applies; None takes the run's.
        frozen_steps: optimizer steps before the group is trained; 0 trains it from the first.
    """

    name: str
    parameters: list[nn.Parameter]
    lr_multiplier: float = 1.0
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    schedule: Callable[[int], float] | None = None
    frozen_steps: int = 0

    def as_dict(self, lr: float) -> dict[str, Any]:
        """Return the group as torch.optim takes it; `initial_lr` is the base the schedule multiplies."""
        initial_lr = lr * self.lr_multiplier
        return {
            "params": self.parameters,
            "name": self.name,
            "lr": initial_lr,
            "initial_lr": initial_lr,
            "frozen_steps": self.frozen_steps,
            **self.hyperparameters,
        }


Grouping = Callable[[nn.Module], list[Group]]
"""model -> its parameter groups, none of them empty; what it freezes for good, it takes `requires_grad` from"""


class Settings(NamedTuple):
    """The optimizer that the groups are for.

    Attributes:
        kind: its class.
        arguments: what the page gives it, `lr` included.
    """

    kind: type[Optimizer]
    arguments: Mapping[str, Any]


OptimizerSettings = Annotated[Settings, FromRun("optimizer_settings")]
"""Filled in: class and arguments of the optimizer, for groupings whose values depend on them."""


def everything() -> Grouping:
    """Put all trainable parameters into one group."""
    return lambda model: [Group("all", _trainable(model))]


def no_decay_1d() -> Grouping:
    """Take biases and normalisation weights (dimension <= 1) out of weight decay.

    Source: the usual practice of transformers and timm training scripts.
    """

    def split(model: nn.Module) -> list[Group]:
        parameters = _trainable(model)
        decay = Group("decay", [p for p in parameters if p.ndim > 1])
        no_decay = Group("no_decay", [p for p in parameters if p.ndim <= 1], hyperparameters={"weight_decay": 0.0})
        return [group for group in (decay, no_decay) if group.parameters]

    return split


def without_decay_1d(groups: Iterable[Group]) -> list[Group]:
    """Split what has dimension <= 1 off every group, as `<name>_no_decay` with weight decay 0."""
    split = []
    for group in groups:
        matrices = replace(group, parameters=[p for p in group.parameters if p.ndim > 1])
        vectors = replace(
            group,
            name=f"{group.name}_no_decay",
            parameters=[p for p in group.parameters if p.ndim <= 1],
            hyperparameters={**group.hyperparameters, "weight_decay": 0.0},
        )
        split += [part for part in (matrices, vectors) if part.parameters]
    return split


def make_groups(grouping: Grouping, model: nn.Module) -> list[Group]:
    """Return the groups of a model, plain ones first, so that the learning rate in the records is the usual one.

    Raises:
        ConfigError: a trained parameter is in no group or in two, two groups share a name, or nothing is trained from
            the first step.
    """
    groups = grouping(model)
    claims = Counter(id(parameter) for group in groups for parameter in group.parameters)
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    unclaimed = [name for name, parameter in named.items() if not claims[id(parameter)]]
    claimed_twice = [name for name, parameter in named.items() if claims[id(parameter)] > 1]
    names = Counter(group.name for group in groups)
    repeated = [name for name, count in names.items() if count > 1]
    problems = []
    if unclaimed:
        problems.append(_problem("must claim every trained parameter", f"no group for {listed(unclaimed, most=SHOWN)}"))
    if claimed_twice:
        problems.append(_problem("must claim a parameter once", f"two groups for {listed(claimed_twice, most=SHOWN)}"))
    if repeated:
        problems.append(_problem("must give every group a name of its own", f"two called {listed(repeated)}"))
    if not any(group.parameters and not group.frozen_steps for group in groups):
        problems.append(_problem("must leave something to train from the first step", "none", "Unfreeze a group"))
    if problems:
        raise ConfigError(problems)
    return sorted(groups, key=lambda group: not _is_plain(group))


def _is_plain(group: Group) -> bool:
    return group.lr_multiplier == 1.0 and group.schedule is None and not group.frozen_steps


def _problem(rule: str, given: str, fix: str = "Mend the function that makes the groups") -> Problem:
    return Problem("param_groups", f"{rule}, got {given}", fix)


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
