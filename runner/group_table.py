"""The parameter groups of a run as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn
from torch.optim import Optimizer

from runner.optim.names import covering
from runner.tasks.described import listed
from runner.tracking.tables import number

WIDTH = 48  # characters for the members of a group


def group_table(model: nn.Module, optimizer: Optimizer, peak: Mapping[str, float]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows: a group each, and what is frozen for the whole run.

    Args:
        model: as it is before the first step.
        optimizer: made over the groups.
        peak: group -> largest factor of its schedule.
    """
    groups = optimizer.param_groups
    thaws = any(group["frozen_steps"] for group in groups)
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    rows = []
    for group in groups:
        lr = group["initial_lr"] * peak[group["name"]]
        row = [group["name"], *_counts(group["params"]), f"{lr:g}", number(group.get("weight_decay"))]
        rows.append([*row, *([f"{group['frozen_steps']:,}"] if thaws else []), _members(group["params"], model)])
    if frozen:
        rows.append(["frozen", *_counts(frozen), "-", "-", *(["never"] if thaws else []), _members(frozen, model)])
    header = ["group", "tensors", "parameters", "lr at peak", "weight decay", *(["from step"] if thaws else [])]
    if len(rows) == 1:
        return header, [rows[0][:-1]]
    return [*header, "members"], rows


def _counts(parameters: Sequence[nn.Parameter]) -> list[str]:
    """Return the number of tensors and of numbers in them."""
    return [f"{len(parameters):,}", f"{sum(parameter.numel() for parameter in parameters):,}"]


def _members(parameters: Sequence[nn.Parameter], model: nn.Module) -> str:
    chosen = set(map(id, parameters))
    names = covering([n for n, p in model.named_parameters() if id(p) in chosen], model)
    fitting = [most for most in range(1, len(names) + 1) if len(listed(names, most=most)) <= WIDTH]
    return listed(names, most=max(fitting, default=1))
