"""The update of one lane by torch's fused kernels, called directly: the wrapper of an optimizer takes longer than they.

32 lanes of the digits MLP, AdamW, microseconds a lane: 65 by the optimizers, 26 by this, and 34 by one update over
stacked states with a tensor of learning rates, which passes over the memory eight times
(`experiments/lanes/README.md`). State and hyperparameters stay those of the lane's optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

_STATE: dict[type[Optimizer], tuple[str, ...]] = {
    SGD: ("momentum_buffer",),
    Adam: ("exp_avg", "exp_avg_sq"),
    AdamW: ("exp_avg", "exp_avg_sq"),
}


class FusedUpdate:
    """Makes the updates of an optimizer, from the second one since its state was empty on.

    Args:
        optimizer: its groups may change with every step; see `takes` for its kind.
        model: whose parameters it has.
    """

    def __init__(self, optimizer: Optimizer, model: nn.Module) -> None:
        self._optimizer = optimizer
        self._parameters = list(model.parameters())
        self._update = _KERNELS[type(optimizer)]
        self._state: Mapping[Any, Any] | None = None
        self._lists: list[tuple[list[int], tuple[Any, ...]]] = []

    @staticmethod
    def takes(optimizer: Optimizer) -> bool:
        """Whether it is one of torch's with a fused kernel that is asked for, and nothing is hooked to its steps."""
        hooked = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
        return type(optimizer) in _STATE and not hooked and all(map(_is_plain, optimizer.param_groups))

    @property
    def is_ready(self) -> bool:
        """Whether the state is what the latest update left."""
        return self._optimizer.state is self._state

    @torch.no_grad()
    def __call__(self, grads: Sequence[Tensor] | None) -> None:
        """Make an update.

        Args:
            grads: of all parameters of the model, in order; None where the parameters hold them.
        """
        if self.is_ready:
            for group, (places, lists) in zip(self._optimizer.param_groups, self._lists, strict=True):
                if grads is None:
                    self._update(group, [self._parameters[place].grad for place in places], *lists)
                else:
                    self._update(group, [grads[place] for place in places], *lists)
            return
        for parameter, grad in zip(self._parameters, grads or (), strict=False):
            parameter.grad = grad
        self._optimizer.step()
        self._state, self._lists = self._optimizer.state, [*map(self._listed, self._optimizer.param_groups)]

    def _listed(self, group: dict[str, Any]) -> tuple[list[int], tuple[Any, ...]]:
        """Return places and state of what a group trains; its steps become views of one tensor, counted at once."""
        parameters = [p for p in group["params"] if p.grad is not None]
        held, places = (
            [self._optimizer.state[p] for p in parameters],
            {id(p): i for i, p in enumerate(self._parameters)},
        )
        lists: list[Any] = [[state.get(name) for state in held] for name in _STATE[type(self._optimizer)]]
        if held and "step" in held[0]:
            steps = torch.stack([state["step"] for state in held])
            for state, view in zip(held, steps.unbind(0), strict=True):
                state["step"] = view
            lists.append((steps, steps.unbind(0)))
        return [places[id(p)] for p in parameters], (parameters, *lists)


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
    grads: list[Tensor],
    parameters: list[Tensor],
    averages: list[Tensor],
    squares: list[Tensor],
    counted: tuple[Tensor, list[Tensor]],
) -> None:
    steps, each = counted
    steps.add_(1)
    kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
    kernel(
        parameters,
        grads,
        averages,
        squares,
        [],
        each,
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=group["maximize"],
    )


def _sgd(group: dict[str, Any], grads: list[Tensor], parameters: list[Tensor], momenta: list[Tensor]) -> None:
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
