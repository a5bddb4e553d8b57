"""What the loop works with, and how it carries out an action."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from runner.optim.readout import estimate, estimates
from runner.records import Action, Alarm, Record
from runner.tasks.protocol import Task
from runner.train.checkpoint import Checkpoints, load_optimizer_state
from runner.train.meters import Meter
from runner.train.own_average import Average
from runner.train.plan import TrainPlan
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


def act(action: Action, alarm: Alarm, state: TrainState, run: Run) -> None:
    """Carry out an action; deliberately the only closed list.

    Raises:
        ValueError: an action of a type that the loop does not know.
        CheckpointError: the weights to go back to cannot be read.
    """
    if action.type == "Stop":
        state.alarm = alarm
        state.end("diverged", f"diverged: {alarm.message}")
    elif action.type == "ScaleLR":
        state.lr_scale = action.arguments["lr_scale"]
    elif action.type == "Rollback":
        state.lr_scale = action.arguments["lr_scale"]
        _roll_back(alarm, state, run)
    elif action.type != "UpdateWeights":
        raise ValueError(
            f"remedy {action.remedy}: must ask for UpdateWeights, Stop, ScaleLR or Rollback, got {action.type!r}"
        )


def _roll_back(alarm: Alarm, state: TrainState, run: Run) -> None:
    """Go on from the best weights with an empty optimizer state; step, generators and fp16 scale stay.

    A step size that the optimizer estimates by itself goes back to that of those weights: from its first value it
    would have to grow again by as much as it did over the whole run.

    Detectors go back with the weights, but for one that has only warned: it has started over by itself, and would
    lose its cooldown. One that wants the run stopped goes on ringing until it is set back.
    """
    after, saved = state.watch, run.optimizer.state_dict()
    if state.best["step"] != state.step:  # otherwise the best weights are at hand, and not saved yet
        saved = run.checkpoints.restore_best(state, run.watch, run.model, run.average)
    if alarm.severity != "stop":
        state.watch = {**state.watch, alarm.detector: after[alarm.detector]}
    load_optimizer_state(run.optimizer, deepcopy(run.pristine))
    then = {group["name"]: group for group in saved["param_groups"]}  # of another optimizer, where a run went on
    for group in run.optimizer.param_groups:
        group.update(estimate(then.get(group["name"], {})) if estimates(group) else {})
    state.is_fresh = True
