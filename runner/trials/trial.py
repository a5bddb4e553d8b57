"""One run that a sweep or search asked for, and what the backends that make many of them need."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from runner.config import Config, Invocation
from runner.records import RunResult
from runner.search.trials import OnEval
from runner.tracking.directory import TRACEBACK
from runner.tracking.sweep_file import STOP, Job

if TYPE_CHECKING:
    from runner.sweeps.check import CheckedJob
    from runner.trials.beside import Beside
    from runner.trials.recorded_run import Prune


class Trial(NamedTuple):
    """A run to be made, checked.

    Attributes:
        place: of its point in the batch.
        job: what sweep.json has of it.
        config, invocation: as a mode takes them.
    """

    place: int
    job: Job
    config: Config
    invocation: Invocation


@dataclass(frozen=True)
class Batch:
    """What the runs of a batch have in common.

    Attributes:
        directory: of the sweep.
        beside: draws and sends for runs that share a process.
        on_eval: says whether a trial is given up; None gives none up.
        errors: job number -> why it failed; filled by the backend.
    """

    directory: Path
    beside: Beside
    on_eval: OnEval | None = None
    errors: dict[int, str] = field(default_factory=dict)

    @property
    def is_stopped(self) -> bool:
        """Whether a signal has come, so that no further trial starts."""
        return (self.directory / STOP).exists()

    @property
    def traceback(self) -> Path:
        """The file for what went wrong."""
        return self.directory / TRACEBACK

    def prune(self, trial: Trial) -> Prune | None:
        """Return what is asked at each evaluation of a trial."""
        on_eval = self.on_eval
        return None if on_eval is None else lambda step, planned_steps, metrics: on_eval(trial.place, step, metrics)


def trial_invocation(checked: CheckedJob, invocation: Invocation, sweep: str) -> Invocation:
    """Return how the program would be called for a trial alone, with the tag of its sweep."""
    config = checked.config
    overrides = tuple(text.lstrip("+") for text in checked.point.overrides)
    tree = config.model_dump(mode="json", by_alias=True)
    return Invocation(overrides, checked.choices, tree, Path.cwd(), sweep, invocation.page)


def make_run(trial: Trial, prune: Prune | None = None, beside: Beside | None = None) -> RunResult:
    """Make the run of a trial in this process.

    Args:
        trial: checked.
        prune: is asked at each evaluation.
        beside: draws and sends for it while others run; None has it wait for that.
    """
    from runner.trials.recorded_run import train  # imports torch

    if beside is None:
        return train(trial.config, trial.invocation, prune=prune)
    return train(trial.config, trial.invocation, prune=prune, draw=beside.draw, follow=beside.follow)
