"""Weights that an optimizer averages by itself (schedule-free): evaluated and saved beside those it trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from runner.tasks.protocol import Task
from runner.train.average import INSIDE, WeightAverage
from runner.train.plan import TrainPlan
from runner.train.step import autocast, to_device


@runtime_checkable
class Averager(Protocol):
    """An optimizer that holds two points: `eval()` puts the average in place of the trained weights, `train()` back."""

    def eval(self) -> Any:
        """Put the average in place."""
        ...

    def train(self) -> Any:
        """Put the trained weights in place."""
        ...


class OwnAverage:
    """The averaged weights of an optimizer that keeps them by itself.

    Args:
        task: gives the training batches that BatchNorm is refreshed with.
        model: whose weights are averaged.
        optimizer: put into training mode at once.
        plan: device, precision and number of those batches.
    Source: Defazio et al. 2024, arXiv:2405.15682.
    """

    def __init__(self, task: Task, model: nn.Module, optimizer: Averager, plan: TrainPlan) -> None:
        self._task, self._model, self._optimizer, self._plan = task, model, optimizer, plan
        self._refreshed: list[Tensor] = []  # buffers that belong to the average as it is now; [] before they are needed
        self._optimizer.train()

    def update(self) -> None:
        """Forget the statistics of BatchNorm: the optimizer has averaged in its step."""
        self._refreshed = []

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averaged weights while inside, with statistics of BatchNorm that belong to them.

        The way back takes a copy: by arithmetic alone the optimizer would come back to almost the same weights.
        """
        tensors = [*self._model.parameters(), *self._model.buffers()]
        trained = [tensor.detach().clone() for tensor in tensors]
        self._optimizer.eval()
        try:
            self._refresh()
            yield
        finally:
            self._optimizer.train()
            with torch.no_grad():
                for tensor, before in zip(tensors, trained, strict=True):
                    tensor.copy_(before)

    @torch.no_grad()
    def _refresh(self) -> None:
        """Give BatchNorm the statistics of the average; they are made once, and cost many batches."""
        buffers = list(self._model.buffers())
        if not self._refreshed:
            refresh_batch_norm(self._task, self._model, self._plan)
            self._refreshed = [buffer.clone() for buffer in buffers]
        for buffer, refreshed in zip(buffers, self._refreshed, strict=True):
            buffer.copy_(refreshed)

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged weights as a checkpoint keeps those of `WeightAverage`."""
        with self.applied():
            averaged = {f"{INSIDE}{name}": value.clone() for name, value in self._model.state_dict().items()}
        return {"n_averaged": torch.tensor(1), **averaged}

    def restore(self, content: dict[str, Any]) -> None:
        """Do nothing: model and optimizer hold all there is."""


Average = WeightAverage | OwnAverage


def averaging(task: Task, model: nn.Module, optimizer: Optimizer, plan: TrainPlan) -> Average | None:
    """Return the average that evaluations and checkpoints take, None where those are the trained weights."""
    if isinstance(optimizer, Averager):
        average = OwnAverage(task, model, optimizer, plan)
        optimizer.register_load_state_dict_post_hook(lambda _: average.update())
        return average
    return WeightAverage(model, plan.ema_decay) if plan.ema_decay is not None else None


@torch.no_grad()
def refresh_batch_norm(task: Task, model: nn.Module, plan: TrainPlan) -> None:
    """Set running mean and variance of every BatchNorm to their plain mean over the first training batches.

    Only BatchNorm is in training mode meanwhile, so no dropout draws from the generators of the training; one that the
    model keeps in evaluation mode is left alone.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    found = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    norms = [(module, module.momentum) for module in found if module.track_running_stats]
    model.eval()
    try:
        for norm, _ in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's word for a plain mean
            norm.training = True
        for step in range(plan.refresh_batches if norms else 0):
            for part in range(plan.accumulate):
                batch = task.batch(step, "train", (part, plan.accumulate))
                if batch is not None:
                    weight = task.weight(batch)
                    with autocast(plan):
                        task.loss(model, to_device(batch, plan.device), weight)
    finally:
        for norm, momentum in norms:
            norm.momentum = momentum
        for module, was_training in modes:
            module.training = was_training
