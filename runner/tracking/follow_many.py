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
from collections.abc import Callable
from pathlib import Path
from typing import IO

from runner.tracking.address import absolute, child_environment, set_environment, unreachable
from runner.tracking.directory import LOG
from runner.tracking.follower import URI_VARIABLE, Follower, leave, relay
from runner.tracking.mlflow import import_ahead
from runner.tracking.sending import REST, Sending, Sent

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

    def follow(self, directory: Path, *, uri: str, on_finish: Callable[[Path], None]) -> Follower:
        """Start to send the records of a run directory; as `start_follower`, but what waits for its end is called."""
        self._say(f"follow {directory.absolute()}")
        return _OneOfMany(directory, uri=uri, on_finish=on_finish)

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
                self._process.stdin.write(os.fsencode(f"{line}\n"))
                self._process.stdin.flush()


class _OneOfMany(Follower):
    """A run that is sent with many others, whose end is told apart."""

    def __init__(self, directory: Path, *, uri: str, on_finish: Callable[[Path], None]) -> None:
        super().__init__(None, directory, uri=uri, voice=None)
        self._on_finish = on_finish

    def finish(self, timeout_seconds: float) -> str | None:
        """Do not wait."""
        self.is_sending = True
        self._on_finish(self._directory)
        return None


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
    for line in sys.stdin.buffer:  # names of directories are bytes, whatever the locale
        lines.put(os.fsdecode(line).rstrip("\n"))
    lines.put("")


def _send_all(lines: queue.Queue[str], uri: str, voice: IO[str]) -> bool:
    """Send runs in turn; return whether all have arrived."""
    sending, is_over = Sending(uri, voice), False
    while sending.runs or not is_over:
        seconds = _obey(lines, sending.runs, uri)
        if seconds is not None and not is_over:
            is_over = True
            _let_go(voice, seconds)
            sending.begin_end()
        sending.step(is_over=is_over)
    return sending.has_arrived


def _obey(lines: queue.Queue[str], runs: dict[str, Sent], uri: str) -> str | None:
    """Do what the lines say that have come; return how long somebody waits, once all runs are over."""
    with contextlib.suppress(queue.Empty):
        line = lines.get(timeout=_TICK_SECONDS)
        while True:
            word, _, directory = line.partition(" ")
            if word == "log":
                _log_to(Path(directory))
            elif word == "follow":
                runs[directory] = Sent(Path(directory), uri)
            elif word == "ended":
                if directory in runs:
                    runs[directory].end()
            else:
                return word
            line = lines.get_nowait()
    return None


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
    return f"{unreachable(uri, error)} {REST}"


if __name__ == "__main__":
    leave(main())
