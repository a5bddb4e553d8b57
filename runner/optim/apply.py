"""The one place that writes learning rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor
from torch.optim import Optimizer

Schedules = Mapping[tuple[str, str], Callable[[int], float]]
"""(name of the parameter group, hyperparameter) -> factor of the step"""


def apply_schedules(optimizer: Optimizer, schedules: Schedules, step: int, *, lr_scale: float = 1.0) -> None:
    """Set every scheduled hyperparameter of every group for this step.

    lr = initial_lr * schedule(step) * lr_scale; other hyperparameters without lr_scale.

    Args:
        optimizer: its groups carry "name" and, per scheduled hyperparameter x, "initial_x".
        schedules: by (group, hyperparameter); what is not named stays as it is.
        step: optimizer step, 0-based.
        lr_scale: product of the interventions so far, unitless.
    """
    groups = {group["name"]: group for group in optimizer.param_groups}
    for (name, hyperparameter), schedule in schedules.items():
        group = groups[name]
        value = group[f"initial_{hyperparameter}"] * schedule(step) * (lr_scale if hyperparameter == "lr" else 1.0)
        if isinstance(group[hyperparameter], Tensor):  # a compiled optimizer reads it from there
            group[hyperparameter].fill_(value)
        else:
            group[hyperparameter] = value
