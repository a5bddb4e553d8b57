"""Many trainings in one batched pass.

    fit_lanes(lanes: Iterable[Lane], *, width: int, on_end=...) -> list[TrainState | Exception]

`Lane(parts, checkpoints, on_record, interrupted)` is what `fit` takes for one training, so a lane is made like this:

    Lane(experiment.parts(), Checkpoints(directory, before_save=writer.sync), writer.write)

Ask `why_not(experiments' parts)` of `runner.lanes.refusal` first: it says what cannot be batched. Lanes that hold one
and the same task *object* share its batches; make it so for runs of one seed (`parts["task"] = first.task`).

Every lane has an optimizer of its own, and not one optimizer a parameter group for each lane: then groups, schedules
of momentum and decay, optimizers that keep state in their groups (Prodigy, schedule-free) or step groups together
(Muon), rollbacks and checkpoints are those of a single run, with the same code. One update of 32 lanes costs little
more that way where torch's fused kernel is called directly (see `runner.lanes.fused`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from runner.errors import TaskError
from runner.lanes.evaluation import evaluate
from runner.lanes.forward import backward, scale
from runner.lanes.lane import Lane, Outcome, Running
from runner.lanes.recording import Recordings
from runner.lanes.refusal import unfit
from runner.lanes.stack import Stack, release
from runner.tasks.closing import Closable, in_use
from runner.train.act import Run
from runner.train.clipping import Fixed
from runner.train.course import Course, is_evaluated, judge, note_update, settle
from runner.train.seeding import generator_states, restore_generators
from runner.train.step import Signals, update

OnEnd = Callable[[int, Outcome], None]


def fit_lanes(
    lanes: Iterable[Lane],
    *,
    width: int,
    on_end: OnEnd = lambda index, outcome: None,
    eager_passes: int | None = None,
) -> list[Outcome]:
    """Train every lane to its end, up to `width` of them at once, each step of all of them in one batched pass.

    A lane that has ended leaves, and the next one that waits begins in its place, at its own first step. What a lane
    raises on its own (its records, update, checkpoints, probes) ends that lane alone; its outcome is then the
    exception. What the pass raises (a batch without weight, out of memory) ends all lanes that are in it. Dropout draws
    from generators that all lanes share, so other numbers than in a single run, the same ones for the same lanes; an
    optimizer draws what it would alone.

    Args:
        lanes: in order; each is asked for when there is room for it, so it may be built then.
        width: most lanes at once; >= 1.
        on_end: is called with the index and the outcome of a lane as soon as it has ended.
        eager_passes: before a pass is recorded; None as many as make it worth that.
    Returns:
        outcomes, in order: the state at the end as `fit` returns it, or what the lane raised.
    """
    waiting, active = _Waiting(lanes), list[Running]()
    outcomes: dict[int, Outcome] = {}
    stack: Stack | None = None
    recordings = Recordings(eager_passes)
    with ExitStack() as tasks:
        while True:
            arrived = _take_places(waiting, active, width, outcomes, tasks, on_end)
            for lane in active:
                lane.make_ready()
            left = [lane for lane in active if lane.is_over]
            if stack is not None and (left or arrived):
                for model in stack.models:
                    release(model)
                stack = None
            for lane in left:
                active.remove(lane)
                _close(lane, active)
                outcomes[lane.index] = lane.end()
                on_end(lane.index, outcomes[lane.index])
            if left:
                continue
            if not active:
                return [outcomes[index] for index in sorted(outcomes)]
            stack = stack or Stack([lane.run.model for lane in active], recordings)
            _step(stack, active)


class _Waiting:
    """Lanes that have not begun.

    Args:
        lanes: in order.
    Attributes:
        are_gone: whether none is known to be left.
    """

    def __init__(self, lanes: Iterable[Lane]) -> None:
        self._lanes = enumerate(lanes)
        self.are_gone = False

    def next(self) -> tuple[int, Lane] | None:
        """Return index and lane of the next one, made now."""
        following = next(self._lanes, None)
        self.are_gone = following is None
        return following


def _take_places(
    waiting: _Waiting,
    active: list[Running],
    width: int,
    outcomes: dict[int, Outcome],
    tasks: ExitStack,
    on_end: OnEnd,
) -> bool:
    """Let waiting lanes begin where there is room; return whether one did."""
    before = len(active)
    while len(active) < width and not waiting.are_gone:
        with _undisturbed(active):
            if (following := waiting.next()) is None:
                break
            index, lane = following
            tasks.enter_context(in_use(lane.parts["task"]))
            try:
                if active and (reason := unfit(active[0].parts, lane.parts)):
                    raise TaskError(reason)
                active.append(Running(index, lane))
            except Exception as error:
                outcomes[index] = error
                on_end(index, error)
    return len(active) > before


@contextmanager
def _undisturbed(active: list[Running]) -> Iterator[None]:
    """Put the generators back after lanes have begun beside others: making a model seeds them."""
    states = generator_states() if active else None
    yield
    if states is not None:
        restore_generators(states)


def _close(lane: Running, active: list[Running]) -> None:
    """Close the task of a lane that has ended, if no other reads it."""
    task = lane.run.task
    if isinstance(task, Closable) and all(other.run.task is not task for other in active):
        task.close()


def _step(stack: Stack, lanes: list[Running]) -> None:
    """Make one step of every lane."""
    grads: Iterable[Sequence[Tensor] | None]
    try:
        signals, grads = _gradients(stack, lanes)
    except Exception as error:
        for lane in lanes:
            lane.error = error
        return
    going = list[Running]()
    for lane, those, own in zip(lanes, signals, grads, strict=True):
        if lane.attempt(_judge_and_update, lane, those, own):
            going.append(lane)
    due = [lane for lane in going if lane.error is None and is_evaluated(lane.course)]
    metrics = _metrics(stack, lanes, due) if due else {}
    for lane in going:
        if lane.error is None:
            lane.attempt(settle, metrics.get(lane.index))


def _metrics(stack: Stack, lanes: list[Running], due: list[Running]) -> dict[int, dict[str, float]]:
    """Return what evaluations find, by index of the lane; a failure ends all that were due."""
    try:
        with ExitStack() as averages:
            for lane in due:
                if lane.run.average is not None:
                    averages.enter_context(lane.run.average.applied())
            found = evaluate(
                stack, [lane.run.task for lane in lanes], [lanes.index(lane) for lane in due], lanes[0].run.plan
            )
    except Exception as error:
        for lane in due:
            lane.error = error
        return {}
    return {lane.index: metrics for lane, metrics in zip(due, found, strict=True)}


def _judge_and_update(course: Course, lane: Running, signals: Signals, grads: Sequence[Tensor] | None) -> bool:
    """Show the gradient to the watch and make the update; return whether the lane goes on."""
    if not judge(course, signals):
        return False
    run = course.run
    if lane.fused is None or course.drops:
        with lane.drawing():
            update(run.optimizer, run.scaler, run.average, drop=course.drops)
    else:
        lane.fused(grads)
        if run.average is not None:
            run.average.update()
    note_update(course)
    return True


def _gradients(stack: Stack, lanes: list[Running]) -> tuple[list[Signals], Sequence[Sequence[Tensor] | None]]:
    """Find the gradients of a step, clipped, and return what they tell.

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
    clipped = _clip(runs, grads, norms)
    told = zip(totals, sums.weights, host_norms, sums.examples, clipped, strict=True)
    return [Signals(*those) for those in told], by_lane or [None] * len(lanes)


def _clip(runs: Sequence[Run], grads: list[Tensor], norms: Tensor) -> list[Tensor | None]:
    """Clip the gradients of every lane as it asks for; return whether that was done where the norm tells not."""
    most = [run.clipping.most for run in runs if isinstance(run.clipping, Fixed)]
    if len(most) < len(runs):
        found = []
        for run in runs:
            trained = [p for group in run.optimizer.param_groups for p in group["params"] if p.grad is not None]
            found.append(run.clipping.clip(trained, [p.grad for p in trained if p.grad is not None]).is_clipped)
        return found
    if any(norm is not None for norm in most):
        limits = norms.new_tensor([float("inf") if norm is None else norm for norm in most])
        factors = (norms + 1e-6).reciprocal_().mul_(limits).clamp_(max=1.0)
        scale(grads, torch.where(limits.isinf(), 1.0, factors))
    return [None] * len(runs)
