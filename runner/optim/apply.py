"""The one place that writes learning rates, and says from which step on a group is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from runner.errors import ConfigError, Problem
from runner.optim.freezing import thaw

Schedules = Mapping[tuple[str, str], Callable[[int], float]]
"""(name of the parameter group, hyperparameter) -> factor of the step"""


_BETAS = {"beta1": 0, "beta2": 1}
_MOMENTUM = "momentum"


def apply_schedules(optimizer: Optimizer, schedules: Schedules, step: int, *, lr_scale: float = 1.0) -> None:
    """Set every scheduled hyperparameter of every group for this step, and freeze the groups whose time has not come.

    lr = initial_lr * schedule(step) * lr_scale; other hyperparameters without lr_scale.

    Args:
        optimizer: its groups carry "name" and, per scheduled hyperparameter x, "initial_x"; see `thaw` for
            "frozen_steps".
        schedules: by (group, hyperparameter); what is not named stays as it is. beta1 and beta2 are members of
            "betas", and so is the momentum of an optimizer that has none by that name (beta1).
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
        elif (index := _beta(group, hyperparameter)) is not None:
            betas = list(group["betas"])
            betas[index] = group[f"initial_{hyperparameter}"] * factor
            group["betas"] = tuple(betas)
        else:
            _write(group, hyperparameter, group[f"initial_{hyperparameter}"] * factor)
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
        index = _beta(group, hyperparameter)
        held = hyperparameter if index is None else "betas"
        if held in group:
            group[f"initial_{hyperparameter}"] = group[held] if index is None else group[held][index]
            is_known = True
    if not is_known:
        rule = f"must be held in the parameter groups of {type(optimizer).__name__}, where a schedule can set it"
        raise ConfigError([Problem(f"schedule_of.{hyperparameter}", rule, "Remove it")])


def _beta(group: Mapping[str, Any], hyperparameter: str) -> int | None:
    """Return the place of a hyperparameter among the betas, None for what is no beta."""
    if hyperparameter == _MOMENTUM and _MOMENTUM not in group:
        return 0
    return _BETAS.get(hyperparameter)
