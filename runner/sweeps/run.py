"""A sweep from end to end: expand, check everything, launch, collect, tell."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig

from runner.compose import page_of
from runner.errors import SweepError, in_words
from runner.job import run
from runner.sweeps.check import (
    CheckedJob,
    Point,
    check_all,
    check_job,
    expand,
    go_on,
    rest_of,
    unique,
)
from runner.sweeps.course import Launch, carry_out, common_name, find_gpus, job_of, new_sweep
from runner.sweeps.launch import (
    Share,
    divide_cores,
    make_launcher,
    settle,
)
from runner.sweeps.place import alone, new_directory, reopened
from runner.sweeps.resume import KEY, resumed_directory
from runner.sweeps.worker import run_in_sweep
from runner.tracking.sweep_file import Job, JobState, Launchable, changed
from runner.tracking.sweep_runs import SweepRuns

_MANY_JOBS = 200  # checking them takes 10 s and more


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

    def again(one: Launchable, state: JobState) -> Launchable:
        return go_on(one, state, compose, page)

    if directory is not None:
        with reopened(directory) as runs:
            sweep = runs.sweep
            changes = [text for text in arguments if sweep.may_change(text)]
            jobs = rest_of(sweep, runs.states(), compose, changes=changes)
            words = jobs[0].overrides if jobs else changed(sweep.jobs[0].overrides, changes)
            first = check_job(Point(words, {}), compose, sweep.page)
            divide_cores(config, len(jobs))
            page = sweep.page
            launcher = make_launcher(context, config, run_in_sweep)
            carry_out(Launch(sweep, jobs, runs, first.config, again), directory, launcher, page=config, most=most)
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
    with alone(directory):
        sweep = new_sweep(_jobs(checked_jobs, threads), directory, page)
        jobs = [Launchable(job, job.overrides) for job in sweep.jobs]
        launcher = make_launcher(context, config, run_in_sweep)
        launch = Launch(sweep, jobs, SweepRuns(sweep, Path.cwd()), first.config, again)
        carry_out(launch, directory, launcher, page=config, most=most)


def _jobs(jobs: Sequence[CheckedJob], threads: int | None) -> list[Job]:
    """Return the jobs of a sweep; all its runs share one experiment, unless they are given names."""
    common = common_name(job.experiment for job in jobs) if all(job.config.name is None for job in jobs) else None
    share = Share(threads, find_gpus())
    return [
        job_of(job, number, experiment=common or job.experiment, share=share)
        for number, job in enumerate(jobs, start=1)
    ]


def _run_plain(jobs: Sequence[CheckedJob], *, launcher: Launcher, config: DictConfig) -> None:
    """Run jobs that do not train, one after another; each prints what it has to say.

    Raises:
        SweepError: one of them failed; with exit code 3 where all have that one.
    """
    settle(config, Path("."))
    failed, codes = list[str](), set[int]()
    for number, job in enumerate(jobs, start=1):
        if len(jobs) > 1:
            print(f"job {number} of {len(jobs)}: {job.point.name}", flush=True)
        [returned] = launcher.launch([list(job.point.overrides)], initial_job_idx=number - 1)
        if isinstance(error := returned._return_value, Exception):
            failed.append(f"job {number} of {len(jobs)} ({job.point.name}) failed: {in_words(error)}")
            codes.add(getattr(error, "exit_code", 1))
    if failed:
        raise SweepError("\n".join(failed), exit_code=3 if codes == {3} and len(failed) == len(jobs) else 1)
    if len(jobs) > 1 and all(job.config.mode.schedules_only for job in jobs):
        _show_side_by_side(jobs)


def _show_side_by_side(jobs: Sequence[CheckedJob]) -> None:
    """Show the schedules of all jobs in one table and one picture, named by what varies."""
    from runner.modes.preview import show  # not for training

    keys = {key for job in jobs for key in job.point.varied}
    names = [next(iter(job.point.varied.values())) if len(keys) == 1 else job.point.name for job in jobs]
    if not jobs[0].config.quiet:
        print("side by side:", flush=True)
    name = common_name(job.experiment for job in jobs)
    pages = dict(zip(names, (job.config for job in jobs), strict=True))
    show(pages, experiment=name, directory=jobs[0].config.preview.directory)
