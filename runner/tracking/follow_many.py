"""One process that sends the records of many runs, for trainings that go on side by side in one process.

It reads commands, one a line, on standard input: `log <directory>`, `follow <run directory>`, `ended <run directory>`,
and at the end how many seconds somebody waits for it. An end without a line is the death of the trainer. It may be
started before anything may be written: until it has a run to send it only imports what that takes.
"""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from runner.tracking.address import absolute, child_environment, set_environment, shown, unreachable
from runner.tracking.directory import LOCK, LOG
from runner.tracking.follower import URI_VARIABLE, Follower, leave, relay
from runner.tracking.mlflow import MlflowSender, import_ahead
from runner.tracking.transfer import LONGEST_PAUSE_SECONDS, Following

_RUNS_A_SECOND = 4  # that are looked at while they go on
_TICK_SECONDS = 0.2


class ManyFollower:
    """Starts the process, and tells it which runs there are.

    Args:
        uri: `sqlite:///file.db`, `http://host:port` or `postgresql://...`.
        warn: is called, from a thread that only reads, with the one line about whatever goes wrong with the server.
    """

    def __init__(self, *, uri: str, warn: Callable[[str], None]) -> None:
        self._uri = absolute(uri)
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "runner.tracking.follow_many"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={**child_environment(), URI_VARIABLE: self._uri},
                start_new_session=True,
            )
        except OSError as error:
            warn(_warning(self._uri, error))
            return
        threading.Thread(target=relay, args=(self._process.stderr, warn), daemon=True).start()

    def log_to(self, directory: Path) -> None:
        """Have tracking.log written in a directory, that of the sweep."""
        self._say(f"log {directory.absolute()}")

    def follow(self, directory: Path, *, uri: str, warn: Callable[[str], None]) -> Follower:
        """Start to send the records of a run directory; as `start_follower`."""
        self._say(f"follow {directory.absolute()}")
        return _OneOfMany(None, directory, uri=uri, voice=None)

    def ended(self, directory: Path) -> None:
        """Say that nothing more will be written to a run directory."""
        self._say(f"ended {directory.absolute()}")

    def finish(self, timeout_seconds: float) -> bool:
        """Say that all runs are over, and wait for the last records to arrive; after that the process goes on alone.

        Returns:
            Whether it does.
        """
        if self._process is None or self._process.stdin is None:
            return False
        self._say(f"{timeout_seconds}")
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            self._process.wait(timeout_seconds)
        return self._process.poll() is None

    def _say(self, line: str) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                self._process.stdin.write(f"{line}\n".encode())
                self._process.stdin.flush()


class _OneOfMany(Follower):
    """A run that is sent with many others, whose end is told apart."""

    def finish(self, timeout_seconds: float) -> str | None:
        """Do not wait."""
        self.is_sending = True
        return None


class _Sent:
    """A run that is being sent once no other process sends it."""

    def __init__(self, directory: Path, uri: str, on_problem: Callable[[Exception], None]) -> None:
        from filelock import FileLock

        self.lock = FileLock(directory / LOCK)
        sender = MlflowSender(directory, uri)
        self.following = Following(directory, sender, uri=shown(uri), on_problem=on_problem)
        self.due = 0.0
        self.has_ended = False

    def is_alone(self, *, wait: bool) -> bool:
        """Whether no other process sends the run; where nothing else is left to do, wait for that."""
        from filelock import Timeout

        try:
            if not self.lock.is_locked:
                self.lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            return False
        return True

    def end(self) -> None:
        """Nothing more will be written; what there is is due now."""
        self.has_ended, self.due = True, 0.0

    def step(self, failures: list[Exception], *, is_last: bool) -> None:
        """Send what is new; what arrives ends a row of failures."""
        before = len(failures)
        self.following.step(is_last=is_last)
        if len(failures) == before:
            failures.clear()


def main() -> int:
    """Send the runs that are named, until they have ended."""
    set_environment()
    voice = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(1, 2)  # what libraries say goes to tracking.log, once there is one
    gc.set_threshold(50_000, 20, 100)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to all processes of a job; the trainer still has to save
    os.nice(10)
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    import_ahead()
    return 0 if _send_all(lines, absolute(os.environ[URI_VARIABLE]), voice) else 1


def _listen(lines: queue.Queue[str]) -> None:
    for line in sys.stdin:
        lines.put(line.rstrip("\n"))
    lines.put("")


def _send_all(lines: queue.Queue[str], uri: str, voice: IO[str]) -> bool:
    """Send runs in turn; return whether all have arrived.

    After a failure none is tried for 2 s, 4 s, ..., 30 s; one that has ended and does not arrive is tried as long as
    others go on. At the end all are tried once more, until a second one in a row fails: a server that is gone is not
    waited for run by run.
    """
    failures = list[Exception]()  # since something has arrived
    has_warned = False

    def on_problem(error: Exception) -> None:
        nonlocal has_warned
        failures.append(error)
        if not has_warned:
            has_warned = True
            with contextlib.suppress(OSError, ValueError):
                print(_warning(uri, error), file=voice)

    runs, is_over, has_arrived, patience = dict[str, _Sent](), False, True, 0.0
    while runs or not is_over:
        if _obey(lines, runs, uri, on_problem, voice) and not is_over:
            is_over = True
            del failures[1:]  # at least one is tried
        for name, run in list(runs.items()):
            if is_over and len(failures) > 1:
                run.following.give_up()
            elif (is_over or time.monotonic() >= max(run.due, patience)) and run.is_alone(wait=is_over):
                run.step(failures, is_last=run.has_ended or is_over)
                run.due = time.monotonic() + max(run.following.pause, len(runs) / _RUNS_A_SECOND)
                patience = time.monotonic() + min(2 ** len(failures), LONGEST_PAUSE_SECONDS) if failures else 0.0
            if run.following.has_arrived or (is_over and run.following.is_over):
                has_arrived = has_arrived and run.following.has_arrived
                run.lock.release()
                del runs[name]
    return has_arrived


def _obey(
    lines: queue.Queue[str], runs: dict[str, _Sent], uri: str, on_problem: Callable[[Exception], None], voice: IO[str]
) -> bool:
    """Do what the lines say that have come; return whether all runs are over."""
    with contextlib.suppress(queue.Empty):
        line = lines.get(timeout=_TICK_SECONDS)
        while True:
            word, _, directory = line.partition(" ")
            if word == "log":
                _log_to(Path(directory))
            elif word == "follow":
                runs[directory] = _Sent(Path(directory), uri, on_problem)
            elif word == "ended":
                if directory in runs:
                    runs[directory].end()
            else:
                _let_go(voice, word)
                return True
            line = lines.get_nowait()
    return False


def _log_to(directory: Path) -> None:
    with contextlib.suppress(OSError), (directory / LOG).open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


def _let_go(voice: IO[str], seconds: str) -> None:
    """Let go of the terminal when the trainer waits no longer."""
    with contextlib.suppress(ValueError, OverflowError):
        timer = threading.Timer(float(seconds or 0), voice.close)
        timer.daemon = True
        timer.start()


def _warning(uri: str, error: Exception) -> str:
    return f"{unreachable(uri, error)} The runs go on; what has not arrived is named at the end."


if __name__ == "__main__":
    leave(main())
