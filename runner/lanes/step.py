"""One step of all lanes in a pass: gradients together, then each lane judges and updates on its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from runner.lanes.evaluation import evaluate
from runner.lanes.first_update import Before
from runner.lanes.forward import backward, scale
from runner.lanes.memory import crowded, is_out_of_memory, told
from runner.lanes.stack import Stack
from runner.train.act import Run
from runner.train.clipping import Fixed
from runner.train.course import Course, is_evaluated, judge, metrics_of, note_update, settle
from runner.train.step import Signals, update

if TYPE_CHECKING:
    from runner.lanes.lane import Running


def step(stack: Stack, lanes: Sequence[Running]) -> None:
    """Make one step of every lane; one that finds no room for its first update owes it, and what follows, afterwards.

    Raises:
        Exception: the pass fails; the lanes are then as they were.
    """
    grads: Iterable[Sequence[Tensor] | None]
    with stack.untouched_by_failure():
        signals, grads = _gradients(stack, lanes)
    going: list[Running] = []
    for lane, those, own in zip(lanes, signals, grads, strict=True):
        if lane.attempt(_judge_and_update, lane, those, own):
            going.append(lane)
        elif lane.error is not None:
            lane.error = crowded(lane.error, len(lanes), lane.run.plan.accumulate)
    due = [lane for lane in going if lane.error is None and is_evaluated(lane.course)]
    metrics = _metrics(stack, lanes, due) if due else {}
    for lane in going:
        if lane.error is None:
            lane.attempt(settle, metrics.get(lane.index))


def catch_up(lane: Running, lanes: int) -> None:
    """Make the update that a lane outside of a stack owes, and what follows it; it owes it still where room lacks.

    Args:
        lane: is one of several.
        lanes: how many they are.
    """
    if lane.attempt(_owed_made, lane):
        lane.attempt(_settle_alone)
    if lane.error is not None:
        lane.error = crowded(lane.error, lanes, lane.run.plan.accumulate)


def _metrics(stack: Stack, lanes: Sequence[Running], due: Sequence[Running]) -> dict[int, dict[str, float]]:
    """Return what evaluations find, by index of the lane; those that fail together are made apart."""
    plan = lanes[0].run.plan
    try:
        with ExitStack() as averages:
            for lane in due:
                if lane.run.average is not None:
                    averages.enter_context(lane.run.average.applied())
            found = evaluate(stack, [lane.run.task for lane in lanes], [lanes.index(lane) for lane in due], plan)
        return {lane.index: metrics for lane, metrics in zip(due, found, strict=True)}
    except (Exception, SystemExit) as error:
        problem = told(error, plan.accumulate)
    if len(due) == 1:
        due[0].error = problem
        return {}
    half = len(due) // 2
    return _metrics(stack, lanes, due[:half]) | _metrics(stack, lanes, due[half:])


def _judge_and_update(course: Course, lane: Running, signals: Signals, grads: Sequence[Tensor] | None) -> bool:
    """Show the gradient to the watch and make the update; return whether the lane goes on, and owes none."""
    run = course.run
    if not isinstance(run.clipping, Fixed):
        trained = [p for group in run.optimizer.param_groups for p in group["params"] if p.grad is not None]
        clipped = run.clipping.clip(trained, [p.grad for p in trained if p.grad is not None])
        signals = signals._replace(is_clipped=clipped.is_clipped)
    if not judge(course, signals):
        return False
    return _made(course, lane, grads)


def _made(course: Course, lane: Running, grads: Sequence[Tensor] | None) -> bool:
    """Make the update, or drop it; return whether that is done, and not owed for lack of room."""
    run = course.run
    makes_state = course.state.is_fresh and not any(run.optimizer.state.values())
    if course.drops or not makes_state:
        _update(course, lane, grads)
    elif not _first_made(course, lane, Before(run.model, run.optimizer, grads), grads):
        return False
    return _followed(course)


def _owed_made(course: Course, lane: Running) -> bool:
    """Make the update that is owed; return whether there was room."""
    before, lane.owed = lane.owed, None
    return before is not None and _first_made(course, lane, before, None) and _followed(course)


def _first_made(course: Course, lane: Running, before: Before, grads: Sequence[Tensor] | None) -> bool:
    try:
        if before.problem is not None:
            before.hand_out_gradients()
        _update(course, lane, grads)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        before.problem = told(error, course.run.plan.accumulate)
        before.restore()
        lane.owed = before
        return False
    return True


def _followed(course: Course) -> bool:
    """Do what follows an update."""
    if course.run.average is not None and not course.drops:
        course.run.average.update()
    note_update(course)
    return True


def _settle_alone(course: Course) -> None:
    settle(course, metrics_of(course, course.run.model) if is_evaluated(course) else None)


def _update(course: Course, lane: Running, grads: Sequence[Tensor] | None) -> None:
    if lane.fused is None or course.drops:
        with lane.drawing():
            update(course.run.optimizer, course.run.scaler, drop=course.drops)
    else:
        lane.fused(grads)


def _gradients(stack: Stack, lanes: Sequence[Running]) -> tuple[list[Signals], Sequence[Sequence[Tensor] | None]]:
    """Find the gradients of a step, clipped at fixed norms, and return what they tell.

    The second result are the gradients of every lane, None where its parameters hold them: only some lanes need that.
    """
    runs = [lane.run for lane in lanes]
    if any(group.get("frozen_steps") for run in runs for group in run.optimizer.param_groups):
        stack.follow_freezing()
    plan = runs[0].plan
    sums = backward(
        stack,
        [run.task for run in runs],
        [lane.course.state.step for lane in lanes],
        plan,
        [lane.course.shown for lane in lanes],
    )
    if stack.has_frozen:
        stack.drop_frozen_gradients()
    grads = [p.grad for p in stack.parameters.values() if p.grad is not None]
    each = [torch.linalg.vector_norm(grad.flatten(1), dim=1) if grad.dim() > 1 else grad.abs() for grad in grads]
    norms = torch.linalg.vector_norm(torch.stack(each), dim=0)
    both = torch.promote_types(norms.dtype, sums.totals.dtype)
    totals, host_norms = torch.stack([sums.totals.to(both), norms.to(both)]).tolist()
    by_lane = None if any(lane.reads_gradients for lane in lanes) else stack.gradients_by_lane()
    if by_lane is None:
        stack.hand_out_gradients()
    _clip(runs, grads, norms)
    found = zip(totals, sums.weights, host_norms, sums.examples, strict=True)
    return [Signals(*those) for those in found], by_lane or [None] * len(lanes)


def _clip(runs: Sequence[Run], grads: list[Tensor], norms: Tensor) -> None:
    """Clip the gradients of the lanes that do so at a fixed norm."""
    most = [run.clipping.most if isinstance(run.clipping, Fixed) else None for run in runs]
    if any(norm is not None for norm in most):
        limits = norms.new_tensor([float("inf") if norm is None else norm for norm in most])
        factors = (norms + 1e-6).reciprocal_().mul_(limits).clamp_(max=1.0)
        scale(grads, torch.where(limits.isinf(), 1.0, factors))
