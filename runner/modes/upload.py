"""mode=upload: send the records of a run directory to MLflow, whatever did not arrive while it ran."""

from __future__ import annotations

from pathlib import Path

from runner.config import Config, Invocation
from runner.errors import ConfigError, Problem
from runner.tracking.address import shown as address
from runner.tracking.follower import upload


def run(config: Config, invocation: Invocation) -> None:
    """Send `source` to `tracking.uri` and print the id of the MLflow run.

    Raises:
        ConfigError: tracking.uri is not given.
        TrackingError: the server cannot be reached.
    """
    if config.tracking.uri is None or config.source.path is None:
        raise ConfigError([Problem("tracking.uri", "must be given to upload, got null", "Set tracking=mlflow")])
    run_id = upload(Path(config.source.path), uri=config.tracking.uri)
    print(f"sent to {address(config.tracking.uri)}, MLflow run {run_id}")
    print(config.source.path)
