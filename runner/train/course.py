"""What happens around the gradient of a step: the same for one training and for many in one pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from runner.optim.apply import apply_schedules
from runner.records import OUT_OF_TIME, Action, EvalRecord, StepRecord
from runner.train.act import Run, act, history_of, is_dropping
from runner.train.meters import Moment, measure, measure_update
from runner.train.pending import Pending
from runner.train.probing import probe
from runner.train.saved import BEST, LAST
from runner.train.state import TrainState
from runner.train.step import Signals, evaluate, guard_on_device, to_device

Interrupted = Callable[[], str | None]


@dataclass(slots=True)
class Course:
    """A training under way.

    Attributes:
        run: what it works with.
        state: where it stands.
        moment: what its meters look at.
        interrupted: returns a reason to stop after the current step, or None.
        deadline: when its wall time is over, in seconds of the monotonic clock.
        others: (group, hyperparameter) scheduled beside the learning rate.
        pending: steps that the host has not looked at yet.
        drops: whether the update of the step at hand is known to be dropped.
    """

    run: Run
    state: TrainState
    moment: Moment
    interrupted: Interrupted
    deadline: float
    others: Sequence[tuple[str, str]]
    pending: list[Pending] = field(default_factory=list)
    drops: bool = False

    @property
    def is_running(self) -> bool:
        """Whether a step is left to be made."""
        return self.state.step < self.run.plan.steps and self.state.status == "running"

    @property
    def shown(self) -> Moment | None:
        """What takes the outputs of the model, None where no meter reads them."""
        return self.moment if self.run.meters else None


def begin(run: Run, interrupted: Interrupted) -> Course:
    """Return a training at its beginning, or where its checkpoint was written."""
    moment, others = Moment(run.task, run.model, run.optimizer, run.plan), [k for k in run.schedules if k[1] != "lr"]
    state = _start(run)
    run.model.train()
    return Course(run, state, moment, interrupted, time.monotonic() + (run.plan.max_seconds or float("inf")), others)


def make_ready(course: Course) -> bool:
    """Set what is scheduled for the step at hand; return whether that can be made.

    False where a probe was owed: it has been made in place of the step, or the training has ended in it.
    """
    if course.state.owed is not None:
        _make_owed_probe(course)
        return False
    run, state = course.run, course.state
    apply_schedules(run.optimizer, run.schedules, state.step, lr_scale=state.scale)
    return True


def judge(course: Course, signals: Signals) -> bool:
    """Show a gradient to meters and watch, clipped and in place; return whether the training goes on.

    `course.drops` is then whether its update must not be made.
    """
    run, state, pending = course.run, course.state, course.pending
    measured = {**state.carried, **measure(run.meters, course.moment.at(state.step))}
    pending.append(Pending.of(signals, state, run, course.others, measured))
    guard_on_device(run.optimizer, signals, run.plan)
    # until one update is made: torch's fused SGD fills its momentum with garbage when it drops the first one
    if run.plan.looks_at(state.step) or state.is_fresh:
        _look(course, next_step=state.step + 1)
        if state.alarm is not None:
            return False
    course.drops = state.last_skipped and not pending
    return True


def note_update(course: Course) -> None:
    """Count the update that was just made, or dropped."""
    course.state.carried = {} if course.drops else measure_update(course.run.meters, course.moment)
    course.state.count(drop=course.drops)


def is_evaluated(course: Course) -> bool:
    """Whether an evaluation is due after the update."""
    return course.run.plan.evaluates_at(course.state.step) and "val" in course.run.task.examples


def metrics_of(course: Course, apply: Callable[..., Any]) -> dict[str, float]:
    """Return loss and metrics of the "val" split, of the average of the weights where there is one."""
    run = course.run
    run.model.eval()
    with run.average.applied() if run.average is not None else nullcontext():
        metrics = evaluate(run.task, apply, run.plan, "val")
    run.model.train()
    return metrics


def settle(course: Course, metrics: Mapping[str, float] | None) -> None:
    """Keep the weights, take in an evaluation, end early and save, as far as it is due after an update."""
    run, state = course.run, course.state
    plan = run.plan
    if plan.snaps_at(state.step):
        _keep(state, run)
    if metrics is not None:
        _take_in(dict(metrics), state, run)
    if state.step < plan.steps:
        reason, is_late = course.interrupted(), time.monotonic() > course.deadline
        if reason is not None or is_late:
            _look(course, next_step=state.step)
        _end_early(state, reason, is_late=is_late)
    if plan.saves_at(state.step) or state.status in ("interrupted", "finished"):
        _save(LAST, state, run)


def finish(course: Course) -> TrainState:
    """Return the state at the end, which is never "running"."""
    state = course.state
    state.end("finished", "finished")
    course.run.checkpoints.write_best()
    if state.status == "finished" and state.owed is None and (lost := _what_is_lost(state, course.run.model)):
        state.status, state.verdict = "diverged", f"diverged: {lost}"
    return state


def _what_is_lost(state: TrainState, model: torch.nn.Module) -> str:
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


def _make_owed_probe(course: Course) -> None:
    """Make the probe; one that is broken off ends the run with a checkpoint from before it."""
    run, state = course.run, course.state
    if not probe(state, run, lambda: course.interrupted() is not None or time.monotonic() > course.deadline):
        _end_early(state, course.interrupted(), is_late=True)
        state.verdict += ", in a probe that the run makes again when it goes on"
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


def _look(course: Course, *, next_step: int) -> None:
    """Bring what is pending to the host, show it to the watch, and do what it asks for."""
    pending, state, run = course.pending, course.state, course.run
    if not pending:
        return
    found = [step.numbers() for step in pending]
    each, flat = len(found[0]), [number for those in found for number in those]
    # one transfer for many steps; for one step two reads are cheaper than a stack
    numbers = torch.stack([*map(torch.as_tensor, flat)]).tolist() if len(pending) > 1 else [*map(float, flat)]
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


def _take_in(metrics: dict[str, float], state: TrainState, run: Run) -> None:
    """Take in an evaluation, save the best, and stop early when the metric has not gained for too long."""
    plan = run.plan
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
