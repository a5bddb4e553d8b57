"""mode=train: check, build, fit, record, follow, report."""

from __future__ import annotations

import shlex
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from signal import Signals

from runner import check
from runner.build import Experiment, build, hardware
from runner.compose import same_run, save_tree, saved_tree
from runner.config import Config, Invocation
from runner.errors import ConfigError, Problem
from runner.records import Record, RunResult
from runner.report.figures import curves
from runner.tracking.directory import CURVES, git_commit, new_run_directory, versions
from runner.tracking.follower import Follower, start_follower
from runner.tracking.jsonl import RecordWriter, find_result, read_records, write_result
from runner.tracking.terminal import Terminal
from runner.train.checkpoint import FOLDER, Checkpoints
from runner.train.interrupt import listen
from runner.train.loop import fit
from runner.train.state import TrainState


def run(config: Config, invocation: Invocation) -> RunResult:
    """Train as declared, in a new run directory or, when an interrupted run goes on unchanged, in its own.

    Raises:
        RunnerError: the run could not be made or could not be recorded; `result.json` says "failed".
    """
    experiment = build(config)
    directory, earlier = _directory(config, invocation, experiment.plan.steps)
    result = _first_result(config, invocation, experiment)
    if earlier is not None:
        result = replace(result, command=earlier.command, overrides=earlier.overrides)
    save_tree(invocation.tree, directory)
    write_result(directory, result)
    terminal = Terminal(experiment.plan.steps)
    for text in check.warnings(config):
        terminal.warn(text)
    terminal.start(_headline(result, experiment, directory))
    uri = config.tracking.uri
    follower = start_follower(directory, uri=uri) if uri is not None else None
    seconds_before = earlier.seconds if earlier is not None else 0.0
    started = time.monotonic()
    try:
        state, signal = _train(config, experiment, directory, terminal)
    except BaseException as error:
        result = replace(
            result, status="failed", verdict=f"failed: {_one_line(error)}", seconds=time.monotonic() - started
        )
        _save_failure(directory, result)
        if follower is not None:
            follower.finish(config.tracking.wait_seconds)
        print(_shown(directory), flush=True)
        raise
    seconds = seconds_before + time.monotonic() - started
    result = _final_result(result, state, seconds, signal)
    return _finish(config, result, directory, follower, terminal)


def _train(
    config: Config, experiment: Experiment, directory: Path, terminal: Terminal
) -> tuple[TrainState, Signals | None]:
    """Call `fit` with everything that listens to it."""
    resume = config.resume
    source = Path(resume.source) / FOLDER / f"{resume.checkpoint}.pt" if resume.source is not None else None
    with listen() as received, RecordWriter(directory) as writer:

        def on_record(record: Record) -> None:
            writer.write(record)
            terminal.show(record)

        def interrupted() -> str | None:
            signal = received()
            return signal.name if signal is not None else None

        state = fit(
            experiment.task,
            experiment.model,
            experiment.optimizer,
            experiment.schedules,
            plan=experiment.plan,
            watch=experiment.watch,
            checkpoints=Checkpoints(directory, source=source, before_save=writer.flush),
            on_record=on_record,
            interrupted=interrupted,
        )
        return state, received()


def _directory(config: Config, invocation: Invocation, steps: int) -> tuple[Path, RunResult | None]:
    """Return where to write, and the result of the run that goes on there, if one does."""
    source = config.resume.source
    experiment = config.name or invocation.choices["task"]
    if source is None:
        return new_run_directory(invocation.directory, experiment), None
    directory = Path(source)
    saved, earlier = saved_tree(directory), find_result(directory)
    if saved is None or earlier is None or not same_run(invocation.tree, saved):
        return new_run_directory(invocation.directory, experiment), None
    if earlier.steps >= steps and config.resume.checkpoint == "last":
        rule = f"must be a run with steps left, got {source!r} with {earlier.steps} of {steps} made"
        raise ConfigError([Problem("resume.from", rule, "Set a longer train.duration to go on")])
    return directory, earlier


