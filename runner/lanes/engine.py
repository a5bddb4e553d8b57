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

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

from runner.errors import TaskError
from runner.lanes.lane import Lane, Outcome, Running
from runner.lanes.memory import NoRoomError, free_memory, told
from runner.lanes.recording import Recordings
from runner.lanes.refusal import unfit
from runner.lanes.stack import Stack, release
from runner.lanes.step import catch_up, step
from runner.tasks.closing import Closable, in_use
from runner.train.seeding import generator_states, restore_generators

OnEnd = Callable[[int, Outcome], None]
OnNarrow = Callable[[int], None]


def fit_lanes(
    lanes: Iterable[Lane | None],
    *,
    width: int,
    on_end: OnEnd = lambda index, outcome: None,
    on_narrow: OnNarrow = lambda width: None,
    eager_passes: int | None = None,
) -> list[Outcome]:
    """Train every lane to its end, up to `width` of them at once, each step of all of them in one batched pass.

    A lane that has ended leaves, and the next one that waits begins in its place, at its own first step. What a lane
    raises ends that lane alone; its outcome is then the exception. A pass that fails is made once more by each of its
    lanes alone, and those that fail again end. Where memory runs out, the later half of the lanes waits, as they were
    before the step, until there is a place among half as many. One that finds no room for its first update, where the
    state of its optimizer is made, waits until there is a place among as many as had room. A lane that finds none alone
    ends.

    Dropout draws from generators that all lanes share, so other numbers than in a single run, the same ones for the
    same lanes; an optimizer draws what it would alone.

    Args:
        lanes: in order; each is asked for when there is room for it, so it may be built then. None where it cannot be
            for lack of memory while others are under way: it is asked for again when one of them has ended.
        width: most lanes at once; >= 1.
        on_end: is called with the index and the outcome of a lane as soon as it has ended.
        on_narrow: is called with the new width when memory has run out.
        eager_passes: before a pass is recorded; None as many as make it worth that.
    Returns:
        outcomes, in order: the state at the end as `fit` returns it, or what the lane raised.
    """
    with ExitStack() as tasks:
        made = _Pass(lanes, width, on_end, on_narrow, Recordings(eager_passes), tasks)
        while made.goes_on():
            made.step()
    return [made.outcomes[index] for index in sorted(made.outcomes)]


