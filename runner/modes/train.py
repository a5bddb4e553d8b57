"""mode=train: check, build, fit, record, follow, report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.config import Config, Invocation
from runner.records import RunResult

if TYPE_CHECKING:
    from runner.trials.recorded_run import Prune


def run(config: Config, invocation: Invocation, *, prune: Prune | None = None) -> RunResult:
    """Train as declared, in a new run directory or, when an interrupted run goes on unchanged, in its own.

    Args:
        config, invocation: what is trained, and how the program was called.
        prune: says at every evaluation whether the run is given up.
    Raises:
        RunnerError: the run could not be made or could not be recorded; `result.json` says "failed".
    """
    from runner.trials.recorded_run import train  # not for --help

    return train(config, invocation, prune=prune)
