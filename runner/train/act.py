"""What the loop works with, and how it carries out an action."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, NamedTuple, get_args

import torch
from torch import nn
from torch.optim import Optimizer

from runner.optim.apply import Schedules
from runner.optim.readout import estimate, estimates
from runner.records import Action, ActionType, Alarm, Record
from runner.remedies.branch_probe import FACTOR, LEAST_STEPS, SCORE
from runner.remedies.protocol import History
from runner.tasks.protocol import Task
from runner.train.branches import Branch, Copy, Stretch, compare, grow
from runner.train.checkpoint import Checkpoints, load_optimizer_state
from runner.train.clipping import Clipping, Fixed
from runner.train.meters import Meter
from runner.train.own_average import Average, averaging
from runner.train.plan import TrainPlan
from runner.train.snapshots import Snapshots, copied
from runner.train.state import TrainState
from runner.train.step import to_device
from runner.watch import Watch


class Run(NamedTuple):
    """What the loop works with.

    Attributes:
        pristine: state of the optimizer before its first update.
    """

    task: Task
    model: nn.Module
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    average: Average | None
    plan: TrainPlan
    watch: Watch
    checkpoints: Checkpoints
    on_record: Callable[[Record], None]
    pristine: dict[str, Any]
    meters: Sequence[Meter]
    snapshots: Snapshots
    schedules: Schedules
    clipping: Clipping

    @classmethod
    def of(
        cls,
        task: Task,
        model: nn.Module,
        optimizer: Optimizer,
        schedules: Schedules,
        plan: TrainPlan,
        watch: Watch,
        checkpoints: Checkpoints,
        on_record: Callable[[Record], None],
        meters: Sequence[Meter],
        clipping: Clipping | None,
    ) -> Run:
        """Return what the arguments of `fit` make; the optimizer is as it was made."""
        scaler = torch.amp.GradScaler(plan.device.type, enabled=plan.precision == "fp16")
        average, pristine = averaging(task, model, optimizer, plan), deepcopy(optimizer.state_dict())
        kept = Snapshots(plan.snapshots, checkpoints.directory)
        clipping = clipping if clipping is not None else Fixed(clip_norm=plan.clip_norm)
        given = (plan, watch, checkpoints, on_record, pristine, meters, kept, schedules, clipping)
        return cls(task, model, optimizer, scaler, average, *given)


def history_of(state: TrainState, run: Run) -> History:
    """Return what remedies may ask about."""
    best_step = int(state.best["step"]) if state.best else None
    return History(state.actions, state.lr_scale_now, best_step, run.snapshots.steps)


def is_dropping(action: Action) -> bool:
    """Whether the gradient at hand must not change the weights any more."""
    return action.type in ("SkipUpdate", "Rollback")


def act(action: Action, alarm: Alarm, state: TrainState, run: Run, *, next_step: int) -> Action:
    """Carry out an action; deliberately the only closed list. A probe is made between two steps: see `probe`.

    Args:
        action: what a remedy asks for.
        alarm: what it answers.
        state, run: what it works on.
        next_step: the first step whose learning rate is not set yet.
    Returns:
        the action, with what became of it.
    Raises:
        ValueError: an action of a type that the loop does not know.
        CheckpointError: the weights to go back to cannot be read.
    """
    given = action.arguments
    if action.type == "Stop":
        state.alarm = alarm
        state.end("diverged", f"diverged: {alarm.message}")
    elif action.type == "ScaleLR":
        _scale(given, state, next_step=next_step)
    elif action.type == "Clip":
        _clip(action, run.clipping)
    elif action.type == "Rewarm":
        state.rewarm = (next_step, int(given["rewarm_steps"]))
    elif action.type == "Rollback":
        before = state.updates_kept
        _roll_back(alarm, state, run, to_step=int(given["to_step"]))
        _scale(given, state, next_step=next_step)
        if "rewarm_steps" in given:
            state.rewarm = (next_step, int(given["rewarm_steps"]))
        return _told(action, rewound_steps=before - state.updates_kept)
    elif action.type == "Probe":
        state.owed = (action, alarm)
    elif action.type not in ("UpdateWeights", "SkipUpdate", "Advise"):
        types = ", ".join(get_args(ActionType))
        raise ValueError(f"remedy {action.remedy}: must ask for one of {types}, got {action.type!r}")
    return action


def _scale(given: Mapping[str, float], state: TrainState, *, next_step: int) -> None:
    recovery_steps = int(given.get("recovery_steps", 0))
    state.set_lr_scale(given["lr_scale"], begin=next_step, recovery_steps=recovery_steps)


def _clip(action: Action, clipping: Clipping) -> None:
    if not isinstance(clipping, Fixed):
        raise ValueError(f"remedy {action.remedy}: must find clip=fixed, got {type(clipping).__name__}")
    clipping.set_norm(action.arguments["clip_norm"])


def clip_as(then: Mapping[str, Any], clipping: Clipping, plan: TrainPlan) -> None:
    """Let clipping follow the norms that it followed then; one that has been set stays."""
    if not isinstance(clipping, Fixed):
        clipping.load_state_dict(to_device(then, plan.device))


def _roll_back(alarm: Alarm, state: TrainState, run: Run, *, to_step: int) -> None:
    """Go on from earlier weights with an empty optimizer state; step, generators and fp16 scale stay.

    A step size that the optimizer estimates by itself goes back to that of those weights: from its first value it
    would have to grow again by as much as it did over the whole run.

    What clipping follows goes back too; a norm that a remedy has set stays, as the learning rate does.

    Detectors go back with the weights, but for one that has only warned: it has started over by itself, and would
    lose its cooldown. One that wants the run stopped goes on ringing until it is set back.
    """
    after, state.clipping = state.watch, run.clipping.state_dict()
    if to_step in run.snapshots.steps:
        kept = run.snapshots.restore(to_step, run.model, run.average)
        groups, state.updates_kept, state.clipping = kept["groups"], kept["updates_kept"], kept["clipping"]
        state.watch = run.watch.restore(kept["detectors"])
    elif state.best["step"] == state.step:  # the best weights are at hand, and not saved yet
        groups = run.optimizer.param_groups
    else:
        groups = run.checkpoints.restore_best(state, run.watch, run.model, run.average)
    if alarm.severity != "stop":
        state.watch = {**state.watch, alarm.detector: after[alarm.detector]}
    clip_as(state.clipping, run.clipping, run.plan)
    empty(run.optimizer, run.pristine, groups)
    state.is_fresh = True


def empty(optimizer: Optimizer, pristine: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> None:
    """Empty the state of an optimizer; the step sizes that it estimates become those of earlier groups."""
    then = {group["name"]: dict(estimate(group)) for group in groups}  # of another optimizer, where a run went on
    load_optimizer_state(optimizer, deepcopy(dict(pristine)))
    for group in optimizer.param_groups:
        group.update(then.get(group["name"], {}) if estimates(group) else {})


def probe(state: TrainState, run: Run, is_over: Callable[[], bool]) -> bool:
    """Make the probe that is owed: compare learning rates on copies, and go on with the best.

    Nothing changes where the running one is. Between two steps a checkpoint holds everything, so that an interrupted
    probe is made again, with the same result, by the run that goes on.

    Args:
        state, run: what it works on; the action is written to the records.
        is_over: whether to break off.
    Returns:
        whether it was made; otherwise nothing has changed.
    Raises:
        CheckpointError: the initial weights cannot be read.
    """
    assert state.owed is not None
    action, alarm = state.owed
    steps = min(int(action.arguments["stretch"]), run.plan.steps - state.step)
    if steps < LEAST_STEPS:
        made = _told(action, f"no probe: branches of {steps} steps say nothing", extra_steps=0)
    else:
        copy = _begun(action, run)
        branches = _grown(action, copy, steps, state, run, is_over)
        if branches is None:
            return False
        best = compare(branches, sd=action.arguments["sd"]).winner
        made = _with_scores(action, branches, steps, len(best.scores))
        made = _taken(made, alarm, best, copy, state, run)
    run.on_record(made)
    state.owed, state.actions = None, (*state.actions, made)
    return True


def _begun(action: Action, run: Run) -> Copy:
    """Return what the branches begin with."""
    copy = deepcopy(Copy(run.model, run.optimizer, run.scaler, run.clipping))
    if action.arguments["from_initial"]:
        begun = run.snapshots.content(0)
        copy.model.load_state_dict(begun["model"])
        empty(copy.optimizer, run.pristine, begun["groups"])
        clip_as(copied(begun["clipping"]), copy.clipping, run.plan)
    return copy


def _grown(
    action: Action, copy: Copy, steps: int, state: TrainState, run: Run, is_over: Callable[[], bool]
) -> list[Branch] | None:
    given = action.arguments
    stretch = Stretch(
        state.step, steps, int(given["warmup"]), int(given["repeats"]), int(given["judged"]),
        on_val=bool(given["on_val"]) and "val" in run.task.examples,
    )  # fmt: skip
    factors = (1.0, *(value for name, value in given.items() if name.startswith(FACTOR)))
    return grow(
        copy, factors, run.task, run.schedules, run.plan,
        stretch=stretch, lr_scale=state.lr_scale_now * given["faster"], sd=given["sd"], is_over=is_over,
    )  # fmt: skip


def _with_scores(action: Action, branches: Sequence[Branch], steps: int, repeats: int) -> Action:
    scores = {f"{SCORE}{branch.factor:.4g}": branch.score for branch in branches}
    compared = ", ".join(f"x {branch.factor:.3g}: {branch.score:.4g}" for branch in branches)
    text = f"losses after {repeats} x {steps:,} steps {compared}"
    return _told(action, text, extra_steps=sum(branch.steps for branch in branches), **scores)


def _taken(action: Action, alarm: Alarm, best: Branch, copy: Copy, state: TrainState, run: Run) -> Action:
    """Go on with the rate of the best branch, from where the branches began or from where it ended."""
    if best.factor == 1.0:
        return _told(action, f"{action.message}; the learning rate stays")
    given, before = action.arguments, state.updates_kept
    is_anew, with_branch = bool(given["from_initial"]), bool(given["with_branch"])
    if is_anew:  # averages and detectors begin anew as well
        state.updates_kept = run.snapshots.restore(0, run.model, run.average)["updates_kept"]
        state.watch = {**run.watch.start(), alarm.detector: state.watch[alarm.detector]}
        state.is_fresh = True
    end = best.end if with_branch and best.end is not None else copy
    state.carried = {}  # the latest update is not one of these weights
    run.model.load_state_dict(end.model.state_dict())
    load_optimizer_state(run.optimizer, end.optimizer.state_dict())
    clip_as(end.clipping.state_dict(), run.clipping, run.plan)
    if with_branch:
        state.updates_kept += int(best.steps / len(best.scores))
    elif is_anew and given["rewarm"]:
        state.rewarm = (state.step, int(given["rewarm"]))
    state.set_lr_scale(state.lr_scale_now * best.factor)
    where = "the winner" if with_branch else "the initial weights" if is_anew else "here"
    text = f"{action.message}; goes on from {where}, learning rate x {best.factor:.3g}"
    lost = max(before - state.updates_kept, 0)
    return _told(action, text, factor=best.factor, lr_scale=state.lr_scale, rewound_steps=lost)


def _told(action: Action, message: str | None = None, **results: float) -> Action:
    """Return an action with what became of it."""
    return replace(action, arguments={**action.arguments, **results}, message=message or action.message)
