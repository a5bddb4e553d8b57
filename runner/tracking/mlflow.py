"""The only file that imports mlflow: sends one run directory to one server, finds experiments, reads runs."""

from __future__ import annotations

import contextlib
import gc
import getpass
import json
import math
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import TrackingError
from runner.records import RunResult, spell_non_finite
from runner.tracking.address import absolute, artifacts_root, database_path, set_environment, unreachable
from runner.tracking.database import alone_in_database
from runner.tracking.directory import ARTIFACTS, CONFIG, DATASET, RECORDS, RESULT
from runner.tracking.jsonl import read_result
from runner.tracking.mapping import Point, known_lr, lr_params, params, tags
from runner.tracking.tracked import EndedRun, TrackedRun
from runner.tracking.transfer import LARGEST_BATCH, State, first_time_ms, write_state

if TYPE_CHECKING:
    from mlflow import MlflowClient

MLFLOW_STATUS = {
    "finished": "FINISHED",
    "diverged": "FAILED",
    "failed": "FAILED",
    "interrupted": "KILLED",
    "pruned": "KILLED",
}
MOST_PARAMS_OR_TAGS = 100


def import_ahead() -> None:
    """Import what sending takes, which is a second, while there is nothing to send yet."""
    with contextlib.suppress(ImportError):  # the sender meets it again, and tells
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401


class MlflowSender:
    """Sends one run directory to one MLflow server or database; the `Sender` of `follow`.

    Args:
        directory: the run directory.
        uri: where to; sqlite paths absolute.
    """

    def __init__(self, directory: Path, uri: str) -> None:
        self._directory = directory
        self._uri = uri
        self._client: MlflowClient | None = None

    @property
    def client(self) -> MlflowClient:
        """The client; there is one once the run is open."""
        assert self._client is not None, "open comes first"
        return self._client

    def open(self, state: State) -> State:
        """Find the run of this state and set it running, or make one with its params and tags."""
        from mlflow import MlflowClient

        gc.freeze()  # with the threshold of main: a third less time a point
        result = read_result(self._directory)
        with alone_in_database(self._uri):
            self._client = MlflowClient(tracking_uri=self._uri)  # connects to a database
            params_there = _params_of(self._client, state)
            if params_there is None:
                artifacts = artifacts_root(self._uri, self._directory.parent.parent)
                state = State(state.uri, _experiment(self._client, result.experiment, artifacts))
        if params_there is None:
            state = replace(state, run_id=self._new_run(str(state.experiment_id), result))
            write_state(self._directory, state)
        else:
            self.client.update_run(_run_id(state), status="RUNNING")
            self._set_tags(_run_id(state), result)
        self._log_params(_run_id(state), result, params_there or {})
        return state

    def send(self, state: State, points: list[Point]) -> None:
        """Log points as metrics; MLflow keeps one of several that are equal."""
        from mlflow.entities import Metric

        for metrics in _chunks([Metric(*point) for point in points], LARGEST_BATCH):
            self.client.log_batch(_run_id(state), metrics, synchronous=True)

    def close(self, state: State) -> None:
        """Log verdict and note, end the run, and log files and dataset; a result that says "running" was killed."""
        result = read_result(self._directory)
        if result.status == "running":
            result = replace(result, status="interrupted", verdict="killed")
        run_id = _run_id(state)
        self._set_tags(run_id, result)
        end_time = state.counters.time_ms or time.time_ns() // 1_000_000
        self.client.set_terminated(run_id, MLFLOW_STATUS[result.status], end_time)
        self._log_files(run_id, result)  # where these have no place, the rest is there
        self._log_dataset(run_id, result)

    def _new_run(self, experiment_id: str, result: RunResult) -> str:
        found = {
            **self._tags(result),
            "mlflow.user": getpass.getuser(),
            "mlflow.source.name": result.command,
            "mlflow.source.type": "LOCAL",
            "directory": str(self._directory),
        }
        if result.commit is not None:
            found["mlflow.source.git.commit"] = result.commit
        started = first_time_ms(self._directory / RECORDS)
        run = self.client.create_run(experiment_id, start_time=started, tags=found, run_name=result.title)
        return str(run.info.run_id)

    def _log_params(self, run_id: str, result: RunResult, known: dict[str, str]) -> None:
        """Send the params that the run lacks; those it has cannot change."""
        from mlflow.entities import Param

        found = {**params(self._directory), **lr_params(result)}
        new = [Param(k, self._hidden(v)) for k, v in found.items() if k not in known]
        for some in _chunks(new, MOST_PARAMS_OR_TAGS):
            self.client.log_batch(run_id, params=some, synchronous=True)

    def _set_tags(self, run_id: str, result: RunResult) -> None:
        from mlflow.entities import RunTag

        for some in _chunks([RunTag(k, v) for k, v in self._tags(result).items()], MOST_PARAMS_OR_TAGS):
            self.client.log_batch(run_id, tags=some, synchronous=True)

    def _tags(self, result: RunResult) -> dict[str, str]:
        found = tags(result, known_lr(self._directory, result))
        return {key: self._hidden(value) for key, value in found.items()}

    def _log_files(self, run_id: str, result: RunResult) -> None:
        config = self._directory / CONFIG
        if config.is_file():
            self.client.log_text(run_id, self._hidden(config.read_text(encoding="utf-8")), CONFIG)
        data = spell_non_finite(asdict(replace(result, mlflow_run_id=run_id)))
        self.client.log_text(run_id, self._hidden(json.dumps(data, indent=2)), RESULT)
        if result.dataset:
            self.client.log_text(run_id, json.dumps(spell_non_finite(result.dataset), indent=2), DATASET)
        for name in ARTIFACTS:
            if (self._directory / name).is_file():
                self.client.log_artifact(run_id, str(self._directory / name))

    def _log_dataset(self, run_id: str, result: RunResult) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        name, digest = result.dataset.get("name"), result.dataset.get("digest")
        if not name or not digest:
            return
        source = json.dumps({"tags": {"mlflow.source.name": result.command}})
        profile = json.dumps({"num_examples": result.dataset.get("examples")})
        dataset = Dataset(str(name)[:500], str(digest)[:36], "code", self._hidden(source), profile=profile)
        self.client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    def _hidden(self, text: str) -> str:
        """Return the text without the password of the uri."""
        found = re.search(r"://[^:/@]*:([^@]+)@", self._uri)
        return text.replace(f":{found[1]}@", ":***@") if found else text


