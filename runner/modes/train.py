"""mode=train: check, build, fit, record, follow, report."""

from __future__ import annotations

from runner.config import Config, Invocation
from runner.records import RunResult
from runner.trials.pruning import GiveUp


def run(config: Config, invocation: Invocation, *, give_up: GiveUp | None = None) -> RunResult:
    """Train as declared, in a new run directory or, when an interrupted run goes on unchanged, in its own.

    Args:
        config, invocation: what is trained, and how the program was called.
        give_up: says at every evaluation whether the run is given up.
    Raises:
        RunnerError: the run could not be made or could not be recorded; `result.json` says "failed".
    """
    from runner.trials.recorded_run import train  # not for --help

    return train(config, invocation, give_up=give_up)
