"""Whether data, model, loss and metrics fit together, tried before a run is written down."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from runner.errors import ConfigError, Problem, TaskError
from runner.tasks.described import described, first_line
from runner.tasks.protocol import Batch, Task
from runner.train.plan import TrainPlan
from runner.train.seeding import generator_states, restore_generators
from runner.train.step import autocast, to_device

EXAMPLES = 2


def probe(task: Task, model: nn.Module, plan: TrainPlan, *, batch_size: int, with_metrics: bool) -> None:
    """Take two training examples through model, loss and back; nothing is left changed.

    The model runs in evaluation mode and without a graph; the way back goes from the loss to the outputs, which is
    where a target of a wrong dtype is found. That the loss is finite is left to the detectors: only a whole batch in
    training mode tells (fresh BatchNorm, fp16), and at step 0 they stop before the first update.

    Args:
        task: gives batch, loss and metrics.
        model: on `plan.device`.
        plan: the run.
        batch_size: examples per optimizer step.
        with_metrics: whether to try the metrics too; torchmetrics takes a second to import.
    Raises:
        ConfigError: they do not fit; the message names types and shapes.
    """
    states, was_training = generator_states(), model.training
    model.eval()
    try:
        with warnings.catch_warnings():
            # torch broadcasts (n, 1) outputs against (n,) targets to (n, n) and only warns
            warnings.filterwarnings("error", message="Using a target size")
            _try(task, model, plan, parts=max(1, batch_size // EXAMPLES), with_metrics=with_metrics)
    except TaskError as error:
        if error.problem is None:
            raise
        raise ConfigError([error.problem]) from error
    finally:
        model.train(was_training)
        restore_generators(states)


def _try(task: Task, model: nn.Module, plan: TrainPlan, *, parts: int, with_metrics: bool) -> None:
    _try_split("train", task, model, plan, parts=parts, with_metrics=with_metrics)
    for split in task.examples:
        if split == "train":
            continue
        try:
            _try_split(split, task, model, plan, parts=parts, with_metrics=with_metrics)
        except TaskError as error:
            if error.problem is None:
                raise
            rule = f"{error.problem.rule} (in the {split} split)"
            raise TaskError(error.problem._replace(rule=rule)) from error


def _try_split(split: str, task: Task, model: nn.Module, plan: TrainPlan, *, parts: int, with_metrics: bool) -> None:
    batch = task.batch(0, split, (0, parts))
    if batch is None:
        return
    weight, batch = task.weight(batch), to_device(batch, plan.device)
    outputs: list[Tensor] = []

    def apply(*inputs: Any, **named: Any) -> Any:
        with torch.no_grad():
            result = model(*inputs, **named)
        if isinstance(result, Tensor) and result.is_floating_point():
            result = result.detach().requires_grad_()
            outputs.append(result)
        return result

    with autocast(plan):
        part = task.loss(apply, batch, weight)
    if part.total.requires_grad and outputs:
        _go_back(part.total, outputs, batch)
    if with_metrics:
        with torch.no_grad():
            scores = task.scores()
            scores.update(part.outputs, batch)
            scores.compute(float(part.total) / (weight or 1))


def _go_back(total: Tensor, outputs: list[Tensor], batch: Batch) -> None:
    try:
        torch.autograd.grad(total, outputs, allow_unused=True)
    except RuntimeError as error:
        rule = f"must have a gradient for outputs {described(outputs[0])}, but torch says: {first_line(error)}"
        fix = f"Change the dtype of the targets; the batch is {described(batch)}"
        raise TaskError(Problem("task.loss", rule, fix)) from error
