"""One step of all lanes in a pass: gradients together, then each lane judges and updates on its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from runner.lanes.evaluation import evaluate
from runner.lanes.forward import backward, scale
from runner.lanes.memory import crowded, told
from runner.lanes.stack import Stack
from runner.train.act import Run
from runner.train.clipping import Fixed
from runner.train.course import Course, is_evaluated, judge, note_update, settle
from runner.train.step import Signals, update

if TYPE_CHECKING:
    from runner.lanes.lane import Running


def step(stack: Stack, lanes: Sequence[Running]) -> None:
    """Make one step of every lane.

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
            lane.error = crowded(lane.error, len(lanes))
    due = [lane for lane in going if lane.error is None and is_evaluated(lane.course)]
    metrics = _metrics(stack, lanes, due) if due else {}
    for lane in going:
        if lane.error is None:
            lane.attempt(settle, metrics.get(lane.index))


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
    """Show the gradient to the watch and make the update; return whether the lane goes on."""
    run = course.run
    if not isinstance(run.clipping, Fixed):
        trained = [p for group in run.optimizer.param_groups for p in group["params"] if p.grad is not None]
        clipped = run.clipping.clip(trained, [p.grad for p in trained if p.grad is not None])
        signals = signals._replace(is_clipped=clipped.is_clipped)
    if not judge(course, signals):
        return False
    if lane.fused is None or course.drops:
        with lane.drawing():
            update(run.optimizer, run.scaler, run.average, drop=course.drops)
    else:
        lane.fused(grads)
        if run.average is not None:
            run.average.update()
    note_update(course)
    return True


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
