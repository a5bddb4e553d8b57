"""The process that follows a run directory, and upload.

The trainer starts `python -m runner.tracking.follower <run directory>` and never imports mlflow itself.
The end of the run is a line on the follower's stdin: how many seconds the trainer will wait. An end without a line
is the death of the trainer.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, NoReturn

from runner.errors import TrackingError
from runner.tracking.address import absolute, child_environment, set_environment, shown, unreachable
from runner.tracking.directory import LOCK, LOG, RECORDS, RESULT
from runner.tracking.mlflow import MlflowSender
from runner.tracking.transfer import follow, read_state

URI_VARIABLE = "STEPSIZE_TRACKING_URI"  # not an argument: it may hold a password


class Follower:
    """The process that sends a run's records to MLflow.

    Attributes:
        delivered: whether everything has arrived; known after `finish`.
        is_sending: whether it goes on alone after `finish`.
    """

    def __init__(
        self, process: subprocess.Popen[bytes] | None, directory: Path, *, uri: str, voice: threading.Thread | None
    ) -> None:
        self.delivered = False
        self.is_sending = False
        self._process = process
        self._voice = voice
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
            self.is_sending = self._process.poll() is None
            if self._voice is not None and not self.is_sending:
                self._voice.join(1.0)
        state = read_state(self._directory, shown(self._uri))
        return state.run_id if state is not None else None


def start_follower(directory: Path, *, uri: str, warn: Callable[[str], None]) -> Follower:
    """Start to send the records of a run directory while they are written.

    Returns within milliseconds and never raises.

    Args:
        directory: the run directory; must exist.
        uri: `sqlite:///file.db`, `http://host:port` or `postgresql://...`.
        warn: is called, from a thread that only reads, with the one line about whatever goes wrong with the server.
    """
    uri = absolute(uri)
    try:
        with (directory / LOG).open("ab") as log:
            process = subprocess.Popen(
                _command(directory),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.PIPE,  # two processes that write to one terminal garble it
                env={**child_environment(), URI_VARIABLE: uri},
                start_new_session=True,
            )
    except OSError as error:
        warn(_warning(uri, directory, error))
        return Follower(None, directory, uri=uri, voice=None)
    voice = threading.Thread(target=relay, args=(process.stderr, warn), daemon=True)
    voice.start()
    return Follower(process, directory, uri=uri, voice=voice)


def relay(said: IO[bytes], warn: Callable[[str], None]) -> None:
    """Hand on what a follower says, line by line."""
    with said:
        for line in said:
            warn(line.decode(errors="replace").rstrip())


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
            _command(directory, "--once"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.PIPE,
            env={**child_environment(), URI_VARIABLE: uri},
            check=False,
        )
    state = read_state(directory, shown(uri))
    if done.returncode != 0 or state is None or state.run_id is None:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise TrackingError(said[-1] if said else f"source: could not be sent, {directory / LOG} says why.")
    return state.run_id


def main() -> int:
    """Follow a run directory until the end of stdin; return 0 when all has arrived, otherwise 1."""
    parser = argparse.ArgumentParser(prog="python -m runner.tracking.follower")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--once", action="store_true", help="send what is there, and end")
    arguments = parser.parse_args()
    set_environment()
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
    uri = absolute(os.environ[URI_VARIABLE])
    return 0 if _follow_alone(arguments.directory, uri, ended, voice, is_upload=arguments.once) else 1


def leave(code: int) -> NoReturn:
    """End the process at once; to take down what mlflow imports takes half a second, and the trainer waits."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _listen(ended: threading.Event, voice: IO[str]) -> None:
    """Wait for the end of the run; let go of the terminal when the trainer waits no longer."""
    line = sys.stdin.readline()
    ended.set()
    with contextlib.suppress(ValueError, OverflowError):
        time.sleep(float(line))
    voice.close()


def _follow_alone(directory: Path, uri: str, ended: threading.Event, voice: IO[str], *, is_upload: bool) -> bool:
    """Follow a run directory that no other process follows; say once what is wrong."""
    from filelock import FileLock, Timeout

    warned = False

    def on_problem(error: Exception) -> None:
        nonlocal warned
        if not warned:
            warned = True
            with contextlib.suppress(OSError, ValueError):
                print(_warning(uri, directory, error, is_upload=is_upload), file=voice)

    try:
        with FileLock(directory / LOCK, timeout=1 if is_upload else -1):
            return follow(directory, MlflowSender(directory, uri), uri=shown(uri), ended=ended, on_problem=on_problem)
    except Timeout:
        print(f"source: must be a run that nothing else is sending, got {directory}. Wait for its end.", file=voice)
        return False


def _command(directory: Path, *options: str) -> list[str]:
    module = [sys.executable, "-P", "-m", "runner.tracking.follower"]
    return [*module, str(directory.absolute()), *options]


def _warning(uri: str, directory: Path, error: Exception, *, is_upload: bool = False) -> str:
    if is_upload:
        return f"{unreachable(uri, error)} Nothing is lost; try again later."
    relative = os.path.relpath(directory)
    source = directory if relative.startswith("..") else relative
    later = f"send it later with: python -m runner mode=upload source={source} tracking.uri={shown(uri)}"
    return f"{unreachable(uri, error)} The run goes on; {later}"


if __name__ == "__main__":
    leave(main())
