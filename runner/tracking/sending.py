"""Runs that are sent to one place in turn, whatever is wrong with the place or with one of them."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import IO

from runner.tracking.address import has_no_answer, reason, shown, unreachable
from runner.tracking.directory import LOCK
from runner.tracking.mlflow import MlflowSender
from runner.tracking.transfer import LONGEST_PAUSE_SECONDS, Following

REST = "The runs go on; what has not arrived is named at the end."
_RUNS_A_SECOND = 4  # that are looked at while they go on


class Sent:
    """A run that is being sent once no other process sends it.

    Attributes:
        due: when it is looked at next, in seconds of the monotonic clock.
        has_ended: whether nothing more will be written.
        failures: how often its records did not get through.
    """

    def __init__(self, directory: Path, uri: str) -> None:
        from filelock import FileLock

        self.lock = FileLock(directory / LOCK)
        sender = MlflowSender(directory, uri)
        self.following = Following(directory, sender, uri=shown(uri))
        self.due = 0.0
        self.has_ended = False
        self.failures = 0

    def end(self) -> None:
        """Nothing more will be written; what there is is due now."""
        self.has_ended, self.due = True, 0.0

    def is_alone(self) -> bool:
        """Whether no other process sends the run.

        Raises:
            OSError: its directory cannot be written to.
        """
        from filelock import Timeout

        with contextlib.suppress(Timeout):
            self.lock.acquire(timeout=0)
        return self.lock.is_locked

    def step(self, *, is_last: bool, least_pause: float) -> bool | None:
        """Send what is new; return whether the records got through, None where another process sends them."""
        try:
            if not self.lock.is_locked and not self.is_alone():
                return None
            self.following.step(is_last=is_last)
        except OSError as error:  # of the lock
            self.following.failure = error
            self.following.is_over = is_last
        self.due = time.monotonic() + max(self.following.pause, least_pause)
        self.failures += not self.following.has_sent
        return self.following.has_sent


class Sending:
    """The runs that are sent in turn, those that failed least often first.

    Where the records of two runs in a row do not get through, or of the only one before any did, the server is gone:
    one run is tried after 2 s, 4 s, ..., 30 s. One that has ended and has not arrived is tried as long as others go on.
    At the end all are tried once more, as long as the server is not gone: it is not waited for run by run.

    Args:
        uri: where to.
        voice: where what goes wrong is said, once for the server and once for a run.
    Attributes:
        runs: directory -> what is being sent.
        has_arrived: whether all that is over has arrived.
    """

    def __init__(self, uri: str, voice: IO[str]) -> None:
        self.runs = dict[str, Sent]()
        self.has_arrived = True
        self._uri, self._voice = uri, voice
        self._failing = dict[str, Exception]()  # since the records of a run got through
        self._told = set[str]()
        self._has_got_through = False
        self._tries, self._patience = 0, 0.0

    @property
    def is_gone(self) -> bool:
        """Whether the server is taken to be gone."""
        is_alone = bool(self._failing) and self._failing.keys() >= self.runs.keys()
        return len(self._failing) > 1 or (is_alone and not self._has_got_through)

    def begin_end(self) -> None:
        """Try all once more."""
        self._failing.clear()
        self._patience = 0.0

    def step(self, *, is_over: bool) -> None:
        """Look at the runs that are due, or at the end at all of them."""
        for name, run in sorted(self.runs.items(), key=lambda pair: (pair[1].failures, pair[1].due)):
            now = time.monotonic()
            if is_over and self.is_gone:
                run.following.give_up()
            elif is_over or (now >= run.due and now >= self._patience):
                self._try(name, run, is_last=run.has_ended or is_over)
            if run.following.has_arrived or (is_over and run.following.is_over):
                self.has_arrived = self.has_arrived and run.following.has_arrived
                run.lock.release()
                del self.runs[name]
        self._tell()

    def _try(self, name: str, run: Sent, *, is_last: bool) -> None:
        got_through = run.step(is_last=is_last, least_pause=len(self.runs) / _RUNS_A_SECOND)
        if got_through:
            self._failing.clear()
            self._has_got_through, self._tries, self._patience = True, 0, 0.0
        elif got_through is not None and run.following.failure is not None:
            self._failing[name] = run.following.failure
            if self.is_gone:
                self._tries += 1
                self._patience = time.monotonic() + min(2**self._tries, LONGEST_PAUSE_SECONDS)
        if got_through and run.following.failure is not None:
            self._say(name, f"{os.path.relpath(name)}: its files cannot be sent ({reason(run.following.failure)}).")

    def _tell(self) -> None:
        """Say what is wrong with the server, or with a run beside others that get through."""
        for name, error in self._failing.items():
            if self.is_gone or has_no_answer(error):
                self._say("", unreachable(self._uri, error))
            else:
                self._say(name, f"{os.path.relpath(name)}: cannot be sent ({reason(error)}).")

    def _say(self, about: str, text: str) -> None:
        if about not in self._told:
            self._told.add(about)
            with contextlib.suppress(OSError, ValueError):
                print(f"{text} {REST}", file=self._voice)
