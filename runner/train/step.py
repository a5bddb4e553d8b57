"""One optimizer step in two halves: gradients (weights untouched), then the update."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from runner.errors import TaskError
from runner.tasks.protocol import Task
from runner.train.plan import TrainPlan

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Averaging(Protocol):
    """An average of the weights that takes in every update."""

    def update(self) -> None:
        """Take in the weights as they are now."""
        ...


class Clips(Protocol):
    """What clips gradients."""

    def clip(self, parameters: list[Tensor], grads: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Scale them down, in place; return their norm before, and whether that was done where the norm tells not."""
        ...


class Shown(Protocol):
    """What meters look at.

    Attributes:
        give_outputs: returns what the model returned for the last micro-batch.
    """

    give_outputs: Callable[[], Any] | None


class Signals(NamedTuple):
    """What a backward pass tells, on the device still, or on the host where many trainings share one transfer.

    Attributes:
        total: sum of the loss over the batch, scalar.
        weight: what to divide it by for the mean.
        grad_norm: global L2 norm of the gradient before clipping, scalar.
        examples: examples in the batch.
        is_clipped: whether the gradient was clipped, scalar; None where `grad_norm` tells.
    """

    total: Tensor | float
    weight: float
    grad_norm: Tensor | float
    examples: int
    is_clipped: Tensor | None = None


def autocast(plan: TrainPlan) -> AbstractContextManager[Any]:
    """Return the context of the forward pass for the declared precision."""
    if plan.precision == "fp32":
        return nullcontext()
    return torch.autocast(plan.device.type, dtype=_DTYPES[plan.precision])


def gradients(
    task: Task,
    apply: Callable[..., Any],
    optimizer: Optimizer,
    plan: TrainPlan,
    scaler: torch.amp.GradScaler,
    step: int,
    clipping: Clips,
    moment: Shown | None = None,
) -> Signals:
    """Leave the gradient of the mean loss of a step, unscaled and clipped, in the parameters.

    gradient = sum over micro-batches of grad(loss sum) / sum of weights, so ragged micro-batches count right.

    Args:
        task, apply, optimizer: what is trained on what.
        plan: micro-batches, device and precision.
        scaler: of the loss.
        step: index of the update.
        clipping: scales the gradient down.
        moment: takes what the model returned for the last micro-batch, for meters that read it.
    Raises:
        TaskError: the whole batch is empty or weighs nothing, or its loss reaches no parameter.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for parameter in parameters:
        parameter.grad = None
    total: Tensor | None = None
    weight = reference = 0.0
    examples = 0
    for index in range(plan.accumulate):
        batch = task.batch(step, "train", (index, plan.accumulate))
        if batch is None:
            continue
        counted = task.weight(batch)
        with autocast(plan):
            part = task.loss(apply, to_device(batch, plan.device), counted)
        examples += part.examples
        if moment is not None:
            moment.give_outputs = partial(getattr, part, "outputs")
        if counted == 0:
            continue
        # the total weight is known only after the last part: scale by a guess, correct at the end
        reference = reference or counted * plan.accumulate
        # the gradient of total / reference, without a division to go back through
        seed = scaler.scale(torch.full_like(part.total, 1.0 / reference))
        part.total.backward(seed)  # type: ignore[no-untyped-call]
        total = part.total.detach() if total is None else total + part.total.detach()
        weight += counted
    if total is None:
        raise TaskError(f"task: must give training data with a weight at every step, got none at step {step}.")
    scaler.unscale_(optimizer)
    trained = [p for p in parameters if p.grad is not None]
    grads = [p.grad for p in trained if p.grad is not None]
    if not grads:
        raise TaskError(f"task: must give a loss that depends on a trained parameter, got none at step {step}.")
    if weight != reference:
        torch._foreach_mul_(grads, reference / weight)
    norm, is_clipped = clipping.clip(trained, grads)
    return Signals(total, weight, norm, examples, is_clipped)


def update(optimizer: Optimizer, scaler: torch.amp.GradScaler, average: Averaging | None = None, *, drop: bool) -> None:
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


def guard_on_device(optimizer: Optimizer, signals: Signals, plan: TrainPlan) -> None:
    """Make a fused optimizer drop a bad update by itself, without a host sync, where the host does not look at each.

    Bad is a loss or a gradient norm that is not finite. x 0 is 0 for what is finite, else NaN: four kernels in place of
    the eleven of `isfinite`, which no small model would hide.
    """
    if plan.watch_every == 1:
        return
    nothing = torch.as_tensor(signals.total * 0 + signals.grad_norm * 0)
    optimizer.found_inf = nothing.float().nan_to_num(nan=1.0)  # type: ignore[attr-defined]
    optimizer.grad_scale = None  # type: ignore[attr-defined]


def compiled(model: nn.Module, plan: TrainPlan) -> Callable[..., Any]:
    """Return what a forward pass calls: the model, through torch.compile where that is declared.

    What was compiled before is forgotten: the models of a sweep share their code, and after a few of them torch would
    compile no further one, without an error.
    """
    if not plan.compile:
        return model
    torch.compiler.reset()
    return torch.compile(model)


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
        counted, batch = task.weight(batch), to_device(batch, plan.device)
        with autocast(plan):
            part = task.loss(apply, batch, counted)
        totals.append(part.total)
        weight += counted
        scores.update(part.outputs, batch)
        index += 1
    loss = math.fsum(torch.stack(totals).tolist()) / weight if weight else float("nan")
    return {"loss": loss, **scores.compute(loss)}
