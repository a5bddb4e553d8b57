"""`sweep.json`: the jobs of a sweep, written when it starts, and what they came to, written when it ends."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

from runner.records import read_non_finite, spell_non_finite
from runner.sweep_summary import Outcome, Setting
from runner.tracking.directory import SWEEP, write_whole

STOP = ".stop"  # number of the signal after which no further job starts
LIMIT = "train.max_seconds"
_HOW = ("sweep.backend", "sweep.lanes", "sweep.jobs")
_MORE = ("search.n_trials", "search.budget", "search.verify", "search.safety", "search.write")
FROM, CHECKPOINT = "resume.from", "resume.checkpoint"
_VERSION = 1


@dataclass(frozen=True)
class Job:
    """One point of the grid.

    Attributes:
        number: 1-based.
        overrides: what composes its configuration.
        varied: override key -> value, for the keys that differ between jobs.
        experiment: MLflow experiment and folder of its run.
        lr: base learning rate.
        seed: the seed.
    """

    number: int
    overrides: tuple[str, ...]
    varied: Mapping[str, str]
    experiment: str
    lr: float
    seed: int

    @property
    def name(self) -> str:
        """What varied, as on the command line."""
        return " ".join(f"{key}={value}" for key, value in self.varied.items())


class Launchable(NamedTuple):
    """A job with the overrides of this launch, which say what it goes on from."""

    job: Job
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Sweep:
    """What a sweep is, without what came of it.

    Attributes:
        id: name of its directory and four random letters; tag of its runs.
        command: the command line that repeats it.
        page: `--config-dir` and `--config-name` as given, if they were.
        overrides: the command line, Hydra's own overrides included.
        jobs: in the order in which they start.
        launched_from: the directory of launch, relative to that of the sweep.
        mode: what made it: multirun, or the mode that did.
    """

    id: str
    command: str
    page: tuple[str, ...]
    overrides: tuple[str, ...]
    jobs: tuple[Job, ...]
    launched_from: str
    mode: str = "multirun"

    def key(self, overrides: Iterable[str]) -> tuple[str, ...]:
        """Return what tells its jobs and their runs apart: the overrides as `result.json` has them.

        What may change when a sweep goes on is left out, and what a run goes on from.
        """
        return tuple(text.lstrip("+") for text in overrides if not (self.may_change(text) or self._goes_on(text)))

    def _goes_on(self, override: str) -> bool:
        key = key_of(override)
        return key in (FROM, CHECKPOINT) and not self.varies(key)

    def may_change(self, override: str) -> bool:
        """Whether an override may differ when the sweep goes on: how and how long its jobs run, who hears of them."""
        key = key_of(override)
        is_aside = key in (LIMIT, "quiet", *_HOW, *_MORE) or key.partition(".")[0] in ("tracking", "notify")
        return is_aside and not self.varies(key)

    def varies(self, key: str) -> bool:
        """Whether jobs differ in a key."""
        return key in self._varied

    @functools.cached_property
    def _varied(self) -> frozenset[str]:
        return frozenset(key for job in self.jobs for key in job.varied)


@dataclass(frozen=True)
class JobState:
    """How far a job is, or what it came to.

    Attributes:
        status: waiting, running, finished, diverged, interrupted, pruned or failed.
        verdict: one phrase a person can read.
        run: its run directory, relative to the directory of launch.
        steps: updates made.
        planned_steps: updates declared; 0 before the run has begun.
        loss: last training loss.
        val_loss: last loss of the val split.
        best_val_loss: smallest loss of the val split.
        final_loss: of the val split at the last evaluation, of the last training batch when the task has no val split.
        is_val: whether that is the loss of the val split.
        seconds: wall time of training.
    """

    status: str = "waiting"
    verdict: str = ""
    run: str | None = None
    steps: int = 0
    planned_steps: int = 0
    loss: float = math.nan
    val_loss: float = math.nan
    best_val_loss: float = math.nan
    final_loss: float = math.nan
    is_val: bool = False
    seconds: float = 0.0


def key_of(override: str) -> str:
    """Return the key of an override, what adds or deletes left out."""
    return override.lstrip("+~").partition("=")[0]


def changed(overrides: Iterable[str], changes: Sequence[str]) -> tuple[str, ...]:
    """Return overrides with others in the place of those of the same keys; another option of a group ends its keys."""
    keys = {key_of(text) for text in changes}
    inside = tuple(f"{key.replace('/', '.')}." for key in keys)
    return (*(text for text in overrides if key_of(text) not in keys and not key_of(text).startswith(inside)), *changes)


def outcome(job: Job, state: JobState) -> Outcome:
    """Return what a job came to, for `summarise`."""
    return Outcome(job.varied, state.status, state.final_loss, state.best_val_loss)


def write_sweep(
    directory: Path, sweep: Sweep, states: Sequence[JobState], *, status: str, settings: Sequence[Setting] = ()
) -> None:
    """Write sweep.json so that a reader sees the old one or the new one, never half."""
    data = {
        "version": _VERSION,
        **asdict(sweep),
        "status": status,
        "jobs": [{**asdict(job), **asdict(state)} for job, state in zip(sweep.jobs, states, strict=True)],
        "settings": [
            {
                "varied": dict(setting.varied),
                "seeds": setting.seeds,
                "final_loss": setting.final._asdict(),
                "best_val_loss": setting.best._asdict(),
                "verdict": setting.verdict,
            }
            for setting in settings
        ],
    }
    write_whole(directory / SWEEP, json.dumps(spell_non_finite(data), indent=2, allow_nan=False) + "\n")


def read_sweep(directory: Path) -> Sweep:
    """Read sweep.json.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or of another version; says how.
    """
    try:
        data = json.loads((directory / SWEEP).read_text(encoding="utf-8"))
        if data["version"] != _VERSION:
            raise ValueError(f"version {data['version']}, this program reads {_VERSION}")
        jobs = tuple(
            Job(
                int(job["number"]),
                tuple(map(str, job["overrides"])),
                dict(job["varied"]),
                str(job["experiment"]),
                float(job["lr"]),
                int(job["seed"]),
            )
            for job in data["jobs"]
        )
        page, overrides = tuple(map(str, data["page"])), tuple(map(str, data["overrides"]))
        launched_from, mode = str(data["launched_from"]), str(data.get("mode", "multirun"))
        return Sweep(str(data["id"]), str(data["command"]), page, overrides, jobs, launched_from, mode)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def read_states(directory: Path) -> list[JobState]:
    """Read what the jobs of sweep.json came to, as it was written last.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged; says how.
    """
    names = [field.name for field in fields(JobState)]
    try:
        jobs = json.loads((directory / SWEEP).read_text(encoding="utf-8"))["jobs"]
        return [JobState(**{name: read_non_finite(job[name]) for name in names if name in job}) for job in jobs]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def find_sweep(directory: Path) -> Sweep | None:
    """Read sweep.json, None when there is none that can be read."""
    try:
        return read_sweep(directory)
    except (OSError, ValueError):
        return None
