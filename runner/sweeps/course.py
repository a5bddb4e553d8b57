"""The course of a multirun: its jobs launched under one table, in one round or many, and what came of all of them."""

from __future__ import annotations

import os
import secrets
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING

from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from runner.commands import PROGRAM
from runner.compose import overrides_of, quoted
from runner.config import Config
from runner.search.secret import without_password
from runner.sweeps.launch import Share, batch_size, has_workers, launch_all, settle
from runner.sweeps.resume import KEY
from runner.sweeps.signals import caught, pass_on_to_loky
from runner.tracking.address import masked
from runner.tracking.stderr import gathered_stderr
from runner.tracking.sweep_file import STOP, Job, JobState, Launchable, Sweep, key_of, write_sweep
from runner.tracking.sweep_runs import KILLED, SweepRuns, with_errors
from runner.tracking.sweep_table import SweepTable

if TYPE_CHECKING:
    from runner.sweeps.check import CheckedJob

_NAME_LENGTH = 100
_MULTIRUN = "multirun.yaml"


@dataclass(frozen=True)
class Round:
    """What is launched next.

    Attributes:
        jobs: to launch now.
        all_jobs: of the sweep, these among them.
    """

    jobs: Sequence[Launchable]
    all_jobs: Sequence[Job]


More = Callable[[Sequence[JobState]], Round | None]
"""how far all jobs are, now that a round is over -> the next round; None where there is none"""


@dataclass(frozen=True)
class Launch:
    """What is to run.

    Attributes:
        sweep: what is written down of it.
        jobs: of the first round.
        runs: how far the jobs of the sweep are.
        config: of one job, for what all have in common.
        go_on: a job whose worker was killed, how far it is -> the job as it is launched again.
        more: makes the next rounds; None where the first is all.
        total: jobs that there will be; None for those of the first round.
        close: is told how far all jobs are at the end, before that is shown and written.
    """

    sweep: Sweep
    jobs: Sequence[Launchable]
    runs: SweepRuns
    config: Config
    go_on: Callable[[Launchable, JobState], Launchable]
    more: More | None = None
    total: int | None = None
    close: Callable[[Sequence[JobState]], None] | None = None


def new_sweep(jobs: Sequence[Job], directory: Path, page: tuple[str, ...], *, mode: str = "multirun") -> Sweep:
    """Return what is written down of a new sweep.

    Args:
        jobs: in the order in which they start.
        directory: of the sweep.
        page: `--config-dir` and `--config-name` as given.
        mode: what makes it.
    """
    given = given_overrides()
    command = shlex.join([*PROGRAM, *(["-m"] if mode == "multirun" else []), *page, *given])
    launched_from = os.path.relpath(Path.cwd(), directory)
    name = f"{directory.name}-{secrets.token_hex(2)}"  # a directory may be used again
    return Sweep(name, command, page, given, tuple(jobs), launched_from, mode)


def given_overrides() -> tuple[str, ...]:
    """Return the command line as a sweep records it."""
    return without_password(text for text in overrides_of(sys.argv[1:]) if key_of(text) != KEY)


def common_name(experiments: Iterable[str]) -> str:
    """Return the experiment that runs share which would have several."""
    return "+".join(dict.fromkeys(experiments))[:_NAME_LENGTH]


def job_of(job: CheckedJob, number: int, *, experiment: str, share: Share) -> Job:
    """Return a job of a sweep with its share of the machine.

    Args:
        job: checked.
        number: 1-based.
        experiment: that all runs of the sweep share.
        share: of the machine.
    """
    named = (f"name={quoted(experiment)}",) if experiment != job.experiment else ()
    overrides = (*job.point.overrides, *named, *share.overrides(job.config.train, number))
    return Job(number, overrides, job.point.varied, experiment, job.config.optimizer.lr, job.config.seed)


def carry_out(launch: Launch, directory: Path, launcher: Launcher, *, page: DictConfig, most: int | None) -> None:
    """Launch the jobs under one table, round after round, and finish the sweep with what came of all of them.

    Args:
        launch: what is to run.
        directory: of the sweep, locked by this process.
        launcher: Hydra's, of `run_in_sweep`.
        page: without the overrides that vary.
        most: most jobs that are handed to the launcher at once; None for all.
    Raises:
        SweepError: no job finished, or a signal ended it.
    """
    from runner.sweeps.end import cut_short, finish  # draws, which takes a while to import

    runs, config, stop = launch.runs, launch.config, directory / STOP
    write_sweep(directory, launch.sweep, runs.states(), status="running")
    settle(page, directory)
    OmegaConf.save(OmegaConf.create(masked(OmegaConf.to_container(page))), directory / _MULTIRUN)
    errors: dict[int, str] = {}

    def states(*, is_over: bool = False) -> list[JobState]:
        return with_errors(runs.states(is_over=is_over), runs.begun(), dict(errors))

    def undone(batch: Sequence[Launchable]) -> tuple[list[Launchable], list[Launchable]]:
        now, begun = runs.states(is_over=True), runs.begun()
        killed = [one for one in batch if one.job.number in begun and now[one.job.number - 1].verdict == KILLED]
        fresh = [one for one in batch if one.job.number not in begun]
        return [launch.go_on(one, now[one.job.number - 1]) for one in killed], fresh

    with (
        gathered_stderr(directory / "stderr.log") as stderr,
        SweepTable(launch.sweep, states, stderr=stderr, quiet=config.quiet, total=launch.total) as table,
        caught(stop, pass_on=pass_on_to_loky if has_workers(page) else None),
    ):
        jobs: Sequence[Launchable] = launch.jobs
        while True:
            size = batch_size(page, len(jobs), most)
            launch_all(jobs, launcher, size=size, undone=undone, is_stopped=stop.exists, errors=errors)
            if stop.exists() or launch.more is None or (following := launch.more(states(is_over=True))) is None:
                break
            jobs = following.jobs
            _grow(runs, table, following.all_jobs)
            write_sweep(directory, runs.sweep, states(), status="running")
    signal = Signals(int(stop.read_text(encoding="utf-8"))) if stop.exists() else None
    if launch.close is not None:
        launch.close(states(is_over=True))
    with cut_short(directory):
        finish(
            directory,
            runs.sweep,
            states(is_over=True),
            tracking=config.tracking,
            signal=signal,
            safety=config.search.safety,
            is_search=launch.more is not None,
            quiet=config.quiet,
        )


def _grow(runs: SweepRuns, table: SweepTable, jobs: Sequence[Job]) -> None:
    """Add jobs; first where their states come from, for the table may ask at any time."""
    runs.grow(jobs)
    table.grow(runs.sweep)


def find_gpus() -> list[str]:
    """Return the CUDA devices of this machine."""
    from runner.build import available_devices  # imports torch

    return [device for device in available_devices() if device.startswith("cuda")]
