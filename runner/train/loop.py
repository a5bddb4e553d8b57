"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import nn
from torch.optim import Optimizer

from runner.optim.apply import Schedules, apply_schedules
from runner.records import OUT_OF_TIME, Action, EvalRecord, Record, StepRecord
from runner.tasks.closing import in_use
from runner.tasks.protocol import Task
from runner.train.act import Run, act, history_of, is_dropping
from runner.train.checkpoint import Checkpoints
from runner.train.clipping import Clipping
from runner.train.meters import Meter, Moment, measure, measure_update
from runner.train.pending import Pending
from runner.train.plan import TrainPlan
from runner.train.probing import probe
from runner.train.saved import BEST, LAST
from runner.train.state import TrainState
from runner.train.step import compiled, evaluate, gradients, guard_on_device, to_device, update
from runner.watch import Watch

OnRecord = Callable[[Record], None]
Interrupted = Callable[[], str | None]


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
    state, moment, scaler = _start(run), Moment(task, model, optimizer, plan), run.scaler
    pending, others = list[Pending](), [key for key in schedules if key[1] != "lr"]
    apply, deadline = compiled(model.train(), plan), time.monotonic() + (plan.max_seconds or float("inf"))
    with in_use(task):
        while state.step < plan.steps and state.status == "running":
            if state.owed is not None:
                _make_owed_probe(state, run, interrupted, deadline)
                continue
            apply_schedules(optimizer, schedules, state.step, lr_scale=state.scale)
            gives = moment if meters else None
            signals = gradients(task, apply, optimizer, plan, scaler, state.step, run.clipping, moment=gives)
            measured = {**state.carried, **measure(meters, moment.at(state.step))}
            pending.append(Pending.of(signals, state, run, others, measured))
            guard_on_device(optimizer, signals, plan)
            # until one update is made: torch's fused SGD fills its momentum with garbage when it drops the first one
            if plan.looks_at(state.step) or state.is_fresh:
                _look(pending, state, run, next_step=state.step + 1)
                if state.alarm is not None:
                    break
            drop = state.last_skipped and not pending
            update(optimizer, scaler, run.average, drop=drop)
            state.carried = {} if drop else measure_update(meters, moment)
            state.count(drop=drop)
            _do_what_is_due(apply, pending, state, run, interrupted, deadline)
    state.end("finished", "finished")
    if state.status == "finished" and state.owed is None and (lost := _what_is_lost(state, model)):
        state.status, state.verdict = "diverged", f"diverged: {lost}"
    return state


def _what_is_lost(state: TrainState, model: nn.Module) -> str:
    """Say which numbers of a run that nobody has stopped are none at its end; "" where all are.

    One loss that is no number may be that of a bad batch whose update was dropped; two in a row are not taken for that.
    """
    if state.lost_steps > 1:
        return f"the loss is {state.last_loss} in each of the last {state.lost_steps:,} steps"
    trained = [parameter.detach() for parameter in model.parameters() if parameter.requires_grad]
    if trained and not torch.stack([weights.isfinite().all() for weights in trained]).all():
        return "weights are not finite at the end"
    return ""


def _start(run: Run) -> TrainState:
    """Return where the run stands: at its beginning, or where its checkpoint was written."""
    state = run.checkpoints.resume(run.watch, run.model, run.optimizer, run.scaler, run.average, run.snapshots)
    if state is None:
        state = TrainState(run.watch.start())
        _keep(state, run)
        return state
    for meter in run.meters:
        meter.load_state_dict(state.meters.get(meter.name, {}))
    run.clipping.load_state_dict(to_device(state.clipping, run.plan.device))
    return state


def _keep(state: TrainState, run: Run) -> None:
    """Keep a copy of what the training is now, for a remedy that goes back."""
    state.clipping = run.clipping.state_dict()
    run.snapshots.take(state, run.model, run.optimizer, run.average)


def _make_owed_probe(state: TrainState, run: Run, interrupted: Interrupted, deadline: float) -> None:
    """Make the probe; one that is broken off ends the run with a checkpoint from before it."""
    if not probe(state, run, lambda: interrupted() is not None or time.monotonic() > deadline):
        _end_early(state, interrupted(), is_late=True)
        state.verdict += ", in a probe that the run makes again when it goes on"
        _save(LAST, state, run)


def _do_what_is_due(
    apply: Callable[..., object],
    pending: list[Pending],
    state: TrainState,
    run: Run,
    interrupted: Interrupted,
    deadline: float,
) -> None:
    """Keep the weights, evaluate, end early and save, as far as it is due after an update."""
    plan = run.plan
    if plan.snaps_at(state.step):
        _keep(state, run)
    if plan.evaluates_at(state.step) and "val" in run.task.examples:
        _evaluate(apply, state, run)
    if state.step < plan.steps:
        reason, is_late = interrupted(), time.monotonic() > deadline
        if reason is not None or is_late:
            _look(pending, state, run, next_step=state.step)
        _end_early(state, reason, is_late=is_late)
    if plan.saves_at(state.step) or state.status in ("interrupted", "finished"):
        _save(LAST, state, run)


