"""What a lane is before its first update, so that one that finds no room is undone, and made when there is some."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from runner.train.restoring import load_optimizer_state


class Before:
    """Weights, gradients and optimizer before the first update of a lane.

    Optimizers of torch make the state of one group and update it before they come to the next one, others that of one
    parameter, or change gradients in place first: what has not found room may have changed any of them. Copies are on
    the host, as a GPU that has no room for the state has none for them.

    Args:
        model, optimizer: of the lane; the optimizer has no state.
        grads: of all parameters of the model, in order; None where the parameters hold them.
    Attributes:
        problem: what told that there was no room; None where the update is made.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, grads: Sequence[Tensor] | None) -> None:
        self.problem: Exception | None = None
        self._parameters, self._optimizer = list(model.parameters()), optimizer
        self._weights = [_on_host(parameter) for parameter in self._parameters]
        given = [parameter.grad for parameter in self._parameters] if grads is None else grads
        self._grads = [None if grad is None else _on_host(grad) for grad in given]
        self._state = deepcopy(optimizer.state_dict())

    @torch.no_grad()
    def restore(self) -> None:
        """Undo what the update has done, and let go of gradients."""
        load_optimizer_state(self._optimizer, deepcopy(self._state))
        for parameter, weights in zip(self._parameters, self._weights, strict=True):
            parameter.copy_(weights)
            parameter.grad = None

    def hand_out_gradients(self) -> None:
        """Give the parameters their gradients, for the update that is owed."""
        for parameter, grad in zip(self._parameters, self._grads, strict=True):
            parameter.grad = None if grad is None else grad.to(parameter.device, copy=True)


def _on_host(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)
