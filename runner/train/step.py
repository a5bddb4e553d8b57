"""One optimizer step in two halves: gradients (weights untouched), then the update."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from runner.errors import TaskError
from runner.tasks.protocol import Task
from runner.train.average import WeightAverage
from runner.train.plan import TrainPlan

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Signals(NamedTuple):
    """What a backward pass tells, still on the device.

    Attributes:
        loss: mean loss over the batch, scalar.
        grad_norm: global L2 norm of the gradient before clipping, scalar.
        examples: examples in the batch.
    """

    loss: Tensor
    grad_norm: Tensor
    examples: int


def autocast(plan: TrainPlan) -> AbstractContextManager[Any]:
    """Return the context of the forward pass for the declared precision."""
    return torch.autocast(plan.device.type, dtype=_DTYPES.get(plan.precision), enabled=plan.precision != "fp32")


def gradients(
    task: Task,
    apply: Callable[..., Any],
    optimizer: Optimizer,
    plan: TrainPlan,
    scaler: torch.amp.GradScaler,
    step: int,
) -> Signals:
    """Leave the gradient of the mean loss of a step, unscaled and clipped, in the parameters.

    gradient = sum over micro-batches of grad(loss sum) / sum of weights, so ragged micro-batches count right.

    Raises:
        TaskError: the whole batch is empty or weighs nothing.
    """
    optimizer.zero_grad()
    total: Tensor | None = None
    weight = reference = 0.0
    examples = 0
    for index in range(plan.accumulate):
        batch = task.batch(step, "train", (index, plan.accumulate))
        if batch is None:
            continue
        with autocast(plan):
            part = task.loss(apply, to_device(batch, plan.device))
        examples += part.examples
        if part.weight == 0:
            continue
        # the total weight is known only after the last part: scale by a guess, correct at the end
        reference = reference or part.weight * plan.accumulate
        scaler.scale(part.total / reference).backward()  # type: ignore[no-untyped-call]
        total = part.total.detach() if total is None else total + part.total.detach()
        weight += part.weight
    if total is None:
        raise TaskError(f"task: must give training data with a weight at every step, got none at step {step}.")
    scaler.unscale_(optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    grads = [p.grad for p in parameters if p.grad is not None]
    if weight != reference:
        for grad in grads:
            grad.mul_(reference / weight)
    norm = torch.nn.utils.get_total_norm(grads)
    if plan.clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, plan.clip_norm, norm)
    return Signals(total / weight, norm, examples)


def update(
    optimizer: Optimizer, scaler: torch.amp.GradScaler, average: WeightAverage | None = None, *, drop: bool
) -> None:
    """Change the weights: the only place that does.

    Args:
        optimizer: makes the update.
        scaler: learns from an infinite gradient, and drops the update by itself where `drop` cannot be known.
        average: takes in the new weights.
        drop: the fp16 gradient is known to be infinite.
    """
    if not drop:
        scaler.step(optimizer)
        if average is not None:
            average.update()
    scaler.update()


def guard_on_device(optimizer: Optimizer, signals: Signals) -> None:
    """Make a fused optimizer drop this update by itself when loss or gradient is not finite, without a host sync."""
    good = torch.isfinite(signals.loss) & torch.isfinite(signals.grad_norm)
    optimizer.found_inf = (~good).float()  # type: ignore[attr-defined]
    optimizer.grad_scale = None  # type: ignore[attr-defined]


def compiled(model: nn.Module, plan: TrainPlan) -> Callable[..., Any]:
    """Return what a forward pass calls: the model, through torch.compile where that is declared."""
    return torch.compile(model) if plan.compile else model


def to_device(batch: Any, device: torch.device) -> Any:
    """Return the batch with every tensor in it on the device; tuples, lists and mappings keep their form."""
    if device.type == "cpu":
        return batch
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(item, device) for item in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(to_device(item, device) for item in batch)
    return batch


@torch.no_grad()
def evaluate(
    task: Task, apply: Callable[..., Any], plan: TrainPlan, split: str, *, batches: int | None = None
) -> dict[str, float]:
    """Return loss and metrics over a split; the caller puts the model into evaluation mode.

    loss = sum of sums / sum of weights over all batches, not a mean of means.

    Args:
        task: gives batches, loss and metrics.
        apply: the model, compiled or not.
        plan: device and precision.
        split: name of the split.
        batches: how many to take, from the first; None all there are, which "train" needs a number for: it never ends.
    """
    scores = task.scores()
    totals: list[Tensor] = []
    weight, index = 0.0, 0
    while index != batches and (batch := task.batch(index, split)) is not None:
        batch = to_device(batch, plan.device)
        with autocast(plan):
            part = task.loss(apply, batch)
        totals.append(part.total)
        weight += part.weight
        scores.update(part.outputs, batch)
        index += 1
    loss = math.fsum(torch.stack(totals).tolist()) / weight if weight else float("nan")
    return {"loss": loss, **scores.compute(loss)}