def _end_early(state: TrainState, reason: str | None, *, is_late: bool) -> None:
    if reason is not None:
        state.end("interrupted", f"interrupted by {reason} at step {state.step}")
    elif is_late:
        state.end("finished", f"{OUT_OF_TIME} at step {state.step}")


def _save(name: str, state: TrainState, run: Run) -> None:
    state.meters = {meter.name: meter.state_dict() for meter in run.meters}
    state.clipping = run.clipping.state_dict()
    run.checkpoints.save(name, state, run.model, run.optimizer, run.scaler, run.average, run.snapshots)


def _look(pending: list[Pending], state: TrainState, run: Run, *, next_step: int) -> None:
    """Bring what is pending to the host, show it to the watch, and do what it asks for."""
    if not pending:
        return
    each = len(pending[0].on_device())
    tensors = [tensor for step in pending for tensor in step.on_device()]
    # one transfer for many steps; for one step two reads are cheaper than a stack
    numbers = torch.stack(tensors).tolist() if len(pending) > 1 else [tensor.item() for tensor in tensors]
    is_undone = False
    for index, step in enumerate(pending):
        state.examples += step.signals.examples
        record = step.record(state, run.plan, numbers[each * index : each * (index + 1)])
        state.note_loss(record.loss)
        if state.status == "diverged" or is_undone:
            run.on_record(record)  # its update was made before the host knew
        else:
            is_undone = any(map(is_dropping, _observe(record, state, run, next_step=next_step)))
        state.last_skipped = is_undone or bool(record.skipped)
    pending.clear()


def _observe(record: StepRecord | EvalRecord, state: TrainState, run: Run, *, next_step: int) -> Sequence[Action]:
    """Show a record to the watch; write it, its alarms and the actions that follow, carried out."""
    state.watch, alarms = run.watch.observe(state.watch, record)
    run.on_record(record)
    if not alarms:
        return ()
    history = history_of(state, run)
    alarms = run.watch.audible(alarms, history)
    told = run.watch.told(alarms)
    for alarm in told:
        run.on_record(alarm)
    state.alarms += len(told)
    done = list[Action]()
    for proposed, alarm in run.watch.decide(alarms, history):
        if next_step == run.plan.steps and proposed.type == "Probe":
            action = proposed.told("no probe: no step is left", extra_steps=0)
        elif next_step == run.plan.steps and not _changes_the_end(proposed, is_updated=state.step == next_step):
            continue
        else:
            if proposed.type == "Rollback" and isinstance(record, EvalRecord) and record.best:
                _save(BEST, state, run)  # while the weights that were evaluated are there
            action = act(proposed, alarm, state, run, next_step=next_step)
            if action.type == "Probe":
                continue  # it is made, and told, before the next step
        run.on_record(action)
        state.actions = (*state.actions, action)
        done.append(action)
    return done


def _changes_the_end(action: Action, *, is_updated: bool) -> bool:
    """Whether an action matters where no further step comes: it may still drop an update that is not made yet."""
    return action.type in ("Stop", "Advise") or (is_dropping(action) and not is_updated)


def _evaluate(apply: Callable[..., object], state: TrainState, run: Run) -> None:
    """Evaluate the "val" split, save the best, and stop early when the metric has not gained for too long."""
    plan = run.plan
    run.model.eval()
    with run.average.applied() if run.average is not None else nullcontext():
        metrics = evaluate(run.task, apply, plan, "val")
    run.model.train()
    sign = 1.0 if plan.goal == "min" else -1.0
    value, best = sign * metrics[plan.metric], state.best.get(plan.metric)
    improved = value == value and (best is None or value < sign * best - plan.min_delta)
    state.last_eval = metrics
    state.evals_without_gain = 0 if improved else state.evals_without_gain + 1
    if improved:
        state.best = {**metrics, "step": state.step}
    record = EvalRecord(state.step, time.time_ns() // 1_000_000, "val", metrics, best=improved)
    done = _observe(record, state, run, next_step=state.step)
    if improved:  # after a rollback the best is saved, and a run that is killed goes on with what it went back to
        _save(LAST if any(action.type == "Rollback" for action in done) else BEST, state, run)
    if plan.patience is not None and state.evals_without_gain >= plan.patience:
        state.end(
            "finished",
            f"stopped early at step {state.step}: no better {plan.metric} for {state.evals_without_gain} evaluations",
        )
