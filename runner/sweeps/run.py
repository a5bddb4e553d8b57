"""A sweep from end to end: expand, check everything, launch, collect, tell."""

from __future__ import annotations

import os
import secrets
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from runner.commands import PROGRAM
from runner.compose import overrides_of, page_of, quoted
from runner.config import Config
from runner.errors import SweepError, in_words
from runner.job import run
from runner.sweeps.check import (
    CheckedJob,
    Compose,
    Point,
    check_all,
    check_job,
    expand,
    go_on,
    rest_of,
    unique,
)
from runner.sweeps.end import finish
from runner.sweeps.launch import (
    batch_size,
    divide_cores,
    has_workers,
    launch_all,
    make_launcher,
    settle,
    shares,
)
from runner.sweeps.place import new_directory
from runner.sweeps.resume import KEY, read_resumed, refuse_if_alive, resumed_directory
from runner.sweeps.signals import caught, pass_on_to_loky
from runner.sweeps.worker import run_in_sweep
from runner.tracking.lock import alone_in
from runner.tracking.stderr import gathered_stderr
from runner.tracking.sweep_file import STOP, Job, JobState, Launchable, Sweep, changed, write_sweep
from runner.tracking.sweep_runs import KILLED, SweepRuns, with_errors
from runner.tracking.sweep_table import SweepTable

_MANY_JOBS = 200  # checking them takes 10 s and more
_MULTIRUN = "multirun.yaml"
_NAME_LENGTH = 100
_ALONE = "a sweep that no other process is running"


@dataclass(frozen=True)
class _Launch:
    """What is to run: the sweep, the jobs of it that are left, how far they are, and one configuration for all."""

    sweep: Sweep
    jobs: Sequence[Launchable]
    runs: SweepRuns
    config: Config


def run_sweep(arguments: list[str], *, context: HydraContext, config: DictConfig, most: int | None = None) -> None:
    """Run a grid, or what is missing of an earlier one.

    Args:
        arguments: overrides, without Hydra's own.
        context: Hydra's.
        config: the page without the overrides that vary.
        most: most jobs that are handed to the launcher at once; None for all.
    Raises:
        ConfigError: a job is refused; nothing has started and nothing is written.
        SweepError: no job finished, or a signal ended it.
    """
    directory = resumed_directory(arguments)
    arguments = [text for text in arguments if not text.startswith(f"{KEY}=")]

    def compose(overrides: Sequence[str]) -> DictConfig:
        return context.config_loader.load_sweep_config(config, list(overrides))

    if directory is not None:
        with alone_in(directory, key=KEY, what=_ALONE):
            runs = SweepRuns(sweep := read_resumed(directory), Path.cwd())
            refuse_if_alive(directory, runs.directories())
            changes = [text for text in arguments if sweep.may_change(text)]
            jobs = rest_of(sweep, runs.states(), compose, changes=changes)
            words = jobs[0].overrides if jobs else changed(sweep.jobs[0].overrides, changes)
            first = check_job(Point(words, {}), compose, sweep.page)
            divide_cores(config, len(jobs))
            _run(_Launch(sweep, jobs, runs, first.config), directory, compose, context=context, page=config, most=most)
        return
    page = page_of(sys.argv[1:])
    points = expand(arguments, context.config_loader)
    if len(points) > _MANY_JOBS:
        print(f"checking {len(points):,} jobs", file=sys.stderr)
    checked_jobs, notes = unique(check_all(points, compose, page))
    for note in notes:
        print(f"warning sweep: {note}", file=sys.stderr)
    threads = divide_cores(config, len(checked_jobs))
    first = checked_jobs[0]
    if not first.config.mode.makes_run:
        _run_plain(checked_jobs, launcher=make_launcher(context, config, run), config=config)
        return
    directory = new_directory(Path(str(config.hydra.sweep.dir)))
    with alone_in(directory, key=KEY, what=_ALONE):
        sweep = _sweep(checked_jobs, directory, page, threads)
        jobs = [Launchable(job, job.overrides) for job in sweep.jobs]
        launch = _Launch(sweep, jobs, SweepRuns(sweep, Path.cwd()), first.config)
        _run(launch, directory, compose, context=context, page=config, most=most)