def _params_of(client: MlflowClient, state: State) -> dict[str, str] | None:
    """Return the params of the run to go on with, None when a new one is needed."""
    from mlflow.exceptions import MlflowException

    if state.run_id is None:
        return None
    try:
        run = client.get_run(state.run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return dict(run.data.params) if run.info.lifecycle_stage == "active" else None


def _experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    """Return the id of the experiment of this name; make it, or bring it back, when it is not there."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifacts))
        except MlflowException as error:
            found = client.get_experiment_by_name(name)  # another process was faster
            if found is None:
                raise error from None
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def newest_experiment(uri: str) -> str | None:
    """Return the id of the experiment with the most recent run, None when there is no run.

    Raises:
        TrackingError: the server cannot be reached.
    """
    uri = absolute(uri)
    if uri.startswith("sqlite") and not database_path(uri).exists():
        return None
    set_environment()
    from mlflow import MlflowClient

    try:
        client = MlflowClient(tracking_uri=uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        runs = client.search_runs(experiments, order_by=["attributes.start_time DESC"], max_results=1)
    except Exception as error:
        raise TrackingError(unreachable(uri, error)) from None
    return str(runs[0].info.experiment_id) if runs else None


def _run_id(state: State) -> str:
    assert state.run_id is not None, "open comes first"
    return state.run_id


def _chunks(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def find_run(uri: str, run_id: str) -> TrackedRun | None:
    """Return a run, None when there is no such run.

    Raises:
        TrackingError: the server cannot be reached.
    """
    uri = absolute(uri)
    if uri.startswith("sqlite") and not database_path(uri).exists():
        return None
    set_environment()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        run = MlflowClient(tracking_uri=uri).get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise TrackingError(unreachable(uri, error)) from None
    except Exception as error:
        raise TrackingError(unreachable(uri, error)) from None
    return TrackedRun(str(run.info.run_name or ""), dict(run.data.params), list(run.data.metrics))


def metric_history(uri: str, run_id: str, key: str) -> tuple[list[float], list[float]]:
    """Return steps and values of a metric in the order in which they were logged; MLflow's largest number is inf.

    Raises:
        TrackingError: the server cannot be reached.
    """
    from mlflow import MlflowClient

    try:
        points = MlflowClient(tracking_uri=absolute(uri)).get_metric_history(run_id, key)
    except Exception as error:
        raise TrackingError(unreachable(uri, error)) from None
    points = sorted(points, key=lambda point: point.timestamp)
    values = [math.copysign(math.inf, p.value) if abs(p.value) >= sys.float_info.max else p.value for p in points]
    return [float(point.step) for point in points], values


def ended_runs(uri: str, experiment: str) -> Iterator[EndedRun]:
    """Yield the runs of an experiment that have ended, the oldest first; none where there is no such experiment.

    Raises:
        TrackingError: the server cannot be reached.
    """
    uri = absolute(uri)
    if uri.startswith("sqlite") and not database_path(uri).exists():
        return
    set_environment()
    from mlflow import MlflowClient

    try:
        client, token = MlflowClient(tracking_uri=uri), None
        found = client.get_experiment_by_name(experiment)
        while found is not None:
            order = ["attributes.start_time ASC"]
            page = client.search_runs([found.experiment_id], "", order_by=order, max_results=1000, page_token=token)
            for run in page:
                tags = dict(run.data.tags)
                if run.info.end_time is not None:
                    directory = tags.get("directory", "")
                    yield EndedRun(run.info.run_id, directory, dict(run.data.params), tags, dict(run.data.metrics))
            if not (token := page.token):
                return
    except Exception as error:
        raise TrackingError(unreachable(uri, error)) from None
