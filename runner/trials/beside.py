"""What goes on beside a batched pass: pictures are drawn, and records sent, by one process each for all runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from runner.config import Tracking
from runner.tracking.address import absolute, shown
from runner.tracking.follower import Follower
from runner.tracking.jsonl import find_result, write_result
from runner.tracking.transfer import read_state
from runner.trials.pictures import Pictures


class Beside:
    """Draws and sends for the runs of a pass.

    Args:
        directory: of the sweep.
        tracking: where records are sent.
        runs: how many there will be.
    Attributes:
        draw: as `recorded` takes it.
    """

    def __init__(self, directory: Path, tracking: Tracking, *, runs: int) -> None:
        from runner.tracking.follow_many import ManyFollower

        self._tracking = tracking
        self._followed: list[Path] = []
        self._many = ManyFollower(directory, uri=tracking.uri, warn=_warn) if tracking.uri is not None else None
        self._pictures = Pictures(self._is_drawn, expected=runs)
        self.draw = self._pictures.draw

    def follow(self, directory: Path, *, uri: str, warn: Callable[[str], None]) -> Follower:
        """Start to send the records of a run; as `recorded` takes it."""
        assert self._many is not None, "nothing is sent"
        self._followed.append(directory)
        return self._many.follow(directory, uri=uri, warn=warn)

    def close(self) -> None:
        """Come back when all is drawn, and sent or the time to wait over; the runs then know their MLflow runs."""
        self._pictures.close()
        if self._many is None or self._tracking.uri is None:
            return
        self._many.finish(self._tracking.wait_seconds)
        place = shown(absolute(self._tracking.uri))
        for directory in self._followed:
            state, result = read_state(directory, place), find_result(directory)
            if state is not None and result is not None and state.run_id is not None:
                write_result(directory, replace(result, mlflow_run_id=state.run_id))

    def _is_drawn(self, directory: Path) -> None:
        """Let MLflow have the end of a run, its picture included."""
        if self._many is not None:
            self._many.ended(directory)


def _warn(text: str) -> None:
    print(f"warning {text}", file=sys.stderr)
