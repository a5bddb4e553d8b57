"""A training as a recorded run: directory, records, result, terminal, `notify.command`, MLflow, diagnosis, picture."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from signal import Signals
from typing import Any

from runner import lint
from runner.bracket import cost, meter_of, upper_bracket
from runner.build import Experiment, build, checkpoint_source
from runner.commands import PROGRAM, changed
from runner.config import Config, Invocation
from runner.diagnosis.curve import Curve, Known
from runner.diagnosis.diagnose import diagnose
from runner.diagnosis.lines import suggestion_lines
from runner.diagnosis.verdict import to_json
from runner.rates import plan_of_experiment
from runner.records import EvalRecord, Record, RunResult, StepRecord
from runner.tracking.address import shown
from runner.tracking.directory import pasteable
from runner.tracking.follower import Follower, start_follower
from runner.tracking.jsonl import RecordWriter, read_records, write_result
from runner.tracking.lock import alone_in
from runner.tracking.notify import Notifier
from runner.tracking.terminal import Terminal
from runner.train.checkpoint import Checkpoints
from runner.train.interrupt import listen
from runner.train.loop import fit
from runner.train.state import TrainState
from runner.trials.first_result import first_result, headline, run_directory
from runner.trials.last_result import (
    chose_tracking,
    failed_result,
    final_result,
    known_at_end,
    one_line,
    save_failure,
)
from runner.trials.pictures import Picture, draw
from runner.trials.save_page import save_page

Prune = Callable[[int, int, Mapping[str, float]], bool]
"""updates made, updates declared, metrics of the val split -> whether the run is given up"""
Draw = Callable[[Picture, Sequence[Record]], None]
Follow = Callable[..., Follower]  # as `start_follower`
Now = Callable[[], float]


def train(
    config: Config,
    invocation: Invocation,
    *,
    prune: Prune | None = None,
    draw: Draw = draw,
    follow: Follow = start_follower,
) -> RunResult:
    """Train as declared, in a new run directory or, when an interrupted run goes on unchanged, in its own.

    Args:
        config: checked.
        invocation: how the program was called.
        prune: is asked at each evaluation; a run that is given up ends as "pruned", saved.
        draw: draws its picture.
        follow: starts to send its records.
    Raises:
        RunnerError: the run could not be made or could not be recorded; `result.json` says "failed".
    """
    experiment = build(config)
    parts = recorded(config, invocation, experiment, prune=prune, draw=draw, follow=follow)
    with parts as run, listen() as received:
        run.begin()
        try:
            state = fit(
                **experiment.parts(),
                checkpoints=run.checkpoints,
                on_record=run.on_record,
                interrupted=lambda: run.stops(received()),
            )
        except BaseException as error:
            run.fail(error)
            raise
        return run.end(state, received)


@contextmanager
def recorded(
    config: Config,
    invocation: Invocation,
    experiment: Experiment,
    *,
    prune: Prune | None = None,
    draw: Draw = draw,
    follow: Follow = start_follower,
    now: Now = time.monotonic,
) -> Iterator[RecordedRun]:
    """Make the directory of a run, or take that of the run that goes on, and keep other processes out of it.

    Args:
        config: checked.
        invocation: how the program was called.
        experiment: what is trained.
        prune: is asked at each evaluation.
        draw: draws its picture.
        follow: starts to send its records.
        now: the seconds that its training is timed by.
    Raises:
        RunnerError: it cannot be made, or written, or its sharpness cannot be measured where that was asked for.
    """
    bracket = upper_bracket(config, experiment)
    result = first_result(config, invocation, experiment)
    if bracket is not None:
        result = replace(result, learning_rate={**result.learning_rate, **bracket.as_dict()})
    directory, earlier = run_directory(config, invocation)
    with alone_in(directory, key="resume.from", what="a run that no other process is writing"):
        if earlier is None:
            save_page(invocation.tree, directory)
        else:
            result = replace(earlier, status="running", verdict="running", versions=result.versions, signal=None)
        with (
            RecordWriter(directory) as writer,
            closing(Terminal(experiment.plan.steps, quiet=config.quiet)) as terminal,
        ):
            write_result(directory, result)
            checkpoints = Checkpoints(
                directory,
                source=checkpoint_source(config.resume),
                continues=earlier is not None,
                before_save=writer.sync,
            )
            run = RecordedRun(config, invocation.tree, experiment, checkpoints, result, writer, terminal)
            run.prune, run.draw, run.follow, run.now = prune, draw, follow, now
            yield run


class RecordedRun:
    """Everything that listens to a training, and is told its end. Made by `recorded`.

    Call `begin`, hand `checkpoints` and `on_record` to whatever trains, then call `end` or `fail`.

    Attributes:
        directory: of the run.
        checkpoints: where to save, and what to go on from.
        result: as far as it is known.
        prune, draw, follow, now: as `recorded` takes them.
    """

    def __init__(
        self,
        config: Config,
        tree: Mapping[str, Any],
        experiment: Experiment,
        checkpoints: Checkpoints,
        result: RunResult,
        writer: RecordWriter,
        terminal: Terminal,
    ) -> None:
        self.directory = checkpoints.directory
        self.checkpoints = checkpoints
        self.result = result
        self._config = config
        self._tree = tree
        self._experiment = experiment
        self._writer = writer
        self._terminal = terminal
        self._made = result.steps
        self._is_pruned = False
        self.prune: Prune | None = None
        self.draw: Draw = draw
        self.follow: Follow = start_follower
        self.now: Now = time.monotonic

    def begin(self) -> None:
        """Say what is about to run, and start the clock and whoever follows the records."""
        self._clock = _Clock(self.result.seconds, self.now)
        warn, uri = self._terminal.warn, self._config.tracking.uri
        for text in [*lint.warnings(self._config, plan_of_experiment(self._experiment)), *self._experiment.remarks]:
            warn(text)
        self._terminal.start(headline(self._config, self.result, self._experiment))
        self._notifier = Notifier(self._config.notify.command, self.directory, title=self.result.title, warn=warn)
        self._follower = self.follow(self.directory, uri=uri, warn=warn) if uri is not None else None

    def on_record(self, record: Record) -> None:
        """Write one record, and show it to the terminal and to the command of the user."""
        self._writer.write(record)
        self._terminal.show(record)
        self._notifier.show(record)
        self._made = record.step
        if self.prune is not None and isinstance(record, EvalRecord) and record.split == "val":
            self._is_pruned = self._is_pruned or self.prune(record.step, self._experiment.plan.steps, record.metrics)

    def stops(self, signal: Signals | None) -> str | None:
        """Return why it ends after the step at hand, None where it does not."""
        return "a search" if self._is_pruned else signal.name if signal is not None else None

    def fail(self, error: BaseException) -> RunResult:
        """Tell everybody that an error ended the training."""
        self.result = failed_result(replace(self.result, steps=self._made, seconds=self._clock.seconds()), error)
        self._terminal.close()
        save_failure(self.directory, self.result)
        self._notifier.end(self.result)
        if self._follower is not None:
            self._follower.finish(self._config.tracking.wait_seconds)
        print(pasteable(self.directory), flush=True)
        return self.result

    def end(self, state: TrainState, received: Callable[[], Signals | None]) -> RunResult:
        """Tell the end to everybody, with a diagnosis, a picture, and what to try.

        Args:
            state: at the end.
            received: returns the signal that came in, if one did.
        """
        self.result = final_result(self.result, state, self._clock.seconds(), received())
        if self._is_pruned and self.result.status == "interrupted":
            self.result = replace(self.result, status="pruned", verdict=f"pruned at step {state.step}")
        meters = self._experiment.meters
        if (meter := meter_of(meters)) is not None:
            self.result = replace(self.result, seconds_measuring=round(meter.seconds, 3))
        self._terminal.close(steps=self.result.steps)
        self._writer.flush()
        write_result(self.directory, self.result)
        self._notifier.end(self.result)
        spent = cost(meters, self.result.seconds)
        known = known_at_end(self._tree, self.result, self.directory)
        losses = self._look_back(known)
        notes = [*([spent] if spent else []), *self._hand_over()]
        advice = suggestion_lines(self.result.diagnosis, self.result.command) if self.result.diagnosis else []
        go_on = f"go on with: {changed(self.result.command, known.go_on)}"
        if known.go_on and go_on not in advice:  # a healed run has other advice, and a long list is cut
            advice.append(go_on)
        self._terminal.end(self.result, [*advice, *notes], losses=losses)
        print(pasteable(self.directory), flush=True)
        self.result = replace(self.result, signal=received())
        return self.result

    def _look_back(self, known: Known) -> list[float]:
        """Diagnose the curve and draw it; return the training losses."""
        losses = list[float]()
        try:
            records = list(read_records(self.directory))
            losses = [record.loss for record in records if isinstance(record, StepRecord)]
            diagnosis = diagnose(Curve.of_records(records, known))
            result = self.result = replace(self.result, diagnosis=to_json(diagnosis))
            write_result(self.directory, result)
            self.draw(Picture(self.directory, result.title, result.verdict, diagnosis.stretches), records)
        except (OSError, ValueError) as error:
            self._terminal.warn(f"no picture: {one_line(error)}")
        return losses

    def _hand_over(self) -> list[str]:
        """Let the follower send the rest; return what to say of it."""
        follower, tracking = self._follower, self._config.tracking
        if follower is None:
            return []
        run_id = follower.finish(tracking.wait_seconds) or self.result.mlflow_run_id
        self.result = replace(self.result, mlflow_run_id=run_id)
        write_result(self.directory, self.result)
        where = [f"tracking.uri={shown(str(tracking.uri))}"] if chose_tracking(self.result) else []
        if follower.delivered:
            return [f"curves: {shlex.join([*PROGRAM, 'mode=ui', *where])}"]
        if follower.is_sending:
            return ["still being sent to MLflow in the background"]
        later = shlex.join([*PROGRAM, "mode=upload", f"source={pasteable(self.directory)}", *where])
        return [f"not all sent to MLflow; later: {later}"]


class _Clock:
    """Seconds of training, those of earlier launches of the same run included."""

    def __init__(self, seconds_before: float, now: Now) -> None:
        self._now = now
        self._started = now() - seconds_before

    def seconds(self) -> float:
        """Return the seconds so far."""
        return round(self._now() - self._started, 3)
