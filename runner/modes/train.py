"""mode=train: check, build, fit, record, follow, report."""

from __future__ import annotations

import shlex
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from signal import Signals
from typing import Any

from runner import lint
from runner.bracket import cost, meter_of, upper_bracket
from runner.build import Experiment, build, checkpoint_source, hardware
from runner.commands import PROGRAM, changed
from runner.compose import save_tree
from runner.config import Config, Invocation
from runner.continue_run import as_saved_today, same_run, saved_tree
from runner.diagnosis.curve import Curve, Known
from runner.diagnosis.diagnose import diagnose
from runner.diagnosis.lines import suggestion_lines
from runner.diagnosis.verdict import to_json
from runner.known import known_of_page
from runner.optim.readout import lr_rules
from runner.provenance import lr_provenance
from runner.rates import plan_of_experiment
from runner.records import Record, RunResult, StepRecord
from runner.remedies.scale_lr import changes
from runner.remedies.tally import tally
from runner.report.figures import curves
from runner.tracking.address import shown
from runner.tracking.directory import CURVES, TRACEBACK, git_commit, new_run_directory, pasteable, versions
from runner.tracking.follower import Follower, start_follower
from runner.tracking.jsonl import RecordWriter, find_result, read_records, write_result
from runner.tracking.lock import alone_in
from runner.tracking.notify import Notifier
from runner.tracking.terminal import Terminal
from runner.train.checkpoint import Checkpoints
from runner.train.interrupt import listen
from runner.train.loop import fit
from runner.train.state import TrainState


def run(config: Config, invocation: Invocation) -> RunResult:
    """Train as declared, in a new run directory or, when an interrupted run goes on unchanged, in its own.

    Raises:
        RunnerError: the run could not be made or could not be recorded; `result.json` says "failed".
    """
    experiment = build(config)
    bracket = upper_bracket(config, experiment)
    directory, earlier = _directory(config, invocation)
    with alone_in(directory, key="resume.from", what="a run that no other process is writing"):
        result = _first_result(config, invocation, experiment)
        if bracket is not None:
            result = replace(result, learning_rate={**result.learning_rate, **bracket.as_dict()})
        if earlier is None:
            save_tree(invocation.tree, directory)
        else:
            result = replace(earlier, status="running", verdict="running", versions=result.versions, signal=None)
        with RecordWriter(directory) as writer:
            write_result(directory, result)
            checkpoints = Checkpoints(
                directory,
                source=checkpoint_source(config.resume),
                continues=earlier is not None,
                before_save=writer.sync,
            )
            return _train(config, invocation.tree, experiment, checkpoints, result, writer)


def _train(
    config: Config,
    tree: Mapping[str, Any],
    experiment: Experiment,
    checkpoints: Checkpoints,
    result: RunResult,
    writer: RecordWriter,
) -> RunResult:
    """Call `fit` with everything that listens to it, and tell the end to everybody."""
    directory = writer.path.parent
    clock, made = _Clock(result.seconds), result.steps
    with closing(Terminal(experiment.plan.steps, quiet=config.quiet)) as terminal, listen() as received:
        for text in [*lint.warnings(config, plan_of_experiment(experiment)), *experiment.remarks]:
            terminal.warn(text)
        terminal.start(_headline(config, result, experiment))
        notifier = Notifier(config.notify.command, directory, title=result.title, warn=terminal.warn)
        uri = config.tracking.uri
        follower = start_follower(directory, uri=uri, warn=terminal.warn) if uri is not None else None

        def on_record(record: Record) -> None:
            nonlocal made
            writer.write(record)
            terminal.show(record)
            notifier.show(record)
            made = record.step

        try:
            state = fit(
                **experiment.parts(),
                checkpoints=checkpoints,
                on_record=on_record,
                interrupted=lambda: signal.name if (signal := received()) is not None else None,
            )
        except BaseException as error:
            result = _failed(replace(result, steps=made, seconds=clock.seconds()), error)
            terminal.close()
            _save_failure(directory, result)
            notifier.end(result)
            if follower is not None:
                follower.finish(config.tracking.wait_seconds)
            print(pasteable(directory), flush=True)
            raise
        result = _final_result(result, state, clock.seconds(), received())
        if (meter := meter_of(experiment.meters)) is not None:
            result = replace(result, seconds_measuring=round(meter.seconds, 3))
        terminal.close(steps=result.steps)
        writer.flush()
        write_result(directory, result)
        notifier.end(result)
        spent = cost(experiment.meters, result.seconds)
        known = _known(tree, result, directory)
        result = _finish(config, known, result, directory, follower, terminal, spent=spent)
        return replace(result, signal=received())


class _Clock:
    """Seconds of training, those of earlier launches of the same run included."""

    def __init__(self, seconds_before: float) -> None:
        self._started = time.monotonic() - seconds_before

    def seconds(self) -> float:
        """Return the seconds so far."""
        return round(time.monotonic() - self._started, 3)


def _directory(config: Config, invocation: Invocation) -> tuple[Path, RunResult | None]:
    """Return where to write, and the result of the run that goes on there, if one does."""
    source = config.resume.source
    if source is not None:
        directory = Path(source).absolute()
        saved, earlier = saved_tree(directory), find_result(directory)
        if saved is not None and earlier is not None:
            saved = as_saved_today(saved, page=invocation.page)
            if same_run(invocation.tree, saved):
                return directory, earlier
    return new_run_directory(invocation.directory, config.name or invocation.choices["task"]), None


