"""What cannot be trained in lanes, found before anything is written: by a look at the plans and by a real trial."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from runner.lanes.forward import backward
from runner.lanes.memory import is_out_of_memory
from runner.lanes.stack import Stack
from runner.tasks.closing import in_use
from runner.tasks.described import first_line
from runner.tasks.protocol import Task
from runner.train.plan import TrainPlan
from runner.train.seeding import generator_states, restore_generators
from runner.train.step import autocast, to_device

WAY_OUT = "Set sweep.backend=sequential or sweep.backend=processes"
_ALIKE = ("accumulate", "precision", "device")


def why_not(experiments: Sequence[Mapping[str, Any]]) -> str | None:
    """Return why experiments cannot be trained in lanes, with the way out; None where they can.

    Two lanes with unequal weights make one step, each on a batch of its own, and must find the losses, gradients and
    buffers that the model finds on its own. Nothing is left changed.

    Args:
        experiments: the parts of each, as `Experiment.parts()` gives them; those that are made later may be missing,
            and are looked at when they begin.
    """
    first = experiments[0]
    reason = next(_unlike(first["plan"]), None)
    for other in experiments[1:]:
        reason = reason or unfit(first, other)
    reason = reason or _tried(first["task"], first["model"], first["plan"])
    return f"{reason}. {WAY_OUT}." if reason else None


def unfit(first: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Return why an experiment cannot be a lane beside another, None where it can."""
    for name in _ALIKE:
        one, two = (getattr(parts["plan"], name) for parts in (first, other))
        if one != two:
            return f"train.{name}: must be the same in all lanes, got {one} and {two}"
    if reason := next(_unlike(other["plan"]), None):
        return reason
    if difference := _difference(first["model"], other["model"]):
        return f"task: must make the same model in all lanes, but {difference}"
    return None


def _unlike(plan: TrainPlan) -> Iterator[str]:
    if plan.compile:
        yield "train.compile: must be false for lanes, got true"
    if plan.precision == "fp16":
        yield "train.precision: must be fp32 or bf16 for lanes, as fp16 scales the loss of each run, got fp16"
    if plan.watch_every > 1:
        yield f"train.watch_every: must be 1 for lanes, which look at all losses at once, got {plan.watch_every}"


def _difference(one: nn.Module, other: nn.Module) -> str:
    """Return in which way a model is not another one with other weights, in words; "" where it is."""
    modules, others = dict(one.named_modules()), dict(other.named_modules())
    if modules.keys() != others.keys():
        return f"only one of them has {sorted(modules.keys() ^ others.keys())[0]}"
    for name, module in modules.items():
        kind, twin = type(module).__name__, others[name]
        if type(twin).__name__ != kind:
            return f"{name or 'it'} is {kind} and {type(twin).__name__}"
        for key, value in _settings(module).items():
            if value != (theirs := _settings(twin).get(key)):
                return f"{name or kind}.{key} is {value} and {theirs}"
    return ""


def _settings(module: nn.Module) -> dict[str, Any]:
    """Return shapes of tensors and plain values that a module holds itself."""
    tensors = {**module._parameters, **module._buffers}
    plain = {k: v for k, v in vars(module).items() if isinstance(v, int | float | str | None) and k != "training"}
    return plain | {k: (tuple(v.shape), v.dtype) for k, v in tensors.items() if v is not None}


def _tried(task: Task, model: nn.Module, plan: TrainPlan) -> str | None:
    """Return what a step of two lanes fails with, or that it differs from that of the model alone."""
    states = generator_states()
    try:
        with in_use(task), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seen = _Seen(task)
            found = _differs(seen, model, plan)
            if found is _RANDOM:  # what remains is compared without the numbers that it draws
                quiet = deepcopy(model)
                for module in quiet.modules():
                    if isinstance(module, _DropoutNd):
                        module.p = 0.0
                found = _differs(seen, quiet, plan)
    finally:
        restore_generators(states)
    return None if found is _RANDOM else found


