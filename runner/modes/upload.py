"""mode=upload: send the records of a run directory to MLflow, whatever did not arrive while it ran."""

from __future__ import annotations

from pathlib import Path

from runner.config import Config, Invocation
from runner.errors import ConfigError, Problem
from runner.tracking.directory import RECORDS
from runner.tracking.follower import upload
from runner.wording import shown


def run(config: Config, invocation: Invocation) -> None:
    """Send `source` to `tracking.uri` and print the id of the MLflow run.

    Raises:
        ConfigError: source or tracking.uri is not given, or source is not a run directory.
        TrackingError: the server cannot be reached.
    """
    problems = []
    if config.source is None or not (Path(config.source) / RECORDS).is_file():
        rule = f"must be a run directory with {RECORDS}, got {shown(config.source)}"
        problems.append(Problem("source", rule, "Set source=runs/<name>/<run>"))
    if config.tracking.uri is None:
        problems.append(
            Problem("tracking.uri", "must be given to upload, got null", "Set tracking=mlflow or tracking.uri=...")
        )
    if config.source is None or config.tracking.uri is None or problems:
        raise ConfigError(problems)
    run_id = upload(Path(config.source), uri=config.tracking.uri)
    print(f"sent to {config.tracking.uri}, MLflow run {run_id}")
    print(config.source)