def _sweep(jobs: Sequence[CheckedJob], directory: Path, page: tuple[str, ...], threads: int | None) -> Sweep:
    """Return what is written down of a new sweep; all its runs share one experiment."""
    from runner.build import available_devices  # imports torch

    names = list(dict.fromkeys(job.experiment for job in jobs))
    common = "+".join(names)[:_NAME_LENGTH] if all(job.config.name is None for job in jobs) else None
    found, gpus = list[Job](), [device for device in available_devices() if device.startswith("cuda")]
    for number, job in enumerate(jobs, start=1):
        overrides = job.point.overrides
        if len(names) > 1 and common is not None:
            overrides = (*overrides, f"name={quoted(common)}")
        overrides = (*overrides, *shares(job.config.train, number, threads=threads, gpus=gpus))
        experiment = common or job.experiment
        found.append(Job(number, overrides, job.point.varied, experiment, job.config.optimizer.lr, job.config.seed))
    given = tuple(overrides_of(sys.argv[1:]))
    command = shlex.join([*PROGRAM, "-m", *page, *given])
    launched_from = os.path.relpath(Path.cwd(), directory)
    name = f"{directory.name}-{secrets.token_hex(2)}"  # a directory may be used again
    return Sweep(name, command, page, given, tuple(found), launched_from)


def _run(
    launch: _Launch, directory: Path, compose: Compose, *, context: HydraContext, page: DictConfig, most: int | None
) -> None:
    """Launch the jobs under one table, and finish the sweep with what came of all of them."""
    sweep, runs, config, stop = launch.sweep, launch.runs, launch.config, directory / STOP
    launcher = make_launcher(context, page, run_in_sweep)
    stop.unlink(missing_ok=True)
    write_sweep(directory, sweep, runs.states(), status="running")
    settle(page, directory)
    OmegaConf.save(page, directory / _MULTIRUN)
    errors: dict[int, str] = {}

    def states(*, is_over: bool = False) -> list[JobState]:
        return with_errors(runs.states(is_over=is_over), runs.begun(), dict(errors))

    def undone(batch: Sequence[Launchable]) -> tuple[list[Launchable], list[Launchable]]:
        now, begun = runs.states(is_over=True), runs.begun()
        killed = [one for one in batch if one.job.number in begun and now[one.job.number - 1].verdict == KILLED]
        fresh = [one for one in batch if one.job.number not in begun]
        return [go_on(one, now[one.job.number - 1], compose, sweep.page) for one in killed], fresh

    with (
        gathered_stderr(directory / "stderr.log") as stderr,
        SweepTable(sweep, states, stderr=stderr, quiet=config.quiet),
        caught(stop, pass_on=pass_on_to_loky if has_workers(page) else None),
    ):
        size = batch_size(page, len(launch.jobs), most)
        launch_all(launch.jobs, launcher, size=size, undone=undone, is_stopped=stop.exists, errors=errors)
    signal = Signals(int(stop.read_text(encoding="utf-8"))) if stop.exists() else None
    finish(directory, sweep, states(is_over=True), tracking=config.tracking, signal=signal, quiet=config.quiet)


def _run_plain(jobs: Sequence[CheckedJob], *, launcher: Launcher, config: DictConfig) -> None:
    """Run jobs that do not train, one after another; each prints what it has to say.

    Raises:
        SweepError: one of them failed.
    """
    settle(config, Path("."))
    failed = []
    for number, job in enumerate(jobs, start=1):
        if len(jobs) > 1:
            print(f"job {number} of {len(jobs)}: {job.point.name}", flush=True)
        [returned] = launcher.launch([list(job.point.overrides)], initial_job_idx=number - 1)
        if isinstance(error := returned._return_value, Exception):
            failed.append(f"job {number} of {len(jobs)} ({job.point.name}) failed: {in_words(error)}")
    if failed:
        raise SweepError("\n".join(failed), exit_code=1)
    if len(jobs) > 1 and all(job.config.mode.schedules_only for job in jobs):
        _show_side_by_side(jobs)


def _show_side_by_side(jobs: Sequence[CheckedJob]) -> None:
    """Show the schedules of all jobs in one table and one picture, named by what varies."""
    from runner.modes.preview import show  # not for training

    keys = {key for job in jobs for key in job.point.varied}
    names = [next(iter(job.point.varied.values())) if len(keys) == 1 else job.point.name for job in jobs]
    if not jobs[0].config.quiet:
        print("side by side:", flush=True)
    experiments = dict.fromkeys(job.experiment for job in jobs)
    pages = dict(zip(names, (job.config for job in jobs), strict=True))
    show(pages, experiment="+".join(experiments)[:_NAME_LENGTH], directory=jobs[0].config.preview.directory)
