"""Whether data, model, loss and metrics fit together, tried before a run is written down."""

from __future__ import annotations

import warnings
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from runner.errors import ConfigError, Problem, TaskError
from runner.tasks.described import described, first_line
from runner.tasks.protocol import Batch, Task
from runner.train.plan import TrainPlan
from runner.train.seeding import generator_states, restore_generators
from runner.train.step import autocast, to_device

EXAMPLES = 2
_ONE_VALUE = "Expected more than 1 value per channel when training"  # what torch says of BatchNorm with one example


def probe(task: Task, model: nn.Module, plan: TrainPlan, *, batch_size: int, with_metrics: bool) -> None:
    """Take two examples of every split through model, loss and back; nothing is left changed.

    Where two examples fail, as they do with a model that is made for one batch size, the whole first batch may try.
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
    parts = max(1, batch_size // EXAMPLES)
    try:
        with warnings.catch_warnings():
            # torch broadcasts (n, 1) outputs against (n,) targets to (n, n) and only warns
            warnings.filterwarnings("error", message="Using a target size")
            _try(task, model, plan, parts=parts, with_metrics=with_metrics)
        _try_alone(task, model, plan, batch_size)
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
    try:
        _try_batch(task.batch(0, split, (0, parts)), task, model, plan, with_metrics=with_metrics)
    except Exception:
        whole = task.batch(0, split, (0, plan.accumulate if split == "train" else 1))
        with suppress(Exception):  # two examples make the shorter message
            _try_batch(whole, task, model, plan, with_metrics=with_metrics)
            return
        raise


def _try_batch(batch: Batch | None, task: Task, model: nn.Module, plan: TrainPlan, *, with_metrics: bool) -> None:
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


def _try_alone(task: Task, model: nn.Module, plan: TrainPlan, batch_size: int) -> None:
    """Train on one example, where a model has BatchNorm and the run comes to such a batch, maybe after an hour."""
    examples = task.examples.get("train")
    has_norm = any(isinstance(module, _BatchNorm) for module in model.modules())
    if examples is None or not has_norm or _smallest_batch(examples, batch_size, plan) > 1:
        return
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.train()
    try:
        batch = task.batch(0, "train", (0, batch_size))
        with torch.no_grad(), autocast(plan):
            task.loss(model, to_device(batch, plan.device), task.weight(batch))
    except Exception as error:
        if _ONE_VALUE in str(error):
            raise ConfigError([_lonely(examples, batch_size, plan)]) from error
    finally:
        for buffer, before in buffers:
            buffer.copy_(before)


def _smallest_batch(examples: int, batch_size: int, plan: TrainPlan) -> int:
    """Return the examples of the smallest micro-batch that the run comes to."""
    last = examples % batch_size
    whole = [last] if last and plan.steps * batch_size >= examples else []
    return min(max(1, size // plan.accumulate) for size in [batch_size, *whole])


def _lonely(examples: int, batch_size: int, plan: TrainPlan) -> Problem:
    micro = f" in {plan.accumulate} micro-batches" if plan.accumulate > 1 else ""
    rule = f"must leave no batch of one example, which BatchNorm cannot train on, got {batch_size} of {examples}{micro}"
    sizes = range(batch_size + 1, examples + 1)
    better = next((size for size in sizes if _smallest_batch(examples, size, plan) > 1), None)
    fix = "Use another norm" if better is None else f"Set train.batch_size={better}, or use another norm"
    return Problem("train.batch_size", rule, fix)
