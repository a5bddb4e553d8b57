"""The one place that writes learning rates, and says from which step on a group is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from runner.errors import ConfigError, Problem
from runner.optim.freezing import thaw
from runner.optim.members import place_of

Schedules = Mapping[tuple[str, str], Callable[[int], float]]
"""(name of the parameter group, hyperparameter) -> factor of the step"""


def apply_schedules(optimizer: Optimizer, schedules: Schedules, step: int, *, lr_scale: float = 1.0) -> None:
    """Set every scheduled hyperparameter of every group for this step, and freeze the groups whose time has not come.

    lr = initial_lr * schedule(step) * lr_scale; other hyperparameters without lr_scale.

    Args:
        optimizer: its groups carry "name" and, per scheduled hyperparameter x, "initial_x"; see `thaw` for
            "frozen_steps".
        schedules: by (group, hyperparameter); what is not named stays as it is. `place_of` says where each is held.
        step: optimizer step, 0-based.
        lr_scale: product of the interventions so far, unitless.
    """
    groups = {group["name"]: group for group in optimizer.param_groups}
    factors: dict[Callable[[int], float], float] = {}  # groups share schedules: each is asked once
    for (name, hyperparameter), schedule in schedules.items():
        factor = factors.get(schedule)
        if factor is None:
            factor = factors[schedule] = schedule(step)
        group = groups[name]
        if hyperparameter == "lr":
            _write(group, "lr", group["initial_lr"] * factor * lr_scale)
            continue
        key, index = place_of(hyperparameter, group)
        value = group[f"initial_{hyperparameter}"] * factor
        if index is None:
            _write(group, key, value)
        else:
            members = list(group[key])
            members[index] = value
            group[key] = tuple(members)
    thaw(optimizer, step)


def _write(group: dict[str, Any], hyperparameter: str, value: float) -> None:
    if isinstance(group[hyperparameter], Tensor):  # a compiled optimizer reads it from there
        group[hyperparameter].fill_(value)
    else:
        group[hyperparameter] = value


def keep_initial(optimizer: Optimizer, hyperparameter: str) -> None:
    """Note the value that a schedule multiplies, in every group that has one: Muon's groups have no betas.

    Raises:
        ConfigError: no group has it.
    """
    is_known = False
    for group in optimizer.param_groups:
        key, index = place_of(hyperparameter, group)
        if key in group:
            group[f"initial_{hyperparameter}"] = group[key] if index is None else group[key][index]
            is_known = True
    if not is_known:
        rule = f"must be held in the parameter groups of {type(optimizer).__name__}, where a schedule can set it"
        raise ConfigError([Problem(f"schedule_of.{hyperparameter}", rule, "Remove it")])
