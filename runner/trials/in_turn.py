"""backend=sequential: one trial after another in this process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from runner.sweeps.worker import quietly
from runner.trials.trial import Batch, Trial, make_run


def run_in_turn(trials: Sequence[Trial], batch: Batch) -> None:
    """Make the runs; those that fail are named in `batch.errors`."""
    if trials:
        batch.beside.start(runs=len(trials))
    for trial in trials:
        if batch.is_stopped:
            return
        run = partial(make_run, trial, batch.prune(trial), batch.beside)
        error = quietly(run, batch.directory, name=trial.job.name)
        if error:
            batch.errors[trial.job.number] = error
