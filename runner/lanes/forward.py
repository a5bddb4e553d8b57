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


def forward(stack: Stack, task: Task, shared: Shared, plan: TrainPlan, *, with_outputs: bool) -> Passed:
    """Return the losses of the lanes that share a batch.

    Args:
        stack: of all lanes; gradients flow back to its parameters.
        task: of any of them.
        shared: the batch.
        plan: its precision.
        with_outputs: whether the outputs are wanted.
    """
    examples, leaves, structure = 0, list[Any](), tree_flatten(())[1]

    def one(tensors: dict[str, Tensor], batch: Batch) -> list[Tensor]:
        nonlocal examples, structure, leaves
        with stack.lent(tensors) as model:
            part = task.loss(model, batch, shared.weight)
        examples = part.examples
        leaves, structure = tree_flatten(part.outputs if with_outputs else ())
        return [part.total, *filter(_is_tensor, leaves)]

    is_whole = len(shared.lanes) == stack.size
    tensors = {**stack.parameters, **stack.buffers}
    if not is_whole:
        index = torch.tensor(shared.lanes, device=plan.device)
        tensors = {name: tensor.index_select(0, index) for name, tensor in tensors.items()}
    with autocast(plan), batched_operations():
        totals, *tensors_out = torch.func.vmap(
            one, in_dims=(0, 0 if shared.is_stacked else None), randomness="different"
        )(tensors, shared.batch)
    if not is_whole and torch.is_grad_enabled():
        with torch.no_grad():
            for name, buffer in stack.buffers.items():
                buffer.index_copy_(0, index, tensors[name])
    made = iter(tensors_out)
    outputs = tree_unflatten([next(made) if _is_tensor(leaf) else leaf for leaf in leaves], structure)
    return Passed(totals, examples, outputs)


def outputs_of(outputs: Any, index: int) -> Any:
    """Return what the model returned for one lane of those that share a batch."""
    return tree_map(lambda tensor: tensor[index] if isinstance(tensor, Tensor) else tensor, outputs)


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
            with_outputs = any(shown[lane] is not None for lane in shared.lanes)
            passed = forward(stack, tasks[shared.lanes[0]], shared, plan, with_outputs=with_outputs)
            for place, lane in enumerate(shared.lanes):
                examples[lane] += passed.examples
                if shown[lane] is not None:
                    shown[lane].give_outputs = partial(outputs_of, passed.outputs, place)
            if shared.weight == 0:
                continue
            for lane in shared.lanes:
                references[lane] = references[lane] or shared.weight * plan.accumulate
                weights[lane] += shared.weight
            seeds = torch.tensor([1.0 / references[lane] for lane in shared.lanes], dtype=passed.totals.dtype)
            passed.totals.backward(seeds.to(plan.device))  # type: ignore[no-untyped-call]
            part = passed.totals.detach()
            if len(shared.lanes) < stack.size:
                index = torch.tensor(shared.lanes, device=plan.device)
                part = part.new_zeros(stack.size).index_copy(0, index, part)
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
