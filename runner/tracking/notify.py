"""`notify.command`: a shell command that hears of alarms and of the end of the run."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from runner.records import Alarm, Record, RunResult
from runner.tracking.directory import NOTIFY_LOG

SECONDS_BETWEEN_LIKE_ALARMS = 60.0
WAIT_SECONDS = 5.0


class Notifier:
    """Starts the command of the user when an alarm is raised and when the run ends; never raises, never waits in a run.

    The command learns what happened from its environment:

    STEPSIZE_EVENT     alarm, finished, diverged, interrupted or failed
    STEPSIZE_MESSAGE   the alarm or the verdict, one sentence
    STEPSIZE_STEP      step of the alarm, or updates made
    STEPSIZE_DETECTOR  name of the detector; empty at the end
    STEPSIZE_RUN       the run directory, an absolute path
    STEPSIZE_TITLE     the run's readable name

    While it handles one alarm, further ones are not told; nor is a second one of the same detector within a minute.
    Its output goes to `notify.log` in the run directory.

    Args:
        command: what /bin/sh runs; None for nothing.
        directory: the run directory; must exist.
        title: the run's readable name.
        warn: is called once, with a sentence, when the command fails or cannot be started.
    """

    def __init__(self, command: str | None, directory: Path, *, title: str, warn: Callable[[str], None]) -> None:
        self._command = command
        self._directory = directory.absolute()
        self._title = title
        self._warn = warn
        self._has_warned = False
        self._running: list[subprocess.Popen[bytes]] = []
        self._next_of_detector: dict[str, float] = {}

    def show(self, record: Record) -> None:
        """Start the command when the record is an alarm that is to be told."""
        if not isinstance(record, Alarm) or self._command is None:
            return
        self._reap()
        now = time.monotonic()
        if self._running or now < self._next_of_detector.get(record.detector, 0.0):
            return
        self._next_of_detector[record.detector] = now + SECONDS_BETWEEN_LIKE_ALARMS
        self._start("alarm", record.message, step=record.step, detector=record.detector)

    def end(self, result: RunResult) -> None:
        """Tell the end of the run, and wait for the command a few seconds; after that it goes on alone."""
        deadline = time.monotonic() + WAIT_SECONDS
        self._reap(WAIT_SECONDS / 2)  # so that the last alarm is told before the end that it caused
        self._start(result.status, result.verdict, step=result.steps)
        self._reap(deadline - time.monotonic())

    def _start(self, event: str, message: str, *, step: int, detector: str = "") -> None:
        if self._command is None:
            return
        told = {
            "EVENT": event,
            "MESSAGE": message,
            "STEP": str(step),
            "DETECTOR": detector,
            "RUN": str(self._directory),
            "TITLE": self._title,
        }
        variables = {f"STEPSIZE_{name}": value.replace("\0", "") for name, value in told.items()}
        try:
            with (self._directory / NOTIFY_LOG).open("ab") as log:
                process = subprocess.Popen(
                    self._command,
                    shell=True,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **variables},
                    start_new_session=True,  # Ctrl-C is for the run
                )
        except (OSError, ValueError) as error:
            self._complain(f"cannot be started ({error})")
        else:
            self._running.append(process)

    def _reap(self, timeout_seconds: float = 0.0) -> None:
        """Take note of the commands that have ended, those that end within the timeout included."""
        deadline = time.monotonic() + timeout_seconds
        for process in self._running:
            with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                code = process.wait(max(deadline - time.monotonic(), 0.0))
                if code != 0:
                    how = f"exit code {code}" if code > 0 else f"signal {-code}"
                    self._complain(
                        f"ended with {how}, {os.path.relpath(self._directory / NOTIFY_LOG)} holds its output"
                    )
        self._running = [process for process in self._running if process.returncode is None]

    def _complain(self, what: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            self._warn(f"notify.command: {what}. The run is not affected.")
