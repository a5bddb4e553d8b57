"""Loss and gradient of all lanes in one pass."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from runner.errors import TaskError
from runner.lanes.batched import batched_operations
from runner.lanes.recording import Told
from runner.lanes.stack import Stack
from runner.tasks.protocol import Batch, Task
from runner.train.plan import TrainPlan
from runner.train.step import autocast, to_device


class Shared(NamedTuple):
    """A batch for some lanes.

    Attributes:
        lanes: their indices in the stack.
        batch: on the device; with a first dimension for the lanes where they have different ones.
        is_stacked: whether it has.
        weight: of one lane's batch, the same for all of them.
    """

    lanes: list[int]
    batch: Batch
    is_stacked: bool
    weight: float


class Passed(NamedTuple):
    """What a forward pass gives, by lane.

    Attributes:
        totals: summed losses, (lanes,).
        examples: in the batch of one lane.
        outputs: of the model, every tensor (lanes, ...); None unless asked for.
    """

    totals: Tensor
    examples: int
    outputs: Any


def gather(
    tasks: Sequence[Task], steps: Sequence[int], split: str, part: tuple[int, int], device: torch.device
) -> list[Shared]:
    """Return the batches of all lanes, as few as can be: one for lanes with the same task object and step.

    Lanes whose batches have other shapes or weights, as at the ragged end of an epoch, go apart; those without one are
    left out.
    """
    keys = [(id(task), step) for task, step in zip(tasks, steps, strict=True)]
    batches: dict[tuple[int, int], tuple[Batch, float]] = {}
    for key, task, step in zip(keys, tasks, steps, strict=True):
        if key not in batches:
            batch = task.batch(step, split, part)
            batches[key] = batch, 0.0 if batch is None else task.weight(batch)
    groups: dict[Hashable, list[int]] = {}
    for lane, key in enumerate(keys):
        batch, weight = batches[key]
        if batch is not None:
            groups.setdefault(_form(batch, weight) if len(batches) > 1 else None, []).append(lane)
    found = []
    for lanes in groups.values():
        batch, weight = batches[keys[lanes[0]]]
        is_stacked = len({keys[lane] for lane in lanes}) > 1
        if is_stacked:
            batch = _stack([batches[keys[lane]][0] for lane in lanes])
        found.append(Shared(lanes, to_device(batch, device), is_stacked, weight))
    return found


def forward(
    stack: Stack, task: Task, shared: Shared, plan: TrainPlan, *, with_outputs: bool, seeds: Sequence[float] = ()
) -> Passed:
    """Return the losses of the lanes that share a batch; add their gradients to those of the stacked parameters.

    Args:
        stack: of all lanes.
        task: of any of them.
        shared: the batch.
        plan: its precision.
        with_outputs: whether the outputs are wanted.
        seeds: what the gradient of each loss is multiplied with; () finds none.
    """
    leaves, structure = tree_flatten(shared.batch)
    trained = [name for name, parameter in stack.parameters.items() if parameter.requires_grad and seeds]
    names = [*stack.parameters, *stack.buffers]

    def pass_(given: Sequence[Tensor], told: Told) -> list[Tensor]:
        """Tensors of the stack, of the batch, and the seeds -> losses, gradients, tensors of the outputs."""
        tensors, rest = dict(zip(names, given, strict=False)), iter(given[len(names) :])
        batch = tree_unflatten([next(rest) if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure)
        with autocast(plan), batched_operations():
            totals, *outputs = _vectorised(stack, task, shared, tensors, batch, told, with_outputs=with_outputs)
        grads: Sequence[Tensor | None] = ()
        if trained and totals.requires_grad:
            of = [tensors[name] for name in trained]
            grads = torch.autograd.grad(totals, of, next(rest).to(totals.dtype), allow_unused=True)
        told.reached = [name for name, grad in zip(trained, grads, strict=False) if grad is not None]
        dense = [grad.contiguous() for grad in grads if grad is not None]  # as the parameters: kernels run over both
        return [totals.detach(), *dense, *(output.detach() for output in outputs)]

    index = None if len(shared.lanes) == stack.size else torch.tensor(shared.lanes, device=plan.device)
    given = [*_of_lanes(stack, index), *(leaf for leaf in leaves if isinstance(leaf, Tensor))]
    exact = torch.float32 if plan.device.type == "mps" else torch.float64  # rounded once, to the format of the losses
    given += [torch.tensor(seeds, device=plan.device, dtype=exact)] if seeds else []
    if stack.recordings.allow(task, stack.template):
        key = (len(shared.lanes), shared.is_stacked, with_outputs, stack.template.training, *trained)
        (totals, *made), told = stack.recordings.play((*key, _form(shared.batch, shared.weight)), pass_, given)
    else:
        totals, *made = pass_(given, told := Told())
    for name, grad in zip(told.reached, made, strict=False):
        _add(stack.parameters[name], grad, index)
    if index is not None and seeds:
        for name, buffer in zip(names, given, strict=False):
            if name in stack.buffers:
                stack.buffers[name].index_copy_(0, index, buffer)
    tensors = iter(made[len(told.reached) :])
    outputs = [next(tensors) if isinstance(leaf, Tensor) else leaf for leaf in told.leaves]
    return Passed(totals, told.examples, tree_unflatten(outputs, told.structure))


def _vectorised(
    stack: Stack,
    task: Task,
    shared: Shared,
    tensors: dict[str, Tensor],
    batch: Batch,
    told: Told,
    *,
    with_outputs: bool,
) -> list[Tensor]:
    """Return the losses of all lanes, and the tensors in what the models return."""

    def one(tensors: dict[str, Tensor], batch: Batch) -> list[Tensor]:
        with stack.lent(tensors) as model:
            part = task.loss(model, batch, shared.weight)
        told.examples = part.examples
        told.leaves, told.structure = tree_flatten(part.outputs if with_outputs else ())
        return [part.total, *filter(_is_tensor, told.leaves)]

    in_dims = (0, 0 if shared.is_stacked else None)
    made: list[Tensor] = torch.func.vmap(one, in_dims=in_dims, randomness="different")(tensors, batch)
    return made


def _of_lanes(stack: Stack, index: Tensor | None) -> list[Tensor]:
    """Return the stacked parameters and buffers of some lanes, or of all."""
    if index is None:
        return [*stack.parameters.values(), *stack.buffers.values()]
    picked = [p.detach().index_select(0, index).requires_grad_(p.requires_grad) for p in stack.parameters.values()]
    return [*picked, *(buffer.index_select(0, index) for buffer in stack.buffers.values())]


def _add(parameter: Tensor, grad: Tensor, index: Tensor | None) -> None:
    if index is not None:
        grad = torch.zeros_like(parameter).index_copy_(0, index, grad)
    parameter.grad = grad if parameter.grad is None else parameter.grad + grad


def outputs_of(outputs: Any, index: int) -> Any:
    """Return what the model returned for one lane of those that share a batch."""
    return tree_map(lambda tensor: tensor[index] if isinstance(tensor, Tensor) else tensor, outputs)


def _spread(totals: Tensor, lanes: Sequence[int], size: int) -> Tensor:
    return totals.new_zeros(size).index_copy_(0, torch.tensor(lanes, device=totals.device), totals)


class Sums(NamedTuple):
    """What a backward pass tells of each lane.

    Attributes:
        totals: summed losses over all micro-batches, (lanes,).
        weights: what to divide them by.
        examples: in them.
    """

    totals: Tensor
    weights: list[float]
    examples: list[int]


def backward(stack: Stack, tasks: Sequence[Task], steps: Sequence[int], plan: TrainPlan, shown: Sequence[Any]) -> Sums:
    """Leave the gradient of the mean loss of every lane in the stacked parameters, as `train.step.gradients` does.

    Args:
        stack: all lanes.
        tasks, steps: of each lane.
        plan: micro-batches, device and precision.
        shown: takes the outputs of the last micro-batch, None where nobody reads them.
    Raises:
        TaskError: a lane's whole batch is empty or weighs nothing, or its loss reaches no parameter.
    """
    for parameter in stack.parameters.values():
        parameter.grad = None
    totals, weights, references, examples = None, [0.0] * stack.size, [0.0] * stack.size, [0] * stack.size
    for micro in range(plan.accumulate):
        for shared in gather(tasks, steps, "train", (micro, plan.accumulate), plan.device):
            lanes = shared.lanes
            for lane in lanes if shared.weight else ():
                references[lane] = references[lane] or shared.weight * plan.accumulate
                weights[lane] += shared.weight
            seeds = [1.0 / references[lane] for lane in lanes] if shared.weight else []
            with_outputs = any(shown[lane] is not None for lane in lanes)
            passed = forward(stack, tasks[lanes[0]], shared, plan, with_outputs=with_outputs, seeds=seeds)
            for place, lane in enumerate(lanes):
                examples[lane] += passed.examples
                if shown[lane] is not None:
                    shown[lane].give_outputs = partial(outputs_of, passed.outputs, place)
            part = passed.totals if len(lanes) == stack.size else _spread(passed.totals, lanes, stack.size)
            if shared.weight:
                totals = part if totals is None else totals + part
    if totals is None or not all(weights):
        step = steps[weights.index(0.0)]
        raise TaskError(f"task: must give training data with a weight at every step, got none at step {step}.")
    grads = [p.grad for p in stack.parameters.values() if p.grad is not None]
    if not grads:
        raise TaskError(f"task: must give a loss that depends on a trained parameter, got none at step {steps[0]}.")
    if weights != references:
        factors = [reference / weight for reference, weight in zip(references, weights, strict=True)]
        scale(grads, torch.tensor(factors, dtype=totals.dtype, device=totals.device))
    return Sums(totals, weights, examples)


def scale(grads: Sequence[Tensor], factors: Tensor) -> None:
    """Multiply stacked gradients, in place, by one factor a lane."""
    for grad in grads:
        grad.mul_(factors.to(grad.dtype).view(-1, *[1] * (grad.dim() - 1)))


def _is_tensor(leaf: Any) -> bool:
    """Whether an output is a tensor; plain values are the same in all lanes.

    Raises:
        TypeError: it is an object, whose tensors nobody can see.
    """
    if not isinstance(leaf, Tensor | int | float | str | None):
        raise TypeError(f"the model returns {type(leaf).__name__}, in which torch finds no tensors")
    return isinstance(leaf, Tensor)


def _form(batch: Batch, weight: float) -> Hashable:
    leaves, structure = tree_flatten(batch)
    return weight, str(structure), *((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves)


def _stack(batches: Sequence[Batch]) -> Batch:
    leaves, structures = zip(*map(tree_flatten, batches), strict=True)
    stacked = [torch.stack(same) if isinstance(same[0], Tensor) else same[0] for same in zip(*leaves, strict=True)]
    return tree_unflatten(stacked, structures[0])
