"""Learning rates compared on copies of a training, from the same weights and on the same batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import count
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

NOISE = 0.2  # least standard deviation of log losses between repeats, a usual one: two or three may agree by chance


class Copy(NamedTuple):
    """A training that may be thrown away."""

    model: nn.Module
    optimizer: Optimizer
    scaler: Any
    clipping: Clipping


def duplicate(copy: Copy) -> Copy:
    """Return a copy that shares no tensor with the other.

    What torch leaves out when it copies an optimizer, all but state and groups, comes along: classes of other packages
    keep arguments there.
    """
    memo: dict[int, Any] = {}
    twin = deepcopy(copy, memo)
    for name in vars(copy.optimizer).keys() - vars(twin.optimizer).keys():
        setattr(twin.optimizer, name, deepcopy(getattr(copy.optimizer, name), memo))
    return twin


class Stretch(NamedTuple):
    """What every branch trains on.

    Attributes:
        begin: step of its first batch and of the schedule.
        steps: length.
        warmup: steps in which the learning rate rises; after them it falls to 0 on a straight line.
        repeats: how often each rate is tried at most, every time on other batches; >= 2.
        judged: losses that count: of so many last steps, or of at most so many batches of the val split.
        on_val: whether a branch is judged on the val split.
    """

    begin: int
    steps: int
    warmup: int
    repeats: int
    judged: int
    on_val: bool = False

    def factor(self, k: int) -> float:
        """Return what the k-th learning rate of the stretch is multiplied with."""
        return min((k + 1) / max(self.warmup, 1), 1.0) * (1 - k / self.steps)


class Branch(NamedTuple):
    """How a learning rate did.

    Attributes:
        factor: on the learning rate of the run.
        steps: updates made in all repeats; fewer than planned where a loss was not finite.
        scores: of every repeat the mean of the losses that count; not finite where it did not get to its end.
        end: model and optimizer at the end of the first repeat, where it is kept.
    """

    factor: float
    steps: int = 0
    scores: tuple[float, ...] = ()
    end: Copy | None = None

    @property
    def score(self) -> float:
        """Mean over the repeats."""
        return fmean(self.scores)

    @property
    def is_lost(self) -> bool:
        """Whether it has not got to its end in one of its repeats."""
        return not all(map(math.isfinite, self.scores))


def grow(
    copy: Copy,
    factors: Sequence[float],
    task: Task,
    schedules: Schedules,
    plan: TrainPlan,
    *,
    stretch: Stretch,
    lr_scale: float,
    sd: float,
    keeps_ends: bool = False,
    is_over: Callable[[], bool] = lambda: False,
) -> list[Branch] | None:
    """Train copies of a copy with each factor on the learning rate; all global generators end as they began.

    lr of step k = that of the run at step begin + k, times factor, times `Stretch.factor(k)`; its batch in repeat r is
    that of step begin + r steps + k. From the second repeat on there is another only while `compare` leaves it open.
    In fp16 all begin with a loss scale that the first gradient survives: updates that are dropped because the scaler is
    still looking for its scale would make all rates alike.

    Args:
        copy: where the branches begin; is left alone.
        factors: on the learning rate of the run, that of the running one first.
        task, schedules, plan: of the run.
        stretch: steps and batches.
        lr_scale: product of the interventions so far.
        sd: see `compare`.
        keeps_ends: whether the branches keep where they ended.
        is_over: asked after every step whether to break off.
    Returns:
        the branches, None where it was broken off.
    """
    before = generator_states()
    copy = with_settled_scale(copy, task, plan, stretch.begin)
    branches = [Branch(factor) for factor in factors]
    for repeat in range(stretch.repeats):
        for index, branch in enumerate(branches):
            restore_generators(before)
            end = duplicate(copy)
            losses = _trained(end, branch.factor * lr_scale, task, schedules, plan, stretch, repeat, is_over)
            if losses is None:
                restore_generators(before)
                return None
            judged = losses[-stretch.judged :] if losses[-1] < math.inf else [math.inf]
            if stretch.on_val and losses[-1] < math.inf:
                judged = _val_losses(end.model, task, plan, most=stretch.judged)
            scores = (*branch.scores, fmean(judged))
            branches[index] = Branch(
                branch.factor, branch.steps + len(losses), scores, branch.end or (end if keeps_ends else None)
            )
        if repeat and not compare(branches, sd=sd).is_open:
            break
    restore_generators(before)
    return branches


def with_settled_scale(copy: Copy, task: Task, plan: TrainPlan, step: int) -> Copy:
    """Return the copy with the loss scale halved until the gradient of a step is finite, or 1."""
    if not copy.scaler.is_enabled():
        return copy
    model, optimizer, scaler, clipping = duplicate(copy)
    while True:
        scale = scaler.get_scale()
        signals = gradients(task, model, optimizer, plan, scaler, step, clipping)
        if math.isfinite(signals.grad_norm) or not math.isfinite(signals.total) or scale <= 1.0:
            break
        update(optimizer, scaler, drop=True)
    settled = deepcopy(copy.scaler)
    settled.load_state_dict({**settled.state_dict(), "scale": scale})
    return copy._replace(scaler=settled)


def _trained(
    copy: Copy,
    lr_scale: float,
    task: Task,
    schedules: Schedules,
    plan: TrainPlan,
    stretch: Stretch,
    repeat: int,
    is_over: Callable[[], bool],
) -> list[float] | None:
    """Train a copy in place; return its losses, the last one infinite when it or the gradient was no number."""
    losses: list[float] = []
    for k in range(stretch.steps):
        step = stretch.begin + k
        apply_schedules(copy.optimizer, schedules, step, lr_scale=lr_scale * stretch.factor(k))
        losses.append(train_once(copy, task, plan, step + repeat * stretch.steps))
        if losses[-1] == math.inf:
            return losses
        if is_over():
            return None
    return losses


def train_once(copy: Copy, task: Task, plan: TrainPlan, step: int) -> float:
    """Make one update of a copy, in place, with the learning rates that its groups hold.

    Args:
        copy: what is trained.
        task, plan: of the run.
        step: of the batch.
    Returns:
        the loss before the update; infinite where it or the gradient was no number, and no update was made.
    """
    model, optimizer, scaler, clipping = copy
    signals = gradients(task, model, optimizer, plan, scaler, step, clipping)
    loss = float(signals.total) / signals.weight
    norm_is_bad = not math.isfinite(signals.grad_norm)
    if not math.isfinite(loss) or (norm_is_bad and not scaler.is_enabled()):
        return math.inf
    guard_on_device(optimizer, signals, plan)
    update(optimizer, scaler, drop=norm_is_bad)
    return loss


@torch.no_grad()
def _val_losses(model: nn.Module, task: Task, plan: TrainPlan, *, most: int) -> list[float]:
    """Return the mean loss of each of the first batches of the val split that weigh something; inf where none does."""
    model.eval()
    found: list[float] = []
    for index in count():
        if len(found) == most or (batch := task.batch(index, "val")) is None:
            break
        if not (weight := task.weight(batch)):
            continue
        with autocast(plan):
            found.append(float(task.loss(model, to_device(batch, plan.device), weight).total) / weight)
    model.train()
    return found or [math.inf]


class Verdict(NamedTuple):
    """Which branch to go on with.

    Attributes:
        winner: it.
        is_open: whether another did better than the running learning rate, but not clearly.
    """

    winner: Branch
    is_open: bool = False


def compare(branches: Sequence[Branch], *, sd: float) -> Verdict:
    """Judge: the first, the running learning rate, wins unless the best other one is clearly better.

    Better: mean(log running) - mean(log best) > sd * s, over n repeats, with s the standard deviation of a difference
    of two such means: s^2 = 2 / n * max(variance of the log scores of the best one, NOISE^2). Were the running rate as
    good, it would scatter as the best one does; one that is too high scatters far more, so its own scatter is no
    measure of what chance does. Scores that are not all above 0 are taken as they are. A branch that is lost is out; so
    is the running rate, where another is left.
    """
    running, *others = branches
    alive = [branch for branch in others if not branch.is_lost]
    if not alive:
        return Verdict(running)
    scores = [score for branch in (running, *alive) for score in branch.scores if math.isfinite(score)]
    scaled, least = (math.log, NOISE) if min(scores) > 0 else (float, 0.0)
    logs = {branch.factor: [scaled(score) for score in branch.scores] for branch in alive}
    best = min(alive, key=lambda branch: fmean(logs[branch.factor]))
    if running.is_lost:
        return Verdict(best)
    gain = fmean(map(scaled, running.scores)) - fmean(logs[best.factor])
    noise = max(stdev(logs[best.factor]), least) * math.sqrt(2 / len(running.scores))
    return Verdict(best) if gain > sd * noise else Verdict(running, is_open=gain > 0)
