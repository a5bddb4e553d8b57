"""Learning rates compared on copies of a training, from the same weights and on the same batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from statistics import fmean, stdev
from typing import Any, NamedTuple

from torch import nn
from torch.optim import Optimizer

from runner.optim.apply import Schedules, apply_schedules
from runner.tasks.protocol import Task
from runner.train.plan import TrainPlan
from runner.train.seeding import generator_states, restore_generators
from runner.train.step import gradients, guard_on_device, update


class Copy(NamedTuple):
    """A training that may be thrown away."""

    model: nn.Module
    optimizer: Optimizer
    scaler: Any


class Stretch(NamedTuple):
    """What every branch trains on.

    Attributes:
        begin: step of its first batch and of the schedule.
        steps: length.
        warmup: steps in which the learning rate rises; after them it falls to 0 on a straight line.
        judged: losses at its end that count.
        clip_norm: largest gradient norm; None does not clip.
    """

    begin: int
    steps: int
    warmup: int
    judged: int
    clip_norm: float | None = None

    def factor(self, k: int) -> float:
        """Return what the k-th learning rate of the stretch is multiplied with."""
        return min((k + 1) / max(self.warmup, 1), 1.0) * (1 - k / self.steps)


class Branch(NamedTuple):
    """How a learning rate did.

    Attributes:
        factor: on the learning rate of the run.
        losses: training losses; fewer than the stretch is long when one was not finite.
        end: model and optimizer then.
    """

    factor: float
    losses: list[float]
    end: Copy

    def last(self, judged: int, steps: int) -> list[float]:
        """Return the losses that count; infinite ones for a branch that did not get there."""
        return self.losses[-judged:] if len(self.losses) == steps else [math.inf] * judged


def grow(
    copy: Copy,
    factors: Sequence[float],
    task: Task,
    schedules: Schedules,
    plan: TrainPlan,
    *,
    stretch: Stretch,
    lr_scale: float,
) -> list[Branch]:
    """Train a copy of a copy with each factor on the learning rate; all global generators end as they began.

    lr of step k = that of the run at step begin + k, times factor, times `Stretch.factor(k)`

    Args:
        copy: where the branches begin; is left alone.
        factors: on the learning rate of the run.
        task, schedules, plan: of the run.
        stretch: steps and batches.
        lr_scale: product of the interventions so far.
    """
    before = generator_states()
    found = []
    for factor in factors:
        restore_generators(before)
        branch = Branch(factor, [], deepcopy(copy))
        model, optimizer, scaler = branch.end
        for k in range(stretch.steps):
            step = stretch.begin + k
            apply_schedules(optimizer, schedules, step, lr_scale=lr_scale * factor * stretch.factor(k))
            signals = gradients(task, model, optimizer, plan, scaler, step, clip_norm=stretch.clip_norm)
            branch.losses.append(float(signals.total) / signals.weight)
            norm_is_bad = not math.isfinite(signals.grad_norm)
            if not math.isfinite(branch.losses[-1]) or (norm_is_bad and not scaler.is_enabled()):
                branch.losses[-1] = math.inf
                break
            guard_on_device(optimizer, signals, plan)
            update(optimizer, scaler, drop=norm_is_bad)
        found.append(branch)
    restore_generators(before)
    return found


def winner(branches: Sequence[Branch], *, stretch: Stretch, sd: float) -> Branch:
    """Return the branch to go on with: the first, the running learning rate, unless another is clearly better.

    Better: mean(d) > sd * stdev(d) / sqrt(n), with d the n paired differences of the logarithms of the judged losses,
    or of these themselves where one is not above 0. Among those that are better the one with the lowest mean loss wins.
    """
    running, *others = branches
    held = running.last(stretch.judged, stretch.steps)
    better = [branch for branch in others if _beats(branch.last(stretch.judged, stretch.steps), held, sd)]
    return min(better, key=lambda branch: fmean(branch.last(stretch.judged, stretch.steps)), default=running)


def _beats(losses: Sequence[float], held: Sequence[float], sd: float) -> bool:
    if not all(map(math.isfinite, losses)):
        return False
    if not all(map(math.isfinite, held)):
        return True
    scaled: Callable[[float], float] = math.log if min(*losses, *held) > 0 else float
    gains = [scaled(other) - scaled(own) for own, other in zip(losses, held, strict=True)]
    return fmean(gains) > sd * stdev(gains) / math.sqrt(len(gains))
