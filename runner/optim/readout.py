"""What an optimizer makes of the learning rates that it is given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from runner.optim.members import place_of

_MUON_FACTORS = {"original": "sqrt(max(1, rows / columns))", "match_rms_adamw": "0.2 sqrt(max(rows, columns))"}


def effective_lrs(optimizer: Optimizer) -> dict[str, float | Tensor]:
    """Return the learning rate that the next update uses, by group.

    It is d * lr where the optimizer estimates a step size d of its own (Prodigy, D-Adaptation), else lr. A number that
    lies on a device stays there: reading it would make the host wait.
    """
    return {group["name"]: _effective_lr(group) for group in optimizer.param_groups}


def _effective_lr(group: Mapping[str, Any]) -> float | Tensor:
    lr: float | Tensor = group["lr"] * group["d"] if estimates(group) else group["lr"]
    return lr.clone() if isinstance(lr, Tensor) else lr  # the next step writes into it


def scheduled_values(optimizer: Optimizer, scheduled: Iterable[tuple[str, str]]) -> dict[str, float]:
    """Return what the next update uses of hyperparameters other than the learning rate.

    Args:
        optimizer: with the values of this step.
        scheduled: (group, hyperparameter).
    Returns:
        name -> value, such as "momentum"; "weight_decay/<group>" where the groups differ before any schedule.
    """
    groups = {group["name"]: group for group in optimizer.param_groups}
    found: dict[str, dict[str, float]] = {}
    for name, hyperparameter in scheduled:
        key, index = place_of(hyperparameter, groups[name])
        value = groups[name][key]
        found.setdefault(hyperparameter, {})[name] = float(value if index is None else value[index])
    differ = {name for name, values in found.items() if len({groups[g][f"initial_{name}"] for g in values}) > 1}
    return {
        f"{hyperparameter}/{name}" if hyperparameter in differ else hyperparameter: value
        for hyperparameter, values in found.items()
        for name, value in values.items()
    }


def estimates(group: Mapping[str, Any]) -> bool:
    """Whether an optimizer estimates the step size `d` of a group; that of Adafactor, which never grows, is none."""
    return "d" in group and "growth_rate" in group


def estimate(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a group holds of the step size that its optimizer estimates; {} where it estimates none."""
    return {name: group[name] for name in ("d", "d_max") if name in group} if estimates(group) else {}


def lr_rules(optimizer: Optimizer) -> Iterator[str]:
    """Yield, a phrase each, what an unusual optimizer does with the learning rate before the update."""
    if any(estimates(group) for group in optimizer.param_groups):
        yield "the learning rate used and recorded is d x lr, where d is what the optimizer estimates"
    modes = {group["adjust_lr_fn"] or "original": None for group in optimizer.param_groups if "adjust_lr_fn" in group}
    for mode in modes:
        yield f"Muon moves a matrix by lr x {_MUON_FACTORS[mode]} (adjust_lr_fn={mode})"
