"""A sweep from end to end: expand, check everything, launch, collect, tell."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from runner.advice import PROGRAM
from runner.compose import overrides_of, page_of, quoted
from runner.config import Tracking
from runner.errors import ConfigError, Problem, RunnerError, SweepError, in_words
from runner.job import Ended, run, run_in_sweep
from runner.sweeps.check import CheckedJob, Compose, Point, check_all, check_job, expand, unique
from runner.sweeps.end import finish
from runner.sweeps.resume import KEY, jobs_left, read_resumed, refuse_if_alive, resumed_directory
from runner.sweeps.signals import caught
from runner.tracking.directory import SWEEP
from runner.tracking.lock import alone_in
from runner.tracking.stderr import gathered_stderr
from runner.tracking.sweep_file import STOP, Job, Sweep, write_sweep
from runner.tracking.sweep_runs import SweepRuns, job_errors
from runner.tracking.sweep_table import SweepTable

_MANY_JOBS = 200  # checking them takes 10 s and more
_MULTIRUN = "multirun.yaml"
_NAME_LENGTH = 100
_ALONE = "a sweep that no other process is running"


@dataclass(frozen=True)
class _Launch:
    """What is to run: the sweep, the jobs of it that are left with their overrides, and how to tell of it."""

    sweep: Sweep
    jobs: list[tuple[Job, tuple[str, ...]]]
    tracking: Tracking
    quiet: bool


def run_sweep(
    arguments: list[str], *, context: HydraContext, config: DictConfig, max_batch_size: int | None = None
) -> None:
    """Run a grid, or what is missing of an earlier one.

    Args:
        arguments: overrides, without Hydra's own.
        context: Hydra's.
        config: the page without the overrides that vary.
        max_batch_size: most jobs that are handed to the launcher at once; None for all.
    Raises:
        ConfigError: a job is refused; nothing has started and nothing is written.
        SweepError: no job finished, or a signal ended it.
    """
    directory = resumed_directory(arguments)
    arguments = [text for text in arguments if not text.startswith(f"{KEY}=")]

    def compose(overrides: Sequence[str]) -> DictConfig:
        return context.config_loader.load_sweep_config(config, list(overrides))

    page = page_of(sys.argv[1:])
    if directory is not None:
        with alone_in(directory, key=KEY, what=_ALONE):
            runs = SweepRuns(sweep := read_resumed(directory), Path.cwd())
            refuse_if_alive(directory, runs.directories())
            launch = _rest(sweep, runs, compose)
            _divide_cores(config, len(launch.jobs))
            launcher = _launcher(context, config, run_in_sweep)
            _run(launch, runs, directory, launcher=launcher, config=config, max_batch_size=max_batch_size)
        return
    points = expand(arguments, context.config_loader)
    if len(points) > _MANY_JOBS:
        print(f"checking {len(points):,} jobs", file=sys.stderr)
    checked_jobs, notes = unique(check_all(points, compose, page))
    for note in notes:
        print(f"warning sweep: {note}", file=sys.stderr)
    threads = _divide_cores(config, len(checked_jobs))
    if not checked_jobs[0].config.mode.trains:
        _run_plain(checked_jobs, launcher=_launcher(context, config, run), config=config)
        return
    launcher = _launcher(context, config, run_in_sweep)
    directory = _new_directory(config)
    with alone_in(directory, key=KEY, what=_ALONE):
        sweep = _sweep(checked_jobs, directory, page, threads)
        first = checked_jobs[0].config
        launch = _Launch(sweep, [(job, job.overrides) for job in sweep.jobs], first.tracking, first.quiet)
        runs = SweepRuns(sweep, Path.cwd())
        _run(launch, runs, directory, launcher=launcher, config=config, max_batch_size=max_batch_size)


def _sweep(jobs: Sequence[CheckedJob], directory: Path, page: tuple[str, ...], threads: int | None) -> Sweep:
    """Return what is written down of a new sweep; all its runs share one experiment."""
    names = list(dict.fromkeys(job.experiment for job in jobs))
    common = "+".join(names)[:_NAME_LENGTH] if all(job.config.name is None for job in jobs) else None
    found = []
    for number, job in enumerate(jobs, start=1):
        overrides = job.point.overrides
        if len(names) > 1 and common is not None:
            overrides = (*overrides, f"name={quoted(common)}")
        if threads is not None and job.config.train.threads is None:
            overrides = (*overrides, f"train.threads={threads}")
        experiment = common or job.experiment
        found.append(Job(number, overrides, job.point.varied, experiment, job.config.optimizer.lr, job.config.seed))
    given = tuple(overrides_of(sys.argv[1:]))
    command = shlex.join([*PROGRAM, "-m", *page, *given])
    launched_from = os.path.relpath(Path.cwd(), directory)
    return Sweep(directory.name, command, page, given, tuple(found), launched_from)


def _rest(sweep: Sweep, runs: SweepRuns, compose: Compose) -> _Launch:
    """Return what is left of a sweep; an interrupted run goes on where it can, and else starts afresh."""
    jobs: list[tuple[Job, tuple[str, ...]]] = []
    fresh: list[Job] = []
    for job, source in jobs_left(sweep, runs.states()):
        goes_on = (*job.overrides, f"resume.from={quoted(source)}") if source is not None else None
        try:
            if goes_on is not None:
                check_job(Point(goes_on, job.varied), compose, sweep.page)
        except ConfigError:  # its checkpoint is damaged, or has no step left
            goes_on = None
        if goes_on is None:
            fresh.append(job)
        jobs.append((job, goes_on or job.overrides))
    check_all([Point(job.overrides, job.varied) for job in fresh], compose, sweep.page)
    first = check_job(Point(sweep.jobs[0].overrides, {}), compose, sweep.page)
    return _Launch(sweep, jobs, first.config.tracking, first.config.quiet)


def _run(
    launch: _Launch,
    runs: SweepRuns,
    directory: Path,
    *,
    launcher: Launcher,
    config: DictConfig,
    max_batch_size: int | None,
) -> None:
    """Launch the jobs under one table, and finish the sweep with what came of all of them."""
    sweep, stop = launch.sweep, directory / STOP
    stop.unlink(missing_ok=True)
    write_sweep(directory, sweep, runs.states(), status="running")
    _settle(config, directory)
    OmegaConf.save(config, directory / _MULTIRUN)
    errors: dict[int, str] = {}
    with (
        gathered_stderr(directory / "stderr.log") as stderr,
        SweepTable(sweep, runs.states, stderr=stderr, quiet=launch.quiet),
        caught(stop, has_workers=_is_joblib(config)),
    ):
        for batch in _batches(launch.jobs, config, max_batch_size):
            if stop.exists():
                break
            ended = _launch_batch(launcher, [overrides for _, overrides in batch], batch[0][0].number - 1)
            errors |= {job.number: end.error for (job, _), end in zip(batch, ended, strict=True) if end.error}
    states = job_errors(sweep.jobs, runs.states(is_over=True), errors)
    signal = Signals(int(stop.read_text(encoding="utf-8"))) if stop.exists() else None
    finish(directory, sweep, states, tracking=launch.tracking, signal=signal, quiet=launch.quiet)


def _run_plain(jobs: Sequence[CheckedJob], *, launcher: Launcher, config: DictConfig) -> None:
    """Run jobs that do not train, one after another; each prints what it has to say.

    Raises:
        SweepError: one of them failed.
    """
    _settle(config, Path("."))
    failed = []
    for number, job in enumerate(jobs, start=1):
        [returned] = launcher.launch([list(job.point.overrides)], initial_job_idx=number - 1)
        if isinstance(error := returned._return_value, Exception):
            failed.append(f"job {number} of {len(jobs)} ({job.point.name}) failed: {in_words(error)}")
    if failed:
        raise SweepError("\n".join(failed), exit_code=1)


def _launcher(context: HydraContext, config: DictConfig, task: TaskFunction) -> Launcher:
    return Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)


def _launch_batch(launcher: Launcher, overrides: Sequence[tuple[str, ...]], index: int) -> list[Ended]:
    """Launch some jobs; whatever happens to the launcher happens to them."""
    try:
        returned = launcher.launch([list(one) for one in overrides], initial_job_idx=index)
    except Exception as error:
        return [Ended(error=in_words(error))] * len(overrides)
    values = [one._return_value for one in returned]
    return [value if isinstance(value, Ended) else Ended(error=str(value)) for value in values]


def _batches(jobs: list[Any], config: DictConfig, max_batch_size: int | None) -> Iterator[list[Any]]:
    """Yield the jobs that are launched together: one by one where they run in this process."""
    is_basic = config.hydra.launcher._target_.endswith(".BasicLauncher")
    size = 1 if is_basic else max_batch_size or max(1, len(jobs))
    for start in range(0, len(jobs), size):
        yield jobs[start : start + size]


def _is_joblib(config: DictConfig) -> bool:
    return str(config.hydra.launcher._target_).endswith(".JoblibLauncher")


def _divide_cores(config: DictConfig, jobs: int) -> int | None:
    """Settle how many jobs run at once; return the threads for each, None when they run one by one.

    Raises:
        ConfigError: hydra.launcher.n_jobs is not a number of jobs that this machine can run.
    """
    if not _is_joblib(config):
        return None
    import joblib

    cores, wanted = int(joblib.cpu_count()), int(config.hydra.launcher.n_jobs)
    if not (wanted == -1 or 1 <= wanted <= cores):
        rule = f"must be -1 (all cores) or 1 to {cores}, the cores of this machine, got {wanted}"
        raise ConfigError([Problem("hydra.launcher.n_jobs", rule, "Set hydra.launcher.n_jobs=-1")])
    at_once = min(cores if wanted == -1 else wanted, max(1, jobs))
    config.hydra.launcher.n_jobs = at_once
    return max(1, cores // at_once)


def _settle(config: DictConfig, directory: Path) -> None:
    """Tell the launcher, and the jobs wherever they run, where the sweep lies and to keep quiet."""
    with open_dict(config):
        config.hydra.sweep.dir = str(directory)
        config.hydra.hydra_logging = {
            "version": 1,
            "root": {"level": "WARNING", "handlers": []},
            "disable_existing_loggers": False,
        }
        config.hydra.overrides.hydra += [f"hydra.sweep.dir={quoted(str(directory))}", "hydra/job_logging=none"]


def _new_directory(config: DictConfig) -> Path:
    directory = Path(str(config.hydra.sweep.dir))
    if (directory / SWEEP).exists():
        rule = f"must be a directory without a sweep, got {str(directory)!r}"
        fix = f"Set {KEY}={directory} to go on with it"
        raise ConfigError([Problem("hydra.sweep.dir", rule, fix)])
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunnerError(
            f"{directory}: cannot be made ({error.strerror}). Run from a directory you may write to."
        ) from None
    return directory
