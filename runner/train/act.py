"""What the loop works with, and how it carries out an action."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import nn
from torch.optim import Optimizer

from runner.optim.apply import Schedules
from runner.records import Action, ActionType, Alarm, Record
from runner.remedies.protocol import History
from runner.tasks.protocol import Task
from runner.train.clipping import Clipping, Fixed
from runner.train.meters import Meter
from runner.train.own_average import Average, averaging
from runner.train.plan import TrainPlan
from runner.train.restoring import go_back
from runner.train.snapshots import Snapshots
from runner.train.state import TrainState
from runner.watch import Watch

if TYPE_CHECKING:
    from runner.train.checkpoint import Checkpoints

OnRecord = Callable[[Record], None]


@dataclass(slots=True)
class Run:
    """What the loop works with: the arguments of `fit`, and what they make; the optimizer is as it was made.

    Attributes:
        clipping: scales gradients down; `plan.clip_norm` where none was given.
        scaler: of the loss, in fp16.
        average: of the weights, where one is kept.
        pristine: state of the optimizer before its first update.
        snapshots: weights of the latest steps.
    """

    task: Task
    model: nn.Module
    optimizer: Optimizer
    schedules: Schedules
    plan: TrainPlan
    watch: Watch
    checkpoints: Checkpoints
    on_record: OnRecord
    meters: Sequence[Meter]
    given_clipping: InitVar[Clipping | None]
    clipping: Clipping = field(init=False)
    scaler: torch.amp.GradScaler = field(init=False)
    average: Average | None = field(init=False)
    pristine: dict[str, Any] = field(init=False)
    snapshots: Snapshots = field(init=False)

    def __post_init__(self, given_clipping: Clipping | None) -> None:
        plan = self.plan
        self.clipping = given_clipping if given_clipping is not None else Fixed(clip_norm=plan.clip_norm)
        self.scaler = torch.amp.GradScaler(plan.device.type, enabled=plan.precision == "fp16")
        self.average = averaging(self.task, self.model, self.optimizer, plan)
        self.pristine = deepcopy(self.optimizer.state_dict())
        self.snapshots = Snapshots(plan.snapshots, self.checkpoints.directory)


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
    if to_step in run.snapshots.steps:
        earlier = run.snapshots.restore(to_step, run.model, run.average)
    else:
        earlier = run.checkpoints.restore_best(int(state.best["step"]), run.model, run.average)
    go_back(earlier, alarm, state, run)
