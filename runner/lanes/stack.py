"""The models of all lanes as one: parameters and buffers stacked, each lane's own module a view of its slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, repeat

import torch
from torch import Tensor, nn

from runner.lanes.recording import Recordings
from runner.train.seeding import set_torch_generators, torch_generators


class Stack:
    """Parameters and buffers of models of one architecture, stacked in a first dimension, one lane a slice.

    The tensors of every model become views of their slice, so that what changes a lane's module in place changes the
    stack: its optimizer, a rollback, a checkpoint that is loaded. The first model lends its code to all of them.

    Args:
        models: at least one; `release` gives them their own memory back.
        recordings: of passes that lanes of this kind have made.
    Attributes:
        parameters, buffers: by name, (lanes, ...).
        size: number of lanes.
        has_frozen: whether a lane does not train what another one does.
    """

    def __init__(self, models: Sequence[nn.Module], recordings: Recordings | None = None) -> None:
        self.recordings = recordings or Recordings()
        self.models = list(models)
        self.size = len(self.models)
        self.template = self.models[0]
        self.parameters = _stacked([dict(model.named_parameters()) for model in self.models])
        self.buffers = _stacked([dict(model.named_buffers()) for model in self.models])
        self._lanes = list(zip(*(model.parameters() for model in self.models), strict=True))  # by name, then by lane
        self._places = list(_places(self.template))
        self._changing, self._has_passed = list(self.buffers), False
        self.follow_freezing()

    def follow_freezing(self) -> None:
        """Take gradients of what any lane trains now."""
        self.has_frozen = False
        for stacked, lanes in zip(self.parameters.values(), self._lanes, strict=True):
            are_trained = {parameter.requires_grad for parameter in lanes}
            stacked.requires_grad_(any(are_trained))
            self.has_frozen |= len(are_trained) > 1

    @contextmanager
    def lent(self, tensors: dict[str, Tensor]) -> Iterator[nn.Module]:
        """Yield a module that computes with the given parameters and buffers."""
        before = [holder[key] for holder, key, _ in self._places]
        for holder, key, name in self._places:
            holder[key] = tensors[name]
        try:
            yield self.template
        finally:
            for (holder, key, _), own in zip(self._places, before, strict=True):
                holder[key] = own

    @contextmanager
    def untouched_by_failure(self) -> Iterator[None]:
        """Put buffers and generators back where what is done inside fails.

        Which buffers a pass changes is seen in the first one: their version counters do not tell under `vmap`.
        """
        before = {name: self.buffers[name].clone() for name in self._changing}
        generators = torch_generators()
        try:
            yield
        except BaseException:
            for name, buffer in before.items():
                self.buffers[name].copy_(buffer)
            set_torch_generators(generators)
            raise
        if not self._has_passed:
            self._changing = [name for name, buffer in before.items() if not torch.equal(buffer, self.buffers[name])]
            self._has_passed = True

    def drop_frozen_gradients(self) -> None:
        """Set gradients to zero where a lane does not train what another one does."""
        for stacked, lanes in zip(self.parameters.values(), self._lanes, strict=True):
            frozen = [index for index, parameter in enumerate(lanes) if not parameter.requires_grad]
            if frozen and stacked.grad is not None:
                stacked.grad[frozen] = 0.0

    def gradients_by_lane(self) -> list[tuple[Tensor, ...]] | None:
        """Return the gradients of each lane, in the order of its parameters; None where a lane has not all of them."""
        grads = [stacked.grad for stacked in self.parameters.values()]
        if self.has_frozen or any(grad is None for grad in grads):
            return None
        return list(zip(*(grad.unbind(0) for grad in grads if grad is not None), strict=True))

    def hand_out_gradients(self) -> None:
        """Give every lane's parameters the views of their gradients; None where there is none or a lane is frozen."""
        for stacked, lanes in zip(self.parameters.values(), self._lanes, strict=True):
            for own, grad in zip(lanes, repeat(None) if stacked.grad is None else stacked.grad.unbind(0), strict=False):
                own.grad = grad
        if self.has_frozen:
            for own in chain.from_iterable(self._lanes):
                own.grad = own.grad if own.requires_grad else None


def release(model: nn.Module) -> None:
    """Give a model that leaves a stack its own memory."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.detach().clone()
    for parameter in model.parameters():
        parameter.grad = None


def _stacked(lanes: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack tensors by name, and make the given ones views of the result."""
    found = {}
    for name in lanes[0]:
        stacked = torch.stack([lane[name].detach() for lane in lanes])
        for lane, view in zip(lanes, stacked.unbind(0), strict=True):
            lane[name].data = view
        found[name] = stacked
    return found


def _places(model: nn.Module) -> Iterator[tuple[dict[str, Tensor | None], str, str]]:
    """Yield where a module holds its tensors, and the name in the stack; a shared tensor is in several places."""
    names: dict[int, str] = {}
    for prefix, module in model.named_modules():
        for holder in (module._parameters, module._buffers):
            for key, tensor in holder.items():
                if tensor is not None:
                    yield holder, key, names.setdefault(id(tensor), f"{prefix}.{key}" if prefix else key)
