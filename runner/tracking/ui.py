"""The MLflow UI on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from runner.errors import TrackingError
from runner.tracking.address import absolute, artifacts_root, child_environment, database_path
from runner.tracking.mlflow import newest_experiment


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
        database_path(uri).parent.mkdir(parents=True, exist_ok=True)
    where = [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--artifacts-destination",
        str(artifacts_root(uri, Path("runs"))),
    ]
    environment = {
        **child_environment(),
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
