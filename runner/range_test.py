"""A learning rate range test: ramps of the base learning rate on copies of a training, which stays as it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from runner.finding.ramp import Brake, Ramp, half_width
from runner.optim.apply import Schedules, apply_schedules
from runner.tasks.protocol import Task
from runner.train.branches import Copy, duplicate, train_once, with_settled_scale
from runner.train.checkpoint import Checkpoints
from runner.train.clipping import Clipping
from runner.train.own_average import averaging
from runner.train.plan import TrainPlan
from runner.train.seeding import generator_states, restore_generators
from runner.train.step import to_device
from runner.watch import Watch


def starting_point(
    task: Task,
    model: nn.Module,
    optimizer: Optimizer,
    *,
    plan: TrainPlan,
    clipping: Clipping,
    watch: Watch,
    source: Path | None = None,
) -> tuple[Copy, int]:
    """Return a training as its first update, or the next one after a checkpoint, finds it, and the step of that update.

    Args:
        task, model, optimizer, plan, clipping, watch: as `fit` takes them; what a checkpoint holds is loaded into them.
        source: checkpoint to go on from; None begins afresh.
    Raises:
        CheckpointError: the checkpoint cannot be read or does not fit.
    """
    scaler = torch.amp.GradScaler(plan.device.type, enabled=plan.precision == "fp16")
    averaging(task, model, optimizer, plan)  # puts an optimizer that averages by itself into training mode
    state = Checkpoints(Path(os.devnull), source=source).resume(watch, model, optimizer, scaler)
    if state is not None:
        clipping.load_state_dict(to_device(state.clipping, plan.device))
    return Copy(model, optimizer, scaler, clipping), 0 if state is None else state.step


def constant(optimizer: Optimizer) -> Schedules:
    """Return the schedules of a training without any: every group at its base learning rate."""
    return {(group["name"], "lr"): _one for group in optimizer.param_groups}


def run_ramps(
    copy: Copy,
    lrs: Sequence[float],
    task: Task,
    plan: TrainPlan,
    *,
    base_lr: float,
    begin: int = 0,
    repeats: int = 1,
    on_ramp: Callable[[Ramp], None] = lambda ramp: None,
) -> list[Ramp]:
    """Raise the learning rate of every group from update to update until the loss blows up, and that several times.

    lr of update i in group g = initial_lr of g * lrs[i] / base_lr, so ratios between groups are kept; warmup and
    schedules, those of other hyperparameters too, are not in force, and groups that are frozen at the first step stay
    frozen. Gradients are clipped as they are in the run. The batch of update i in repeat r is that of step
    begin + r * len(lrs) + i: every repeat sees other data. Each begins with a fresh copy, and all global generators
    end as they began: model, buffers, optimizer, scaler and clipping are not touched.

    Args:
        copy: where the ramps begin; its model is on `plan.device`.
        lrs: base learning rates, rising.
        task, plan: of the run.
        base_lr: base learning rate of the run, which `initial_lr` of the groups is made of.
        begin: step of the first batch.
        repeats: >= 1.
        on_ramp: is called with every ramp when it is made.
    Returns:
        the ramps, each up to where it was stopped.
    """
    before = generator_states()
    copy, ramps = with_settled_scale(copy, task, plan, begin), list[Ramp]()
    try:
        for first in range(begin, begin + repeats * len(lrs), len(lrs)):
            ramps.append(_run(duplicate(copy), lrs, task, plan, base_lr=base_lr, begin=begin, first=first))
            on_ramp(ramps[-1])
    finally:
        restore_generators(before)
    return ramps


def _run(
    copy: Copy, lrs: Sequence[float], task: Task, plan: TrainPlan, *, base_lr: float, begin: int, first: int
) -> Ramp:
    copy.model.train()
    schedules = constant(copy.optimizer)
    brake, losses, why = Brake(half_width(lrs)), list[float](), ""
    for i, lr in enumerate(lrs):
        apply_schedules(copy.optimizer, schedules, begin, lr_scale=lr / base_lr)
        losses.append(train_once(copy, task, plan, first + i))
        if why := brake.why(losses[-1]):
            break
    return Ramp(tuple(lrs[: len(losses)]), tuple(losses), len(lrs), why)


def _one(step: int) -> float:
    return 1.0