class _Pass:
    """The lanes under way, those that wait, and what became of the others.

    Args:
        lanes, width, on_end, on_narrow: as `fit_lanes` takes them.
        recordings: of passes.
        tasks: closes them at the end.
    Attributes:
        outcomes: of the lanes that have ended, by index.
    """

    def __init__(
        self,
        lanes: Iterable[Lane | None],
        width: int,
        on_end: OnEnd,
        on_narrow: OnNarrow,
        recordings: Recordings,
        tasks: ExitStack,
    ) -> None:
        self._to_come = iter(lanes)
        self._begun, self._are_all_asked_for = 0, False
        self._width, self._on_end, self._on_narrow = width, on_end, on_narrow
        self._recordings, self._tasks = recordings, tasks
        self._active = list[Running]()
        self._put_off = deque[Running]()
        self._stack: Stack | None = None
        self.outcomes = dict[int, Outcome]()

    def goes_on(self) -> bool:
        """Let lanes leave and come until all are ready for a step; return whether there is any."""
        while True:
            if self._take_places():
                self._unstack()
            self._catch_up()
            if self._put_off_owing():
                continue
            if not self._let_go():
                return bool(self._active)

    def _let_go(self) -> bool:
        """Have lanes come to their next step, and let those leave that are over; return whether there was any."""
        for lane in self._active:
            lane.make_ready()
        left = [lane for lane in self._active if lane.is_over]
        if left:
            self._unstack()
        for lane in left:
            self._active.remove(lane)
            self._close_task_of(lane)
            self._note(lane.index, lane.end())
        return bool(left)

    def _catch_up(self) -> None:
        """Have lanes that have waited make the update that they owe."""
        owing = [lane for lane in self._active if lane.owed is not None]
        if owing:
            free_memory()
        for lane in owing:
            catch_up(lane, len(self._active))

    def step(self) -> None:
        """Make one step of every lane, together where that can be."""
        problem = self._try(self._active)
        if problem is not None:
            self._meet(problem)
        self._put_off_owing()

    def _meet(self, problem: Exception) -> None:
        """Do what there is to do about a pass that has failed."""
        self._unstack()
        if isinstance(problem, NoRoomError):
            free_memory()
        if len(self._active) == 1:
            self._active[0].error = problem
        elif isinstance(problem, NoRoomError):
            self._narrow()
        else:
            for lane in self._active:
                lane.error = self._try([lane]) or lane.error
                self._unstack()

    def _try(self, lanes: list[Running]) -> Exception | None:
        """Make one step of lanes that are the stack, or become it; return why that cannot be."""
        try:
            self._stack = self._stack or Stack([lane.run.model for lane in lanes], self._recordings)
            step(self._stack, lanes)
        except (Exception, SystemExit) as error:
            return told(error, lanes[0].run.plan.accumulate)
        return None

    def _narrow(self) -> None:
        """Have the later half of the lanes wait."""
        half = len(self._active) // 2
        for lane in self._active[half:]:
            lane.put_off()
            self._put_off.append(lane)
        del self._active[half:]
        self._set_width(half)

    def _put_off_owing(self) -> bool:
        """Have lanes wait whose first update has found no room; return whether there was any."""
        owing = [lane for lane in self._active if lane.owed is not None]
        if not owing:
            return False
        self._unstack()
        free_memory()
        if len(self._active) == 1:
            owing[0].end_owing()
            return True
        for lane in reversed(owing):
            self._active.remove(lane)
            lane.put_off()
            self._put_off.appendleft(lane)
        self._set_width(len(self._active) or len(owing) // 2)
        return True

    def _set_width(self, width: int) -> None:
        self._width = width
        self._on_narrow(width)

    def _unstack(self) -> None:
        if self._stack is not None:
            for model in self._stack.models:
                release(model)
            self._stack = None

    def _take_places(self) -> bool:
        """Let waiting lanes begin, or go on, where there is room; return whether one did."""
        before = len(self._active)
        while len(self._active) < self._width and self._put_off:
            lane = self._put_off.popleft()
            lane.take_up()
            self._active.append(lane)
        while len(self._active) < self._width and not self._are_all_asked_for:
            with _undisturbed(self._active):
                self._begin_next()
        return len(self._active) > before

    def _begin_next(self) -> None:
        try:
            lane = next(self._to_come)
        except StopIteration:
            self._are_all_asked_for = True
            return
        if lane is None:
            if self._active:
                self._set_width(len(self._active))
            return
        index, self._begun = self._begun, self._begun + 1
        self._tasks.enter_context(in_use(lane.parts["task"]))
        try:
            if self._active and (reason := unfit(self._active[0].parts, lane.parts)):
                raise TaskError(reason)
            self._active.append(Running(index, lane))
        except (Exception, SystemExit) as error:
            self._note(index, told(error, lane.parts["plan"].accumulate))

    def _note(self, index: int, outcome: Outcome) -> None:
        self.outcomes[index] = outcome
        self._on_end(index, outcome)

    def _close_task_of(self, lane: Running) -> None:
        """Close the task of a lane that has ended, if no other reads it."""
        task = lane.run.task
        if isinstance(task, Closable) and all(other.run.task is not task for other in (*self._active, *self._put_off)):
            task.close()


@contextmanager
def _undisturbed(active: list[Running]) -> Iterator[None]:
    """Put the generators back after lanes have begun beside others: making a model seeds them."""
    states = generator_states() if active else None
    yield
    if states is not None:
        restore_generators(states)
