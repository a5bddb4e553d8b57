"""The update of one lane by torch's fused kernels, called directly: the wrapper of an optimizer takes longer than they.

32 lanes of the digits MLP, AdamW, microseconds a lane: 65 by the optimizers, 26 by this, and 34 by one update over
stacked states with a tensor of learning rates, which passes over the memory eight times
(`experiments/lanes/README.md`). State and hyperparameters stay those of the lane's optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

_STATE: dict[type[Optimizer], tuple[str, ...]] = {
    SGD: ("momentum_buffer",),
    Adam: ("exp_avg", "exp_avg_sq", "step"),
    AdamW: ("exp_avg", "exp_avg_sq", "step"),
}


class FusedUpdate:
    """Makes the updates of an optimizer, from the second one since its state was empty on.

    Args:
        optimizer: its groups may change with every step; see `takes` for its kind.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._names = _STATE[type(optimizer)]
        self._state: Mapping[Any, Any] | None = None
        self._lists: list[tuple[list[Tensor], ...]] = []

    @staticmethod
    def takes(optimizer: Optimizer) -> bool:
        """Whether it is one of torch's with a fused kernel that is asked for, and nothing is hooked to its steps."""
        hooked = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
        return type(optimizer) in _STATE and not hooked and all(map(_is_plain, optimizer.param_groups))

    def __call__(self) -> None:
        """Make an update with the gradients in the parameters."""
        optimizer = self._optimizer
        if optimizer.state is not self._state:  # at first, and after a rollback
            optimizer.step()
            self._state, self._lists = optimizer.state, [self._listed(group) for group in optimizer.param_groups]
            return
        update = _KERNELS[type(optimizer)]
        for group, (parameters, *state) in zip(optimizer.param_groups, self._lists, strict=True):
            if parameters:
                update(group, parameters, [p.grad for p in parameters], *state)

    def _listed(self, group: dict[str, Any]) -> tuple[list[Tensor], ...]:
        parameters = [p for p in group["params"] if p.grad is not None]
        held = [self._optimizer.state[p] for p in parameters]
        return parameters, *([state.get(name) for state in held] for name in self._names)


def _is_plain(group: Mapping[str, Any]) -> bool:
    """Whether the kernel takes a group as it is: one type of numbers, a learning rate on the host, never frozen."""
    kinds = {(parameter.dtype, parameter.device) for parameter in group["params"]}
    is_sgd_without_buffer = "momentum" in group and group["momentum"] == 0 and "initial_momentum" in group
    return bool(
        group.get("fused")
        and not group.get("amsgrad")
        and not group.get("frozen_steps")
        and not isinstance(group["lr"], Tensor)
        and not is_sgd_without_buffer
        and len(kinds) == 1
    )


def _adam(
    group: dict[str, Any],
    parameters: list[Tensor],
    grads: list[Tensor],
    averages: list[Tensor],
    squares: list[Tensor],
    steps: list[Tensor],
) -> None:
    torch._foreach_add_(steps, 1)
    kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
    kernel(
        parameters,
        grads,
        averages,
        squares,
        [],
        steps,
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=group["maximize"],
    )


def _sgd(group: dict[str, Any], parameters: list[Tensor], grads: list[Tensor], momenta: list[Tensor]) -> None:
    torch._fused_sgd_(
        parameters,
        grads,
        momenta if group["momentum"] else [],
        weight_decay=group["weight_decay"],
        momentum=group["momentum"],
        lr=group["lr"],
        dampening=group["dampening"],
        nesterov=group["nesterov"],
        maximize=group["maximize"],
        is_first_step=False,
    )


_KERNELS: dict[type[Optimizer], Callable[..., None]] = {SGD: _sgd, Adam: _adam, AdamW: _adam}
