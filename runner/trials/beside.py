"""What goes on beside the runs of a sweep: their pictures are drawn, and their records sent, by one process each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from runner.config import Tracking
from runner.tracking.address import absolute, shown
from runner.tracking.follower import Follower
from runner.tracking.jsonl import find_result, write_result
from runner.tracking.transfer import has_all, read_state
from runner.trials.pictures import Picture, Pictures

if TYPE_CHECKING:
    from runner.records import Record
    from runner.tracking.follow_many import ManyFollower


class Beside:
    """Draws and sends for the runs of a sweep.

    Nothing is started before it is asked for; what is started early imports what it needs while the sweep is checked.

    Args:
        tracking: of the sweep.
    """

    def __init__(self, tracking: Tracking) -> None:
        self._tracking = tracking
        self._directory: Path | None = None
        self._followed: dict[Path, str] = {}  # where to
        self._drawing = set[Path]()
        self._senders: dict[str, ManyFollower] = {}  # by place
        self._pictures = Pictures(self.ended)
        self.is_used = False

    def start(self, *, runs: int = 0) -> None:
        """Start what sends, and for many runs what draws."""
        self.is_used = True
        if self._tracking.uri is not None:
            self._sender(self._tracking.uri)
        self._pictures.start(runs)

    def log_to(self, directory: Path) -> None:
        """Have what is said beside written in the directory of the sweep, which is there now."""
        self._directory = directory
        for sender in self._senders.values():
            sender.log_to(directory)

    def draw(self, picture: Picture, records: Iterable[Record]) -> None:
        """Draw the picture of a run, now or later, and send it with what else there is at its end."""
        self._drawing.add(picture.directory)
        self._pictures.draw(picture, records)

    def follow(self, directory: Path, *, uri: str, warn: Callable[[str], None]) -> Follower:
        """Start to send the records of a run; as `recorded` takes it."""
        self._followed[directory] = uri
        return self._sender(uri).follow(directory, uri=uri, on_finish=self._finished)

    def follow_last(self, directory: Path, *, uri: str, warn: Callable[[str], None]) -> Follower:
        """Send what has ended, as `start_follower` does; at its end all is drawn, and sent or the time to wait over."""
        self.follow(directory, uri=uri, warn=warn)
        return _Last(self, directory, uri)

    def close(self) -> bool:
        """Come back when all is drawn, and sent or the time to wait over; the runs then know their MLflow runs.

        Returns:
            Whether sending goes on.
        """
        self._pictures.close()
        wait = self._tracking.wait_seconds if self._followed else 0.0
        is_sending = [sender.finish(wait) for sender in self._senders.values()]
        self._senders.clear()
        for directory, uri in self._followed.items():
            state, result = read_state(directory, shown(absolute(uri))), find_result(directory)
            if state is not None and result is not None and state.run_id is not None:
                write_result(directory, replace(result, mlflow_run_id=state.run_id))
        self._followed.clear()
        return any(is_sending)

    def ended(self, directory: Path) -> None:
        """Let MLflow have the end of a run."""
        self._drawing.discard(directory)
        if directory in self._followed:
            self._sender(self._followed[directory]).ended(directory)

    def _finished(self, directory: Path) -> None:
        """A run that gets no picture, such as one that failed, has ended for MLflow too."""
        if directory not in self._drawing:
            self.ended(directory)

    def _sender(self, uri: str) -> ManyFollower:
        from runner.tracking.follow_many import ManyFollower

        if uri not in self._senders:
            self._senders[uri] = ManyFollower(uri=uri, warn=_warn)
            if self._directory is not None:
                self._senders[uri].log_to(self._directory)
        return self._senders[uri]


class _Last(Follower):
    """The summary of a sweep, sent behind its runs."""

    def __init__(self, beside: Beside, directory: Path, uri: str) -> None:
        super().__init__(None, directory, uri=uri, voice=None)
        self._beside = beside

    def finish(self, timeout_seconds: float) -> str | None:
        """Let all of the sweep arrive; return the id of the MLflow run of its summary, None when there is none."""
        place = shown(absolute(self._uri))
        self._beside.ended(self._directory)
        self.is_sending = self._beside.close()
        state = read_state(self._directory, place)
        self.delivered = has_all(self._directory, place)
        return state.run_id if state is not None else None


def _warn(text: str) -> None:
    print(f"warning {text}", file=sys.stderr)
