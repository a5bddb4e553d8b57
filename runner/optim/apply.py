"""The one place that writes learning rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer

Schedules = Mapping[tuple[str, str], Callable[[int], float]]
"""(name of the parameter group, hyperparameter) -> factor of the step"""


_BETAS = {"beta1": 0, "beta2": 1}
_MOMENTUM = "momentum"


def apply_schedules(optimizer: Optimizer, schedules: Schedules, step: int, *, lr_scale: float = 1.0) -> None:
    """Set every scheduled hyperparameter of every group for this step.

    lr = initial_lr * schedule(step) * lr_scale; other hyperparameters without lr_scale.

    Args:
        optimizer: its groups carry "name" and, per scheduled hyperparameter x, "initial_x".
        schedules: by (group, hyperparameter); what is not named stays as it is. beta1 and beta2 are members of
            "betas", and so is the momentum of an optimizer that has none by that name (beta1).
        step: optimizer step, 0-based.
        lr_scale: product of the interventions so far, unitless.
    """
    groups = {group["name"]: group for group in optimizer.param_groups}
    factors: dict[Callable[[int], float], float] = {}  # groups share schedules: each is asked once
    for (name, hyperparameter), schedule in schedules.items():
        group, factor = groups[name], factors.get(schedule)
        if factor is None:
            factor = factors[schedule] = schedule(step)
        value = group[f"initial_{hyperparameter}"] * factor
        index = _beta(group, hyperparameter)
        if index is not None:
            betas = list(group["betas"])
            betas[index] = value
            group["betas"] = tuple(betas)
        else:
            group[hyperparameter] = value * lr_scale if hyperparameter == "lr" else value


def keep_initial(optimizer: Optimizer, hyperparameter: str) -> None:
    """Note the value that a schedule multiplies, in every group of the optimizer."""
    for group in optimizer.param_groups:
        index = _beta(group, hyperparameter)
        group[f"initial_{hyperparameter}"] = group[hyperparameter] if index is None else group["betas"][index]


def _beta(group: Mapping[str, Any], hyperparameter: str) -> int | None:
    """Return the place of a hyperparameter among the betas, None for what is no beta."""
    if hyperparameter == _MOMENTUM and _MOMENTUM not in group:
        return 0
    return _BETAS.get(hyperparameter)