class _Seen:
    """A task that reads every batch once."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._batches = dict[tuple[int, str, tuple[int, int]], Any]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def batch(self, step: int, split: str, part: tuple[int, int] = (0, 1)) -> Any:
        """Return a batch of the task."""
        if (key := (step, split, part)) not in self._batches:
            self._batches[key] = self._task.batch(step, split, part)
        return self._batches[key]


_RANDOM = "random"  # the model alone finds other numbers each time


def _differs(task: _Seen, model: nn.Module, plan: TrainPlan) -> str | None:
    """Return what two lanes with unequal weights, each with a batch of its own, find otherwise than the model alone."""
    trail = list[tuple[str, nn.Module]]()
    models = [deepcopy(model).train() for _ in range(2)]
    with torch.no_grad():
        for parameter in models[1].parameters():
            parameter.mul_(1.1)
    try:
        second = _alone(task, deepcopy(models[1]), plan, step=1)  # first: in order, a task may start processes
        first, again = (_alone(task, deepcopy(models[0]), plan, step=0) for _ in range(2))
        stack = Stack(models)
        with _watched(stack.template, trail), _no_loop_over_lanes():
            sums = backward(stack, [task] * 2, [0, 1], plan, [SimpleNamespace(), SimpleNamespace()])
    except Exception as error:
        if is_out_of_memory(error):
            return (
                f"train.batch_size: must leave memory for two runs at once, got {first_line(error.__cause__ or error)}"
            )
        name = type(model).__name__
        where = f"{type(trail[-1][1]).__name__} ({trail[-1][0] or 'the model'})" if trail else f"{name} or its loss"
        return f"task.model: {where} cannot be trained in lanes: {_why(error.__cause__ or error)}"
    if not _close(first.found, again.found, plan):
        return _RANDOM
    for lane, one in enumerate((first, second)):
        grads = [None if p.grad is None else p.grad[lane] for p in stack.parameters.values()]
        if not _close(one.found, [sums.totals[lane], *grads], plan):
            return f"task.model: {type(model).__name__} finds other losses or gradients in lanes than alone"
        for name, buffer in one.buffers.items():
            if not _close([buffer.double()], [stack.buffers[name][lane].double()], plan):
                return f"task.model: must change its buffer {name} in place, as .copy_() does, to be trained in lanes"
    return None


def _why(error: BaseException) -> str:
    if found := re.search(r"(aten::[\w.]*\w).*fallback", str(error)):
        return f"torch has no batched form of {found[1]}"
    return re.split(r", please file|\. We don't support| \(see http", first_line(error))[0]


class _Alone(NamedTuple):
    """What a model finds on its own.

    Attributes:
        found: the loss of a batch and its gradients, as `backward` has them.
        buffers: after it, by name.
    """

    found: list[Tensor | None]
    buffers: dict[str, Tensor]


def _alone(task: _Seen, model: nn.Module, plan: TrainPlan, *, step: int) -> _Alone:
    """Return what a model makes of a batch."""
    total, weight = torch.zeros((), device=plan.device), 0.0
    for micro in range(plan.accumulate):
        if (batch := task.batch(step, "train", (micro, plan.accumulate))) is not None and (one := task.weight(batch)):
            with autocast(plan):
                part = task.loss(model, to_device(batch, plan.device), one).total
            part.backward()
            total, weight = total + part.detach(), weight + one
    grads = [None if p.grad is None else p.grad / weight for p in model.parameters()]
    return _Alone([total, *grads], dict(model.named_buffers()))


def _close(one: Sequence[Tensor | None], other: Sequence[Tensor | None], plan: TrainPlan) -> bool:
    rel = 1e-3 if plan.precision == "fp32" else 0.1
    whole = max((float(a.norm()) for a in one if a is not None), default=0.0)
    return all(
        (a is None) == (b is None)
        and (a is None or b is None or float((a - b).norm()) <= rel * (float(a.norm()) + 1e-3 * whole))
        for a, b in zip(one, other, strict=True)
    )


@contextmanager
def _no_loop_over_lanes() -> Iterator[None]:
    """Have operations fail that torch has no batched form of: it would make them lane by lane, slower than alone."""
    functorch: Any = torch._C._functorch
    before = functorch._is_vmap_fallback_enabled()
    functorch._set_vmap_fallback_enabled(False)
    try:
        yield
    finally:
        functorch._set_vmap_fallback_enabled(before)


@contextmanager
def _watched(model: nn.Module, trail: list[tuple[str, nn.Module]]) -> Iterator[None]:
    """Keep the modules that are at work inside, the innermost last; what fails stays."""
    names = {module: name for name, module in model.named_modules() if not isinstance(module, torch.jit.ScriptModule)}
    handles = [
        handle
        for module in names
        for handle in (
            module.register_forward_pre_hook(lambda module, _: trail.append((names[module], module)), prepend=True),
            module.register_forward_hook(lambda module, given, made: trail.pop() and None),
        )
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
