"""The training loop."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from runner.optim.apply import Schedules
from runner.tasks.closing import in_use
from runner.tasks.protocol import Task
from runner.train.act import OnRecord, Run
from runner.train.checkpoint import Checkpoints
from runner.train.clipping import Clipping
from runner.train.course import (
    Interrupted,
    begin,
    finish,
    is_evaluated,
    judge,
    make_ready,
    metrics_of,
    note_update,
    settle,
)
from runner.train.meters import Meter
from runner.train.plan import TrainPlan
from runner.train.state import TrainState
from runner.train.step import compiled, gradients, update
from runner.watch import Watch


def fit(
    task: Task,
    model: nn.Module,
    optimizer: Optimizer,
    schedules: Schedules,
    *,
    plan: TrainPlan,
    watch: Watch,
    checkpoints: Checkpoints,
    on_record: OnRecord,
    meters: Sequence[Meter] = (),
    clipping: Clipping | None = None,
    interrupted: Interrupted = lambda: None,
) -> TrainState:
    """Train until the planned steps are done, a remedy stops the run, or somebody interrupts it; close the task.

    Args:
        task, model: the model is on `plan.device`, and changed in place.
        optimizer: every group has "name" and "initial_lr".
        schedules: (group, hyperparameter) -> factor of the step.
        plan, watch: the run in steps; detectors and remedies.
        checkpoints: where to save, and what to go on from.
        on_record: is called with every record, in order.
        meters: measure the signals that detectors need.
        clipping: scales gradients down; None clips at `plan.clip_norm`.
        interrupted: returns a reason to stop after the current step, or None.
    Returns:
        the state at the end; its status is never "running", and "diverged" also where its last losses or its weights
        are no numbers.
    """
    run = Run(task, model, optimizer, schedules, plan, watch, checkpoints, on_record, meters, clipping)
    course = begin(run, interrupted)
    apply, state, scaler, clipping = compiled(model, plan), course.state, run.scaler, run.clipping
    with in_use(task):
        while course.is_running:
            if not make_ready(course):
                continue
            signals = gradients(task, apply, optimizer, plan, scaler, state.step, clipping, moment=course.shown)
            if not judge(course, signals):
                break
            update(optimizer, scaler, run.average, drop=course.drops)
            note_update(course)
            settle(course, metrics_of(course, apply) if is_evaluated(course) else None)
    return finish(course)
