"""mode=train: check, build, fit, record, follow, report."""

from __future__ import annotations

from runner.config import Config, Invocation
from runner.records import RunResult


def run(config: Config, invocation: Invocation) -> RunResult:
    """Train as declared, in a new run directory or, when an interrupted run goes on unchanged, in its own.

    Raises:
        RunnerError: the run could not be made or could not be recorded; `result.json` says "failed".
    """
    from runner.trials.recorded_run import train  # not for --help

    return train(config, invocation)