def _first_result(config: Config, invocation: Invocation, experiment: Experiment) -> RunResult:
    """Return what is known before the first step."""
    choices, optimizer = invocation.choices, config.optimizer
    typed = any(text.lstrip("+").startswith("optimizer.lr=") for text in invocation.overrides)
    tags = {group: choices[group] for group in ("task", "optimizer", "schedule", "warmup")}
    tags |= {"sweep": invocation.sweep} if invocation.sweep is not None else {}
    name = config.name or choices["task"]
    return RunResult(
        mode="train",
        status="running",
        verdict="running",
        title=f"{choices['optimizer']} lr={optimizer.lr:g} {choices['schedule']} w{experiment.warmup_steps}",
        experiment=name,
        command=shlex.join(["python", "-m", "runner", *invocation.overrides]),
        seed=config.seed,
        overrides=invocation.overrides,
        choices={group: option for group, option in choices.items() if not group.startswith("hydra")},
        tags={**tags, **{key: str(value) for key, value in config.tags.items()}},
        planned_steps=experiment.plan.steps,
        learning_rate={
            "optimizer.lr": optimizer.lr,
            "from": "command line" if typed else f"conf/optimizer/{choices['optimizer']}.yaml",
            "regime": config.task.regime,
            "typical": optimizer.typical.model_dump() if optimizer.typical is not None else None,
        },
        dataset={
            "name": choices["task"],
            "examples": dict(experiment.task.examples),
            "digest": experiment.task.digest,
        },
        versions={**versions(), **hardware(experiment.plan)},
        commit=git_commit(invocation.directory),
    )


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
        seconds=round(seconds, 3),
        signal=int(signal) if signal is not None and state.status == "interrupted" else None,
    )


def _finish(
    config: Config, result: RunResult, directory: Path, follower: Follower | None, terminal: Terminal
) -> RunResult:
    """Write result and picture, let the follower send the rest, print the verdict."""
    write_result(directory, result)
    notes = _advice(config, result, directory)
    try:
        curves(read_records(directory), directory / CURVES, title=result.title, verdict=result.verdict)
    except (OSError, ValueError) as error:
        notes.append(f"no picture: {_one_line(error)}")
    if follower is not None:
        result = replace(result, mlflow_run_id=follower.finish(config.tracking.wait_seconds))
        write_result(directory, result)
        if follower.delivered:
            notes.append("curves: make ui, or python -m runner mode=ui")
        else:
            notes.append(f"not all sent to MLflow; later: python -m runner mode=upload source={_shown(directory)}")
    terminal.end(result, notes)
    print(_shown(directory), flush=True)
    return result


def _advice(config: Config, result: RunResult, directory: Path) -> list[str]:
    if result.status == "diverged":
        lower = shlex.join(
            ["python", "-m", "runner", *_without_lr(result.overrides), f"optimizer.lr={config.optimizer.lr / 10:g}"]
        )
        return [f"try a learning rate ten times lower: {lower}"]
    if result.status == "interrupted" or result.steps < result.planned_steps:
        return [f"go on with: python -m runner resume.from={_shown(directory)}"]
    return []


def _without_lr(overrides: tuple[str, ...]) -> list[str]:
    return [text for text in overrides if not text.lstrip("+").startswith("optimizer.lr=")]


def _headline(result: RunResult, experiment: Experiment, directory: Path) -> str:
    parameters = sum(parameter.numel() for parameter in experiment.model.parameters())
    return (
        f"{result.experiment}: {result.title}, {experiment.plan.steps:,} steps, {parameters:,} parameters, "
        f"{result.versions['device']}"
    )


def _shown(directory: Path) -> str:
    """Return a path as short as it can be pasted here."""
    try:
        return str(directory.relative_to(Path.cwd()))
    except ValueError:
        return str(directory)


def _one_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _save_failure(directory: Path, result: RunResult) -> None:
    """Keep what can be kept; the disk may be what failed."""
    try:
        write_result(directory, result)
        (directory / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
    except OSError as error:
        print(f"warning {directory}: result.json could not be written ({error.strerror})", file=sys.stderr)
