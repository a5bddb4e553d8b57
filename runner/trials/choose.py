"""backend=auto: a short measurement tells whether lanes pay."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from runner.build import build
from runner.config import Config
from runner.errors import in_words
from runner.estimate import Stopwatch, WeighedCheckpoints, trial_plan
from runner.lanes import recording
from runner.lanes.lane import Lane
from runner.lanes.memory import CrowdedError, free_memory, is_out_of_memory
from runner.lanes.refusal import WAY_OUT, why_not
from runner.train.plan import TrainPlan
from runner.trials.shared import SharedTasks

_LANES = 16  # enough to tell: more pay more
_STEPS = 10
_LEAST_STEPS, _ENOUGH_SECONDS = 4, 0.5
_EAGER_PASSES = 1  # then it is recorded, within the steps that do not count
_GAIN = 0.95  # of the time alone: what is closer is not told apart from nothing
_LONG_SECONDS = 0.03  # of a step on a CPU: what lanes save is about a millisecond


class Choice(NamedTuple):
    """What makes the runs of a batch, and why.

    Attributes:
        is_lanes: whether lanes do, in place of one run after another.
        why: in words.
        width: most lanes at once that memory has room for, as far as was tried.
        is_for_any: whether another number of runs would change nothing.
    """

    is_lanes: bool
    why: str
    width: int
    is_for_any: bool = False


def choose(configs: Sequence[Config], *, width: int) -> Choice:
    """Return whether runs are made in lanes, by the time that a step takes in both ways.

    Args:
        configs: checked, of the runs.
        width: most lanes at once.
    """
    failed = "making a run"
    try:
        first = build(configs[0]).parts()
        if (reason := why_not([first])) is not None:
            return _in_turn(f"lanes cannot be: {reason.removesuffix(f'. {WAY_OUT}.')}", width, is_for_any=True)
        plan = first["plan"]
        is_on_cpu = plan.device.type == "cpu"
        most = _LANES if is_on_cpu else width  # memory is tried as it will be used
        count = min(len(configs), width, most)
        failed = "a trial of one run"
        alone, _ = _pace(configs[:1], plan)
        if alone > _LONG_SECONDS and is_on_cpu:
            reason = f"a step takes {1e3 * alone:.3g} ms, too long to gain from lanes"
            return _in_turn(reason, width, is_for_any=True)
        failed = "a trial in lanes"
        together, at_once = _pace_with_room(configs[:count], plan)
    except Exception as error:  # whatever it is, the run itself tells it
        return _in_turn(f"{failed} failed: {in_words(error)}", width, is_for_any=True)
    width = width if at_once == count else at_once
    if at_once == 1:
        return _in_turn("memory has no room for two of them", width, is_for_any=True)
    lanes, turns = 1e3 * together, 1e3 * alone * at_once
    faster = f"a step of {at_once} runs takes {lanes:.3g} ms in lanes and {turns:.3g} ms one after another"
    if lanes < _GAIN * turns:
        return Choice(is_lanes=True, why=f"lanes, as {faster}", width=width)
    return _in_turn(faster, width, is_for_any=at_once < count or count == most)


def _in_turn(why: str, width: int, *, is_for_any: bool) -> Choice:
    return Choice(is_lanes=False, why=f"one after another, as {why}", width=width, is_for_any=is_for_any)


class _Brief(Stopwatch):
    """Ends a trial of long steps earlier, and takes processor time too."""

    def __init__(self) -> None:
        super().__init__(_STEPS, watch_every=1)
        self._started: float | None = None
        self._processor = list[float]()
        self._reason: str | None = None
        self._steps = Counter[int]()

    def __call__(self) -> str | None:
        """Note the time; return a reason to stop when that is enough."""
        reason, now = super().__call__(), time.perf_counter()
        self._processor.append(time.process_time())
        self._started = self._started or now
        is_enough = self.made >= _LEAST_STEPS and now - self._started > _ENOUGH_SECONDS
        self._reason = reason or ("enough is known" if is_enough else None)
        return self._reason

    def of_lane(self, index: int) -> str | None:
        """Note the time where a lane is the first to have made one more step; return a reason to stop for any lane."""
        self._steps[index] += 1
        if self._steps[index] > self.made:
            self()
        return self._reason

    def seconds(self, *, on_cpu: bool) -> float:
        """Return what a step takes; on a CPU, what others take from it meanwhile does not count."""
        wall = self.pace().fast
        if not on_cpu:
            return wall
        spans = [end - start for start, end in zip(self._processor, self._processor[1:], strict=False)]
        return min([wall, *spans[len(spans) // 4 :]])


def _pace_with_room(configs: Sequence[Config], plan: TrainPlan) -> tuple[float, int]:
    """Return what `_pace` does, of fewer runs where memory runs out for what they keep."""
    try:
        return _pace(configs, plan)
    except CrowdedError as error:
        room = error.room  # what was tried goes with the error
    free_memory()
    return _pace_with_room(configs[:room], plan)


def _pace(configs: Sequence[Config], plan: TrainPlan) -> tuple[float, int]:
    """Return the seconds that a step of runs takes, in lanes where they are several, and how many had room at once.

    The fastest step counts, so what disturbs some does not, nor what more lanes took before memory ran out.

    Args:
        configs: of the runs.
        plan: of any of them; where it has enough steps its passes are recorded, and so are those of the trial.
    Raises:
        Exception: the first that ended a run.
    """
    from runner.lanes.engine import fit_lanes
    from runner.train.loop import fit

    is_long = plan.steps > 2 * recording.EAGER_PASSES
    watch, nothing, widths = _Brief(), WeighedCheckpoints(Path(os.devnull)), [len(configs)]
    tasks = SharedTasks()

    def lanes() -> Iterator[Lane]:
        for index, config in enumerate(configs):
            try:
                experiment = build(config)
            except Exception as error:
                if not (index and is_out_of_memory(error)):
                    raise
                widths.append(index)
                return
            parts = experiment._replace(plan=trial_plan(experiment.plan)).parts()
            asked = partial(watch.of_lane, index)
            yield Lane({**parts, "task": tasks.of(config, experiment.task)}, nothing, lambda record: None, asked)

    if len(configs) == 1:
        [lane] = lanes()
        fit(**lane.parts, checkpoints=nothing, on_record=lane.on_record, interrupted=lane.interrupted)
    else:
        eager = _EAGER_PASSES if is_long else None
        outcomes = fit_lanes(lanes(), width=len(configs), on_narrow=widths.append, eager_passes=eager)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
    return watch.seconds(on_cpu=plan.device.type == "cpu"), min(widths)
