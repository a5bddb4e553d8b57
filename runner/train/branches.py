"""Learning rates compared on copies of a training, from the same weights and on the same batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from statistics import fmean, stdev
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from runner.optim.apply import Schedules, apply_schedules
from runner.tasks.protocol import Task
from runner.train.clipping import Clipping
from runner.train.plan import TrainPlan
from runner.train.seeding import generator_states, restore_generators
from runner.train.step import autocast, gradients, guard_on_device, to_device, update


class Copy(NamedTuple):
    """A training that may be thrown away."""

    model: nn.Module
    optimizer: Optimizer
    scaler: Any
    clipping: Clipping


class Stretch(NamedTuple):
    """What every branch trains on.

    Attributes:
        begin: step of its first batch and of the schedule.
        steps: length.
        warmup: steps in which the learning rate rises; after them it falls to 0 on a straight line.
        judged: losses that count: of so many last steps, or of at most so many batches of the val split.
        on_val: whether a branch is judged on the val split.
    """

    begin: int
    steps: int
    warmup: int
    judged: int
    on_val: bool = False

    def factor(self, k: int) -> float:
        """Return what the k-th learning rate of the stretch is multiplied with."""
        return min((k + 1) / max(self.warmup, 1), 1.0) * (1 - k / self.steps)


class Branch(NamedTuple):
    """How a learning rate did.

    Attributes:
        factor: on the learning rate of the run.
        steps: updates made; fewer than the stretch is long when a loss was not finite.
        judged: the losses that count; infinite for a branch that did not get to its end.
        end: model and optimizer then.
    """

    factor: float
    steps: int
    judged: list[float]
    end: Copy

    @property
    def score(self) -> float:
        """Mean of the losses that count."""
        return fmean(self.judged)


def grow(
    copy: Copy,
    factors: Sequence[float],
    task: Task,
    schedules: Schedules,
    plan: TrainPlan,
    *,
    stretch: Stretch,
    lr_scale: float,
    is_over: Callable[[], bool] = lambda: False,
) -> list[Branch] | None:
    """Train a copy of a copy with each factor on the learning rate; all global generators end as they began.

    lr of step k = that of the run at step begin + k, times factor, times `Stretch.factor(k)`

    Args:
        copy: where the branches begin; is left alone.
        factors: on the learning rate of the run.
        task, schedules, plan: of the run.
        stretch: steps and batches.
        lr_scale: product of the interventions so far.
        is_over: asked after every step whether to break off.
    Returns:
        the branches, None where it was broken off.
    """
    before = generator_states()
    found = []
    for factor in factors:
        restore_generators(before)
        end = deepcopy(copy)
        losses = _trained(end, factor * lr_scale, task, schedules, plan, stretch, is_over)
        if losses is None:
            restore_generators(before)
            return None
        judged = [math.inf] if losses[-1] == math.inf else losses[-stretch.judged :]
        if stretch.on_val and losses[-1] < math.inf:
            judged = _val_losses(end.model, task, plan, most=stretch.judged)
        found.append(Branch(factor, len(losses), judged, end))
    restore_generators(before)
    return found


def _trained(
    copy: Copy,
    lr_scale: float,
    task: Task,
    schedules: Schedules,
    plan: TrainPlan,
    stretch: Stretch,
    is_over: Callable[[], bool],
) -> list[float] | None:
    """Train a copy in place; return its losses, the last one infinite when it or the gradient was no number."""
    model, optimizer, scaler, clipping = copy
    losses: list[float] = []
    for k in range(stretch.steps):
        step = stretch.begin + k
        apply_schedules(optimizer, schedules, step, lr_scale=lr_scale * stretch.factor(k))
        signals = gradients(task, model, optimizer, plan, scaler, step, clipping)
        losses.append(float(signals.total) / signals.weight)
        norm_is_bad = not math.isfinite(signals.grad_norm)
        if not math.isfinite(losses[-1]) or (norm_is_bad and not scaler.is_enabled()):
            losses[-1] = math.inf
            return losses
        guard_on_device(optimizer, signals, plan)
        update(optimizer, scaler, drop=norm_is_bad)
        if is_over():
            return None
    return losses


@torch.no_grad()
def _val_losses(model: nn.Module, task: Task, plan: TrainPlan, *, most: int) -> list[float]:
    """Return the mean loss of each of the first batches of the val split."""
    model.eval()
    found: list[float] = []
    while len(found) < most and (batch := task.batch(len(found), "val")) is not None:
        weight = task.weight(batch)
        with autocast(plan):
            found.append(float(task.loss(model, to_device(batch, plan.device), weight).total) / weight)
    model.train()
    return found


def winner(branches: Sequence[Branch], *, on_val: bool, sd: float) -> Branch:
    """Return the branch to go on with: the first, the running learning rate, unless another is clearly better.

    Better: mean(d) > sd * stdev(d) / sqrt(n), with d the n paired differences of the judged losses; of their logarithms
    for training losses above 0, which a branch that is too fast throws about. Among those that are better the one with
    the lowest mean loss wins.
    """
    running, *others = branches
    judged = [loss for branch in branches for loss in branch.judged]
    scaled: Callable[[float], float] = float if on_val or min(judged) <= 0 else math.log
    better = [branch for branch in others if _beats(branch.judged, running.judged, sd, scaled)]
    return min(better, key=lambda branch: branch.score, default=running)


def _beats(losses: Sequence[float], held: Sequence[float], sd: float, scaled: Callable[[float], float]) -> bool:
    if not all(map(math.isfinite, losses)):
        return False
    if not all(map(math.isfinite, held)):
        return True
    gains = [scaled(other) - scaled(own) for own, other in zip(losses, held, strict=True)]
    return fmean(gains) > (sd * stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0)
