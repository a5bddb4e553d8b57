"""backend=auto: a short measurement tells whether lanes pay."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from runner.build import build
from runner.config import Config
from runner.errors import in_words
from runner.estimate import Stopwatch, WeighedCheckpoints, trial_plan
from runner.lanes import recording
from runner.lanes.lane import Lane
from runner.lanes.refusal import WAY_OUT, why_not
from runner.train.plan import TrainPlan
from runner.trials.shared import SharedTasks

_LANES = 16  # enough to tell: more pay more
_STEPS = 10
_LEAST_STEPS, _ENOUGH_SECONDS = 4, 0.5
_EAGER_PASSES = 1  # then it is recorded, within the steps that do not count
_LONG_SECONDS = 0.03  # of a step on a CPU: what lanes save is about a millisecond


class Choice(NamedTuple):
    """What makes the runs of a batch, and why."""

    is_lanes: bool
    why: str


def choose(configs: Sequence[Config], *, width: int) -> Choice:
    """Return whether runs are made in lanes, by the time that a step takes in both ways.

    Args:
        configs: checked, of the runs.
        width: most lanes at once.
    """
    try:
        first = build(configs[0]).parts()
        if (reason := why_not([first])) is not None:
            return Choice(False, f"one after another, as lanes cannot be: {reason.removesuffix(f'. {WAY_OUT}.')}")
        plan = first["plan"]
        is_on_cpu = plan.device.type == "cpu"
        count = min(len(configs), width, _LANES if is_on_cpu else width)  # memory is tried as it will be used
        alone = _pace(configs[:1], plan)
        if alone > _LONG_SECONDS and is_on_cpu:
            return Choice(
                False, f"one after another, as a step takes {1e3 * alone:.3g} ms, too long to gain from lanes"
            )
        together = _pace(configs[:count], plan)
    except Exception as error:  # whatever it is, the run itself tells it
        return Choice(False, f"one after another, as a trial in lanes failed: {in_words(error)}")
    lanes, turns = 1e3 * together, 1e3 * alone * count
    faster = f"a step of {count} runs takes {lanes:.3g} ms in lanes and {turns:.3g} ms one after another"
    return Choice(lanes < turns, f"{'lanes' if lanes < turns else 'one after another'}, as {faster}")


class _Brief(Stopwatch):
    """Ends a trial of long steps earlier, and takes processor time too."""

    def __init__(self) -> None:
        super().__init__(_STEPS, watch_every=1)
        self._started: float | None = None
        self._processor = list[float]()

    def __call__(self) -> str | None:
        """Note the time; return a reason to stop when that is enough."""
        reason, now = super().__call__(), time.perf_counter()
        self._processor.append(time.process_time())
        self._started = self._started or now
        is_enough = self.made >= _LEAST_STEPS and now - self._started > _ENOUGH_SECONDS
        return reason or ("enough is known" if is_enough else None)

    def seconds(self, *, on_cpu: bool) -> float:
        """Return what a step takes; on a CPU, what others take from it meanwhile does not count."""
        wall = self.pace().fast
        if not on_cpu:
            return wall
        spans = [end - start for start, end in zip(self._processor, self._processor[1:], strict=False)]
        return min(wall, *spans[len(spans) // 4 :])


def _pace(configs: Sequence[Config], plan: TrainPlan) -> float:
    """Return the seconds that a step of runs takes, in lanes where they are several; what disturbs some is left out.

    Args:
        configs: of the runs.
        plan: of any of them; where it has enough steps its passes are recorded, and so are those of the trial.
    Raises:
        Exception: the first that ended a run.
    """
    from runner.lanes.engine import fit_lanes
    from runner.train.loop import fit

    is_long = plan.steps > 2 * recording.EAGER_PASSES
    watches, nothing = [_Brief() for _ in configs], WeighedCheckpoints(Path(os.devnull))
    tasks = SharedTasks()

    def lanes() -> Iterator[Lane]:
        for config, watch in zip(configs, watches, strict=True):
            experiment = build(config)
            parts = experiment._replace(plan=trial_plan(experiment.plan)).parts()
            yield Lane({**parts, "task": tasks.of(config, experiment.task)}, nothing, lambda record: None, watch)

    if len(configs) == 1:
        [lane] = lanes()
        fit(**lane.parts, checkpoints=nothing, on_record=lane.on_record, interrupted=lane.interrupted)
    else:
        outcomes = fit_lanes(lanes(), width=len(configs), eager_passes=_EAGER_PASSES if is_long else None)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
    return watches[0].seconds(on_cpu=plan.device.type == "cpu")
