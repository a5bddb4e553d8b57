"""Parameter groups: which parameters share which hyperparameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Group:
    """A named set of parameters.

    Attributes:
        name: appears in records, charts and the preview.
        parameters: the parameters, each in exactly one group.
        lr_multiplier: the group's own factor on `optimizer.lr`; unitless.
        hyperparameters: values that replace the optimizer's, such as {"weight_decay": 0.0}.
        schedule: its own factor of the step in place of the run's schedule; the run's warmup still applies.
    """

    name: str
    parameters: list[nn.Parameter]
    lr_multiplier: float = 1.0
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    schedule: Callable[[int], float] | None = None

    def as_dict(self, lr: float) -> dict[str, Any]:
        """Return the group as torch.optim takes it; `initial_lr` is the base the schedule multiplies."""
        initial_lr = lr * self.lr_multiplier
        return {
            "params": self.parameters,
            "name": self.name,
            "lr": initial_lr,
            "initial_lr": initial_lr,
            **self.hyperparameters,
        }


Grouping = Callable[[nn.Module], list[Group]]
"""model -> its parameter groups, none of them empty"""


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


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