def _first_result(config: Config, invocation: Invocation, experiment: Experiment) -> RunResult:
    """Return what is known before the first step."""
    choices = invocation.choices
    learning_rate = lr_provenance(config, invocation, experiment.optimizer.param_groups)
    tags = {group: choices[group] for group in ("task", "optimizer", "schedule", "warmup")}
    tags |= {"sweep": invocation.sweep} if invocation.sweep is not None else {}
    return RunResult(
        mode="train",
        status="running",
        verdict="running",
        title=(
            f"{choices['optimizer']} lr={learning_rate['used']:g} {choices['schedule']} "
            f"w{experiment.declared.warmup.steps}"
        ),
        experiment=config.name or choices["task"],
        command=shlex.join([*PROGRAM, *invocation.page, *invocation.overrides]),
        seed=config.seed,
        overrides=invocation.overrides,
        choices={group: option for group, option in choices.items() if not group.startswith("hydra")},
        tags={**tags, **{key: str(value) for key, value in config.tags.items()}},
        planned_steps=experiment.plan.steps,
        learning_rate={**learning_rate, "rules": list(lr_rules(experiment.optimizer))},
        initial_weights=asdict(experiment.initial_weights) if experiment.initial_weights is not None else {},
        dataset={
            "name": choices["task"],
            "examples": dict(experiment.task.examples),
            "digest": experiment.task.digest,
            "prior_entropy": experiment.task.prior_entropy,
        },
        versions={**versions(), **hardware(experiment.plan)},
        commit=git_commit(invocation.directory),
    )


def _failed(result: RunResult, error: BaseException) -> RunResult:
    if isinstance(error, KeyboardInterrupt):
        return replace(result, status="interrupted", verdict=f"interrupted at step {result.steps}")
    return replace(result, status="failed", verdict=f"failed at step {result.steps}: {_one_line(error)}")


def _final_result(result: RunResult, state: TrainState, seconds: float, signal: Signals | None) -> RunResult:
    final = {"train/loss": state.last_loss, **{f"val/{name}": value for name, value in state.last_eval.items()}}
    return replace(
        result,
        status=state.status,
        verdict=state.verdict,
        steps=state.step,
        final=final,
        best=state.best,
        alarms=state.alarms,
        actions=len(state.actions),
        interventions=tally(state.actions, steps=state.step, planned_steps=result.planned_steps),
        learning_rate={**result.learning_rate, **changes(state.actions, lr_scale=state.lr_scale_now)},
        stopped_by=asdict(state.alarm) if state.alarm is not None else None,
        seconds=seconds,
        signal=signal,
    )


def _finish(
    config: Config,
    known: Known,
    result: RunResult,
    directory: Path,
    follower: Follower | None,
    terminal: Terminal,
    *,
    spent: str,
) -> RunResult:
    """Diagnose, draw the picture, let the follower send the rest, print the verdict and what to try."""
    notes, losses = [spent] if spent else [], []
    try:
        records = list(read_records(directory))
        losses = [record.loss for record in records if isinstance(record, StepRecord)]
        diagnosis = diagnose(Curve.of_records(records, known))
        result = replace(result, diagnosis=to_json(diagnosis))
        write_result(directory, result)
        picture = directory / CURVES
        curves(records, picture, title=result.title, verdict=result.verdict, stretches=diagnosis.stretches)
    except (OSError, ValueError) as error:
        terminal.warn(f"no picture: {_one_line(error)}")
    if follower is not None:
        result = replace(result, mlflow_run_id=follower.finish(config.tracking.wait_seconds) or result.mlflow_run_id)
        write_result(directory, result)
        where = [f"tracking.uri={shown(str(config.tracking.uri))}"] if _chose_tracking(result) else []
        if follower.delivered:
            notes.append(f"curves: {shlex.join([*PROGRAM, 'mode=ui', *where])}")
        elif follower.is_sending:
            notes.append("still being sent to MLflow in the background")
        else:
            later = shlex.join([*PROGRAM, "mode=upload", f"source={pasteable(directory)}", *where])
            notes.append(f"not all sent to MLflow; later: {later}")
    advice = suggestion_lines(result.diagnosis, result.command) if result.diagnosis else []
    go_on = f"go on with: {changed(result.command, known.go_on)}"
    if known.go_on and go_on not in advice:  # a healed run has other advice, and a long list is cut
        advice.append(go_on)
    terminal.end(result, [*advice, *notes], losses=losses)
    print(pasteable(directory), flush=True)
    return result


def _known(tree: Mapping[str, Any], result: RunResult, directory: Path) -> Known:
    """Return what the page and the end tell about a run, for its diagnosis."""
    known = known_of_page(tree, result, directory=pasteable(directory))
    return replace(known, go_on=(*known.go_on, "train.max_seconds=null")) if result.is_out_of_time else known


def _chose_tracking(result: RunResult) -> bool:
    return any(text.startswith("tracking") for text in result.overrides)


def _headline(config: Config, result: RunResult, experiment: Experiment) -> str:
    parameters = sum(parameter.numel() for parameter in experiment.model.parameters())
    begin = [str(experiment.initial_weights)] if experiment.initial_weights is not None else []
    begin += [f"learning rate: {result.learning_rate['in_words']}"] if config.scaling.rule != "none" else []
    first = (
        f"{result.experiment}: {result.title}, {experiment.plan.steps:,} steps, {parameters:,} parameters, "
        f"{result.versions['device']}"
    )
    bracket = result.learning_rate.get("upper_bracket_in_words")
    end = [bracket] if bracket is not None else []
    return "\n".join([first, *begin, *result.learning_rate.get("rules", ()), *end])


def _one_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _save_failure(directory: Path, result: RunResult) -> None:
    """Keep what can be kept; the disk may be what failed."""
    try:
        write_result(directory, result)
        (directory / TRACEBACK).write_text(traceback.format_exc(), encoding="utf-8")
    except OSError as error:
        print(f"warning {directory}: result.json could not be written ({error.strerror})", file=sys.stderr)
