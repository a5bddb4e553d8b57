"""What an optimizer makes of the learning rates that it is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

_MUON_FACTORS = {"original": "sqrt(max(1, rows / columns))", "match_rms_adamw": "0.2 sqrt(max(rows, columns))"}


def effective_lrs(optimizer: Optimizer) -> dict[str, float | Tensor]:
    """Return the learning rate that the next update uses, by group.

    It is d * lr where the optimizer estimates a step size d of its own (Prodigy, D-Adaptation), else lr. A number that
    lies on a device stays there: reading it would make the host wait.
    """
    return {
        group["name"]: group["lr"] * group["d"] if estimates(group) else group["lr"] for group in _groups(optimizer)
    }


def estimates(group: Mapping[str, Any]) -> bool:
    """Whether an optimizer estimates the step size of a group: `d`, from `d0` on (Adafactor's `d` is another thing)."""
    return "d0" in group and "d" in group


def lr_rules(optimizer: Optimizer) -> Iterator[str]:
    """Yield, a phrase each, what an unusual optimizer does with the learning rate before the update."""
    if any(estimates(group) for group in _groups(optimizer)):
        yield "the learning rate used and recorded is d x lr, where d is what the optimizer estimates"
    modes = {group["adjust_lr_fn"] or "original": None for group in _groups(optimizer) if "adjust_lr_fn" in group}
    for mode in modes:
        yield f"Muon moves a matrix by lr x {_MUON_FACTORS[mode]} (adjust_lr_fn={mode})"


def _groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = optimizer.param_groups
    return groups
