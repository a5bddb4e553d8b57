"""backend=lanes: many trials in one batched pass, every lane a recorded run of its own."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from signal import Signals
from typing import TYPE_CHECKING

from runner.build import Experiment, build
from runner.config import Config
from runner.errors import in_words
from runner.lanes.lane import Lane, Outcome
from runner.lanes.memory import is_out_of_memory
from runner.lanes.refusal import why_not
from runner.records import RunResult
from runner.sweeps.worker import quietly
from runner.train.interrupt import listen
from runner.trials.shared import SharedClock, SharedTasks
from runner.trials.trial import Batch, Trial

if TYPE_CHECKING:
    from runner.trials.recorded_run import RecordedRun

Received = Callable[[], Signals | None]


def refusal_of(config: Config) -> str | None:
    """Return why runs of a page cannot be lanes, with the way out; None where they can.

    Raises:
        ConfigError: a factory refuses its arguments.
    """
    return why_not([build(config).parts()])


def run_in_lanes(trials: Sequence[Trial], batch: Batch, *, width: int) -> None:
    """Make the runs, those that can be in one pass together; those that fail are named in `batch.errors`.

    Args:
        trials: in any order.
        batch: what they have in common.
        width: most lanes at once.
    """
    for alike in _alike(trials):
        if batch.is_stopped:
            return
        pass_ = _Pass(alike, batch)
        error = quietly(lambda each=pass_: each.run(width), batch.directory, name="lanes")  # type: ignore[misc]
        for trial in alike if error else ():
            batch.errors.setdefault(trial.job.number, error)


def _alike(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Return trials with the same kind of model together; those of one seed, which share their batches, in a row."""
    groups: dict[str, list[Trial]] = {}
    for trial in sorted(trials, key=lambda trial: trial.config.seed):
        groups.setdefault(kind_of(trial.config), []).append(trial)
    return list(groups.values())


def kind_of(config: Config) -> str:
    """Return what runs have in common that can be lanes of one pass."""
    train = config.train
    kind = (config.task.model_dump_json(), config.tracking.model_dump_json())
    return " ".join(
        [*kind, *map(str, (train.accumulate, train.precision, train.device, train.compile, train.watch_every))]
    )


class _Pass:
    """One batched pass, and the runs in it that are being recorded."""

    def __init__(self, trials: Sequence[Trial], batch: Batch) -> None:
        self._trials = trials
        self._batch = batch
        self._open: dict[int, tuple[Trial, RecordedRun, ExitStack]] = {}
        self._tasks = SharedTasks()
        self._clock = SharedClock()

    def run(self, width: int) -> RunResult | None:
        """Train them all; return the result of a run that a signal ended, if one was."""
        from runner.lanes.engine import fit_lanes  # imports all that a lane needs

        last: RunResult | None = None
        self._batch.beside.start(runs=len(self._trials))
        with listen() as received:

            def on_end(index: int, outcome: Outcome) -> None:
                nonlocal last
                result = self._close(index, outcome, received)
                last = result if result is not None and result.signal is not None else last

            try:
                fit_lanes(self._lanes(received), width=width, on_end=on_end, on_narrow=_tell_width)
            except BaseException as error:
                for index in list(self._open):
                    self._fail(index, error)
                raise
        return last

    def _lanes(self, received: Received) -> Iterator[Lane | None]:
        """Make the lanes one by one, when there is room; one that cannot be made is told and left out.

        None where there is no memory for one beside those that are under way.
        """
        from runner.trials.recorded_run import recorded

        index = 0
        for trial in self._trials:
            if received() is not None:
                return
            while (experiment := self._built(trial)) is None:
                yield None
                if received() is not None:
                    return
            if isinstance(experiment, Exception):
                self._tell(trial, experiment)
                continue
            stack = ExitStack()
            try:
                prune = self._batch.prune(trial)
                beside = self._batch.beside
                record = recorded(
                    trial.config,
                    trial.invocation,
                    experiment,
                    prune=prune,
                    draw=beside.draw,
                    follow=beside.follow,
                    now=self._clock,
                )
                run = stack.enter_context(record)
                run.begin()
                self._clock.change(1)
                stack.callback(self._clock.change, -1)
            except Exception as error:
                stack.close()
                self._tell(trial, error)
                continue
            self._open[index] = (trial, run, stack)
            yield Lane(
                {**experiment.parts(), "task": self._tasks.of(trial.config, experiment.task)},
                run.checkpoints,
                run.on_record,
                partial(_stops, run, received),
            )
            index += 1

    def _built(self, trial: Trial) -> Experiment | Exception | None:
        """Return what a run is made of, or why that cannot be; None where memory lacks that others will leave."""
        try:
            return build(trial.config)
        except Exception as error:
            return None if self._open and is_out_of_memory(error) else error

    def _close(self, index: int, outcome: Outcome, received: Received) -> RunResult | None:
        """Tell the end of a lane to everybody; return the result where there is one."""
        if isinstance(outcome, Exception):
            self._fail(index, outcome)
            return None
        trial, run, stack = self._open.pop(index)
        try:
            with stack:
                return run.end(outcome, received)
        except Exception as error:
            self._tell(trial, error)
            return None

    def _fail(self, index: int, error: BaseException) -> None:
        trial, run, stack = self._open.pop(index)
        try:
            raise error  # so that the traceback of the run is its own
        except BaseException:
            with stack, suppress(OSError):
                run.fail(error)
        if isinstance(error, Exception):
            self._tell(trial, error)

    def _tell(self, trial: Trial, error: Exception) -> None:
        self._batch.errors[trial.job.number] = in_words(error)
        text = "".join(traceback.format_exception(error))
        with suppress(OSError), self._batch.traceback.open("a", encoding="utf-8") as file:
            file.write(f"{trial.job.name}\n{text}\n")


def _stops(run: RecordedRun, received: Received) -> str | None:
    return run.stops(received())


def _tell_width(width: int) -> None:
    runs = f"{width} runs" if width > 1 else "one run"
    print(
        f"warning sweep.lanes: memory has room for {runs} at once. Set sweep.lanes={width}", file=sys.stderr, flush=True
    )
