"""Groups for fine-tuning: a fresh head learns faster, or alone."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt
from torch import nn

from runner.errors import ConfigError, Problem
from runner.optim.groups import Group, Grouping, without_decay_1d
from runner.optim.names import Patterns, fitting, head_of

KEY = "param_groups.frozen"


def head(
    *, head: Patterns | None = None, lr_multiplier: Annotated[float, Gt(0)] = 10.0, no_decay_1d: bool = False
) -> Grouping:
    """Train the head, which is fresh, with a higher learning rate than the body, which is not.

    Args:
        head: patterns on parameter names; None is the last module with a matrix or a kernel of its own.
        lr_multiplier: factor of the head on `optimizer.lr`; that of the body is 1.
        no_decay_1d: whether what has dimension <= 1 is taken out of weight decay.
    Raises:
        ConfigError: raised by the grouping: a pattern fits nothing, or the model has no head to be found.
    Source: transfer learning in Caffe trains the new layer with 10 times the learning rate (`lr_mult: 10`).
    """

    def split(model: nn.Module) -> list[Group]:
        chosen = {id(parameter) for parameter in _head(head, model).values()}
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        body = Group("body", [p for p in trained if id(p) not in chosen])
        fresh = Group("head", [p for p in trained if id(p) in chosen], lr_multiplier=lr_multiplier)
        groups = [group for group in (body, fresh) if group.parameters]
        return without_decay_1d(groups) if no_decay_1d else groups

    return split


def freeze(*, frozen: Patterns | None = None, no_decay_1d: bool = False) -> Grouping:
    """Keep some parameters as they are for the whole run; train the rest.

    They are in no group, get no gradient and no state. BatchNorm still updates its running statistics.

    Args:
        frozen: patterns on parameter names; None freezes all but the head.
        no_decay_1d: whether what has dimension <= 1 is taken out of weight decay.
    Raises:
        ConfigError: raised by the grouping: a pattern fits nothing, or nothing is left to train.
    """

    def split(model: nn.Module) -> list[Group]:
        if frozen is None:
            kept = {id(parameter) for parameter in head_of(KEY, model).values()}
            chosen = [parameter for parameter in model.parameters() if id(parameter) not in kept]
        else:
            chosen = list(fitting(KEY, frozen, model).values())
        if not {id(p) for p in model.parameters() if p.requires_grad} - {id(p) for p in chosen}:
            rule = f"must leave something to train from the first step, got {frozen!r}"
            raise ConfigError([Problem(KEY, rule, f"Set {KEY}=null, which leaves the head")])
        for parameter in chosen:
            parameter.requires_grad_(False)
        groups = [Group("trained", [p for p in model.parameters() if p.requires_grad])]
        return without_decay_1d(groups) if no_decay_1d else groups

    return split


def _head(patterns: Patterns | None, model: nn.Module) -> dict[str, nn.Parameter]:
    key = "param_groups.head"
    return head_of(key, model) if patterns is None else fitting(key, patterns, model)
