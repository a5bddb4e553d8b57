"""Where a sweep lies."""

from __future__ import annotations

from pathlib import Path

from runner.errors import ConfigError, Problem, RunnerError
from runner.sweeps.resume import KEY
from runner.tracking.directory import SWEEP


def new_directory(directory: Path) -> Path:
    """Make the directory of a new sweep.

    Raises:
        ConfigError: another sweep is there.
        RunnerError: it cannot be made.
    """
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
