"""MLflow: the process that follows a run directory, upload, and the UI. The only file that imports mlflow.

The trainer starts `python -m runner.tracking.mlflow <run directory> --uri <uri>` and never imports mlflow itself.
The end of the run is a line on the follower's stdin: how many seconds the trainer will wait. An end without a line
is the death of the trainer.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import getpass
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from runner.errors import TrackingError
from runner.records import RunResult, spell_non_finite
from runner.tracking.follower import (
    CONFIG,
    LARGEST_BATCH,
    Point,
    State,
    batches,
    follow,
    params,
    read_state,
    tags,
    write_state,
)
from runner.tracking.jsonl import RECORDS, RESULT, read_result

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOG = "tracking.log"
CURVES = "curves.png"
LOCK = ".mlflow.lock"
MLFLOW_STATUS = {"finished": "FINISHED", "diverged": "FAILED", "failed": "FAILED", "interrupted": "KILLED"}
MOST_PARAMS_OR_TAGS = 100
_ADVISORY_LOCK = 7_310_585
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # MLflow's own 7 retries take four minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "PGCONNECT_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OMP_NUM_THREADS": "1",
}


class Follower:
    """The process that sends a run's records to MLflow.

    Attributes:
        delivered: whether everything has arrived; known after `finish`.
    """

    def __init__(self, process: subprocess.Popen[bytes] | None, directory: Path, *, uri: str) -> None:
        self.delivered = False
        self._process = process
        self._directory = directory
        self._uri = uri

    def finish(self, timeout_seconds: float) -> str | None:
        """Say that the run is over and `result.json` final, and wait for the last records to arrive.

        After the timeout the process goes on alone and ends by itself. Never raises.

        Returns:
            The id of the MLflow run, None when there is none.
        """
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                self._process.stdin.write(f"{timeout_seconds}\n".encode())
                self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                self.delivered = self._process.wait(timeout_seconds) == 0
        state = read_state(self._directory, shown(self._uri))
        return state.run_id if state is not None else None


def start_follower(directory: Path, *, uri: str) -> Follower:
    """Start to send the records of a run directory while they are written.

    Returns within milliseconds and never raises; whatever goes wrong with the server is one line on stderr.

    Args:
        directory: the run directory; must exist.
        uri: `sqlite:///file.db`, `http://host:port` or `postgresql://...`.
    """
    uri = absolute(uri)
    try:
        with (directory / LOG).open("ab") as log:
            process = subprocess.Popen(
                _command(directory, uri),
                stdin=subprocess.PIPE,
                stdout=log,
                env=_environment(),
                start_new_session=True,
            )
    except OSError as error:
        print(_warning(uri, directory, error), file=sys.stderr)
        return Follower(None, directory, uri=uri)
    return Follower(process, directory, uri=uri)


def upload(directory: Path, *, uri: str) -> str:
    """Send what MLflow does not have yet of a run directory, and return the id of the MLflow run.

    Records go to the MLflow run that `mlflow.json` names, if it was made at the same uri, otherwise to a new one.

    Raises:
        TrackingError: the server cannot be reached, or this is not a run directory, or it is being sent.
    """
    uri = absolute(uri)
    missing = [name for name in (RECORDS, RESULT) if not (directory / name).is_file()]
    if missing:
        raise TrackingError(f"source: must be a run directory, got {directory} without {' and '.join(missing)}.")
    with (directory / LOG).open("ab") as log:
        done = subprocess.run(
            _command(directory, uri, "--once"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.PIPE,
            env=_environment(),
            check=False,
        )
    state = read_state(directory, shown(uri))
    if done.returncode != 0 or state is None or state.run_id is None:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise TrackingError(said[-1] if said else f"source: could not be sent, {directory / LOG} says why.")
    return state.run_id


def main() -> int:
    """Follow a run directory until the end of stdin; return 0 when all has arrived, otherwise 1."""
    parser = argparse.ArgumentParser(prog="python -m runner.tracking.mlflow")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--uri", required=True)
    parser.add_argument("--once", action="store_true", help="send what is there, and end")
    arguments = parser.parse_args()
    voice = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(1, 2)  # what libraries say goes to tracking.log
    gc.set_threshold(50_000, 20, 100)
    ended = threading.Event()
    if arguments.once:
        ended.set()
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to all processes of a job; the trainer still has to save
        os.nice(10)
        threading.Thread(target=_listen, args=(ended, voice), daemon=True).start()
    return 0 if _follow_alone(arguments.directory, absolute(arguments.uri), ended, voice) else 1


def _listen(ended: threading.Event, voice: IO[str]) -> None:
    """Wait for the end of the run; let go of the terminal when the trainer waits no longer."""
    line = sys.stdin.readline()
    ended.set()
    with contextlib.suppress(ValueError, OverflowError):
        time.sleep(float(line))
    voice.close()


def _follow_alone(directory: Path, uri: str, ended: threading.Event, voice: IO[str]) -> bool:
    """Follow a run directory that no other process follows; say once what is wrong."""
    from filelock import FileLock, Timeout

    is_upload = ended.is_set()
    warned = False

    def on_problem(error: Exception) -> None:
        nonlocal warned
        if not warned:
            warned = True
            with contextlib.suppress(OSError, ValueError):
                print(_warning(uri, directory, error, is_upload=is_upload), file=voice)

    try:
        with FileLock(directory / LOCK, timeout=1 if is_upload else -1):
            return follow(directory, _Mlflow(directory, uri), uri=shown(uri), ended=ended, on_problem=on_problem)
    except Timeout:
        print(f"source: must be a run that nothing else is sending, got {directory}. Wait for its end.", file=voice)
        return False


class _Mlflow:
    """Sends one run directory to one MLflow server; the `Sender` of `follow`."""

    def __init__(self, directory: Path, uri: str) -> None:
        self._directory = directory
        self._uri = uri
        self._client: MlflowClient | None = None

    @property
    def client(self) -> MlflowClient:
        assert self._client is not None, "open comes first"
        return self._client

    def open(self, state: State) -> State:
        from mlflow import MlflowClient

        gc.freeze()  # with the threshold of main: a third less time a point
        result = read_result(self._directory)
        with _alone_in_database(self._uri):
            self._client = MlflowClient(tracking_uri=self._uri)  # connects to a database
            params_there = _params_of(self._client, state)
            if params_there is None:
                artifacts = _artifacts(self._uri, self._directory.parent.parent)
                state = State(state.uri, _experiment(self._client, result.experiment, artifacts))
        if params_there is None:
            state = replace(state, run_id=self._new_run(str(state.experiment_id), result))
            write_state(self._directory, state)
        else:
            self.client.update_run(_run_id(state), status="RUNNING")
        self._log_params(_run_id(state), params_there or {})
        self._set_tags(_run_id(state), result)
        return state

    def send(self, state: State, points: list[Point]) -> None:
        from mlflow.entities import Metric

        for metrics in _chunks([Metric(*point) for point in points], LARGEST_BATCH):
            self.client.log_batch(_run_id(state), metrics, synchronous=True)

    def close(self, state: State) -> None:
        result = read_result(self._directory)
        if result.status == "running":
            result = replace(result, status="interrupted", verdict="killed")
        run_id = _run_id(state)
        self._set_tags(run_id, result)
        self._log_files(run_id, result)
        self._log_dataset(run_id, result)
        end_time = state.counters.time_ms or time.time_ns() // 1_000_000
        self.client.set_terminated(run_id, MLFLOW_STATUS[result.status], end_time)

    def _new_run(self, experiment_id: str, result: RunResult) -> str:
        first = next(batches(self._directory / RECORDS, State("")), None)
        start_time = first.points[0].time_ms if first is not None and first.points else None
        found = {
            "mlflow.user": getpass.getuser(),
            "mlflow.source.name": result.command,
            "mlflow.source.type": "LOCAL",
            "directory": str(self._directory),
        }
        if result.commit is not None:
            found["mlflow.source.git.commit"] = result.commit
        run = self.client.create_run(experiment_id, start_time=start_time, tags=found, run_name=result.title)
        return str(run.info.run_id)

    def _log_params(self, run_id: str, known: dict[str, str]) -> None:
        """Send the params that the run lacks; those it has cannot change."""
        from mlflow.entities import Param

        new = [Param(k, self._hidden(v)) for k, v in params(self._directory).items() if k not in known]
        for some in _chunks(new, MOST_PARAMS_OR_TAGS):
            self.client.log_batch(run_id, params=some, synchronous=True)

    def _set_tags(self, run_id: str, result: RunResult) -> None:
        from mlflow.entities import RunTag

        lr = _number(params(self._directory).get("optimizer.lr"))
        found = [RunTag(k, self._hidden(v)) for k, v in tags(result, lr).items()]
        for some in _chunks(found, MOST_PARAMS_OR_TAGS):
            self.client.log_batch(run_id, tags=some, synchronous=True)

    def _log_files(self, run_id: str, result: RunResult) -> None:
        config = self._directory / CONFIG
        if config.is_file():
            self.client.log_text(run_id, self._hidden(config.read_text(encoding="utf-8")), CONFIG)
        data = spell_non_finite(asdict(replace(result, mlflow_run_id=run_id)))
        self.client.log_text(run_id, self._hidden(json.dumps(data, indent=2)), RESULT)
        self.client.log_text(run_id, json.dumps(spell_non_finite(result.dataset), indent=2), "dataset.json")
        if (self._directory / CURVES).is_file():
            self.client.log_artifact(run_id, str(self._directory / CURVES))

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


@contextlib.contextmanager
def _alone_in_database(uri: str) -> Iterator[None]:
    """Keep others out while a database may get its tables or an experiment; MLflow does that unsafely.

    A PostgreSQL server that does not answer fails here at once, where MLflow would try for minutes.
    """
    if uri.startswith("sqlite"):
        from filelock import FileLock

        database = _database(uri)
        database.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{database}.lock"):
            yield
    elif uri.startswith("postgresql"):
        import sqlalchemy

        engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({_ADVISORY_LOCK})"))
            yield
    else:
        yield


def _artifacts(uri: str, runs: Path) -> str | None:
    """Return the folder for artifacts of a database without a server; a server knows its own."""
    if uri.startswith("http"):
        return None
    root = _database(uri).parent if uri.startswith("sqlite") else runs
    return (root.absolute() / "mlartifacts").as_uri()


def newest_experiment(uri: str) -> str | None:
    """Return the id of the experiment with the most recent run, None when there is no run.

    Raises:
        TrackingError: the server cannot be reached.
    """
    uri = absolute(uri)
    if uri.startswith("sqlite") and not _database(uri).exists():
        return None
    _set_environment()
    from mlflow import MlflowClient

    try:
        client = MlflowClient(tracking_uri=uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        runs = client.search_runs(experiments, order_by=["attributes.start_time DESC"], max_results=1)
    except Exception as error:
        raise TrackingError(_unreachable(uri, error)) from None
    return str(runs[0].info.experiment_id) if runs else None


@dataclass(frozen=True, slots=True)
class Ui:
    """A running MLflow UI.

    Attributes:
        link: the page with the charts of the newest experiment.
        process: the server; None when it was there already.
    """

    link: str
    process: subprocess.Popen[bytes] | None

    def stop(self) -> None:
        """End the server, if it is ours, with all its processes."""
        if self.process is None or self.process.poll() is not None:
            return
        for kind in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, kind)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
                return


def serve_ui(uri: str, *, port: int = 5000, timeout_seconds: float = 120.0) -> Ui:
    """Start the MLflow UI on 127.0.0.1 and return once it answers; the caller stops it.

    Args:
        uri: a database, or a server, which then is used as it is.
        port: the first port to try.
        timeout_seconds: how long the server may take to answer.
    Raises:
        TrackingError: the server cannot be reached or does not start.
    """
    uri = absolute(uri)
    if uri.startswith("http"):
        return Ui(_link(uri, newest_experiment(uri)), None)
    port = _free_port(port)
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        process = _start_server(uri, port, log)
        ui = Ui(address, process)
        try:
            _wait_for(f"{address}/health", process, log, timeout_seconds)
            return Ui(_link(address, newest_experiment(uri)), process)
        except BaseException:
            ui.stop()
            raise


def _start_server(uri: str, port: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
    if uri.startswith("sqlite"):
        _database(uri).parent.mkdir(parents=True, exist_ok=True)
    where = ["--host", "127.0.0.1", "--port", str(port), "--artifacts-destination", str(_artifacts(uri, Path("runs")))]
    environment = {
        **_environment(),
        "MLFLOW_BACKEND_STORE_URI": uri,  # not as an argument: it may hold a password
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "mlflow", "server", "--workers", "1", *where],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=environment,
        start_new_session=True,
    )


def _wait_for(url: str, process: subprocess.Popen[bytes], log: IO[bytes], timeout_seconds: float) -> None:
    import urllib.request

    deadline = time.monotonic() + timeout_seconds
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), direct.open(url, timeout=5):
            return
        time.sleep(0.2)
    log.seek(0)
    said = log.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
    raise TrackingError(f"mode=ui: the MLflow server must start, but it did not ({said[-1].strip()[:200]}).")


def _link(address: str, experiment_id: str | None) -> str:
    page = f"/{experiment_id}/runs?compareRunsMode=CHART" if experiment_id is not None else ""
    return f"{address.rstrip('/')}/#/experiments{page}"


def _free_port(first: int) -> int:
    for port in range(first, first + 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise TrackingError(f"mode=ui: a port from {first} to {first + 99} must be free. Give another port.")


def absolute(uri: str) -> str:
    """Return the uri with the path of a sqlite file made absolute."""
    if not uri.startswith("sqlite:///") or uri.startswith("sqlite:////"):
        return uri
    return "sqlite:///" + os.path.abspath(uri.removeprefix("sqlite:///"))


def shown(uri: str) -> str:
    """Return the uri with a password hidden."""
    return re.sub(r"(://[^:/@]*):[^@]+@", r"\1:***@", uri)


def _database(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///").partition("?")[0])


def _command(directory: Path, uri: str, *options: str) -> list[str]:
    module = [sys.executable, "-P", "-m", "runner.tracking.mlflow"]
    return [*module, str(directory.absolute()), "--uri", uri, *options]


def _environment() -> dict[str, str]:
    """Return the environment of a child: short waits, and `runner` importable from a checkout too."""
    root = Path(__file__).resolve().parents[2]
    found = {**_ENVIRONMENT, **os.environ}
    if root.name not in ("site-packages", "dist-packages"):
        found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    return found


def _set_environment() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _warning(uri: str, directory: Path, error: Exception, *, is_upload: bool = False) -> str:
    if is_upload:
        return f"{_unreachable(uri, error)} Nothing is lost; try again later."
    relative = os.path.relpath(directory)
    source = directory if relative.startswith("..") else relative
    later = f"send it later with: python -m runner mode=upload source={source}"
    return f"{_unreachable(uri, error)} The run goes on; {later}"


def _unreachable(uri: str, error: Exception) -> str:
    return f"tracking.uri: must be a reachable MLflow server, got {shown(uri)} ({_reason(error)})."


def _reason(error: Exception) -> str:
    """Return what a person needs of an error that may be a page long."""
    text = " ".join(str(error).split())
    driver = re.search(r"No module named 'psycopg(2?)'", text)
    if driver:
        return "pip install psycopg2-binary" if driver[1] else "pip install psycopg[binary]"
    errno = re.findall(r"\[Errno -?\d+\] ([^'\"()\]]+)", text)
    if errno:
        return str(errno[-1]).strip(" :")
    known = re.search(r"timed out|FATAL: [^(]*|connection refused", text, re.IGNORECASE)
    if known:
        return known[0].strip()
    return text.partition(". ")[0][:150] or type(error).__name__


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def _run_id(state: State) -> str:
    assert state.run_id is not None, "open comes first"
    return state.run_id


def _chunks(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


if __name__ == "__main__":
    sys.exit(main())
