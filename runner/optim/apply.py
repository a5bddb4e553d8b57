"""The one place that writes learning rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch.optim import Optimizer

Schedules = Mapping[tuple[str, str], Callable[[int], float]]
"""(name of the parameter group, hyperparameter) -> factor of the step"""


_BETAS = {"beta1": 0, "beta2": 1}


def apply_schedules(optimizer: Optimizer, schedules: Schedules, step: int, *, lr_scale: float = 1.0) -> None:
    """Set every scheduled hyperparameter of every group for this step.

    lr = initial_lr * schedule(step) * lr_scale; other hyperparameters without lr_scale.

    Args:
        optimizer: its groups carry "name" and, per scheduled hyperparameter x, "initial_x".
        schedules: by (group, hyperparameter); what is not named stays as it is. beta1 and beta2 are members of "betas".
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
            group["lr"] = group["initial_lr"] * factor * lr_scale
        elif hyperparameter in _BETAS:
            betas = list(group["betas"])
            betas[_BETAS[hyperparameter]] = group[f"initial_{hyperparameter}"] * factor
            group["betas"] = tuple(betas)
        else:
            group[hyperparameter] = group[f"initial_{hyperparameter}"] * factor


def keep_initial(optimizer: Optimizer, hyperparameter: str) -> None:
    """Note the value that a schedule multiplies, in every group of the optimizer."""
    for group in optimizer.param_groups:
        index = _BETAS.get(hyperparameter)
        group[f"initial_{hyperparameter}"] = group[hyperparameter] if index is None else group["betas"][index]
