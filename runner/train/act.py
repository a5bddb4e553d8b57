"""What the loop works with, and how it carries out an action."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple, get_args

import torch
from torch import nn
from torch.optim import Optimizer

from runner.optim.apply import Schedules
from runner.records import Action, ActionType, Alarm, Record
from runner.remedies.protocol import History
from runner.tasks.protocol import Task
from runner.train.checkpoint import Checkpoints
from runner.train.clipping import Clipping, Fixed
from runner.train.meters import Meter
from runner.train.own_average import Average, averaging
from runner.train.plan import TrainPlan
from runner.train.restoring import clip_as, empty
from runner.train.snapshots import Snapshots
from runner.train.state import TrainState
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
    """Carry out an action; deliberately the only closed list. A probe is made between two steps, by `probing`.

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
        return action.told(rewound_steps=max(before - state.updates_kept, 0))  # best may be of before a restart
    elif action.type == "Probe":
        state.owed = (action, alarm)
    elif action.type not in ("SkipUpdate", "Advise"):
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
    else:
        groups = run.checkpoints.restore_best(state, run.watch, run.model, run.average)
    if alarm.severity != "stop":
        state.watch = {**state.watch, alarm.detector: after[alarm.detector]}
    clip_as(state.clipping, run.clipping, run.plan)
    empty(run.optimizer, run.pristine, groups)
    state.is_fresh, state.carried, state.lost_steps = True, {}, 0  # the latest update is not one of these weights
