"""The loop that sends records as they are written, and what it remembers. MLflow is not known here."""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple, Protocol

from runner.records import from_json
from runner.tracking.directory import RECORDS, STATE, write_whole
from runner.tracking.mapping import EVENTS, Counters, Point, points

LARGEST_BATCH = 1000
POLL_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class State:
    """An entry of `mlflow.json`, one for each place: where the records went and how many of their bytes have arrived.

    Attributes:
        uri: absolute, with a password hidden.
        experiment_id: MLflow experiment; None before one is found.
        run_id: MLflow run; None before it is made.
        sent: bytes of records.jsonl that the server has.
        counters: what the next points depend on.
    """

    uri: str
    experiment_id: str | None = None
    run_id: str | None = None
    sent: int = 0
    counters: Counters = field(default_factory=Counters)


class Sender(Protocol):
    """The place that records are sent to. Each method may raise anything; it is then called again later."""

    def open(self, state: State) -> State:
        """Find or make the run; return the state to go on from."""

    def send(self, state: State, points: list[Point]) -> None:
        """Send points; the same points may be sent again."""

    def close(self, state: State) -> None:
        """Send what is known only at the end."""


class Batch(NamedTuple):
    """Points of whole lines, and the state once they have arrived."""

    points: list[Point]
    after: State


class Following:
    """One run directory whose records are sent as they are written.

    Args:
        directory: the run directory.
        sender: where to.
        uri: its name in mlflow.json.
    Attributes:
        pause: seconds to wait before the next step; doubles up to 30 s with every failure.
        is_over: whether the last step has been made.
        has_arrived: whether everything has arrived then.
        failure: of the newest step, None where it succeeded.
        has_sent: whether the records got through in the newest step, whatever became of what follows them.
    """

    def __init__(self, directory: Path, sender: Sender, *, uri: str) -> None:
        self.pause = POLL_SECONDS
        self.is_over = self.has_arrived = self.has_sent = False
        self.failure: Exception | None = None
        self._directory, self._sender, self._uri = directory, sender, uri
        self._state: State | None = None
        self._has_failed = False

    def step(self, *, is_last: bool) -> None:
        """Send what is new; after a failure the state on disk is taken up again.

        Args:
            is_last: whether nothing more will be written, so that this is the last step.
        """
        self.failure, self.has_sent = None, False
        try:
            before = self._state or self._sender.open(read_state(self._directory, self._uri) or State(self._uri))
            self._state = _drain(self._directory, self._sender, before)
            self.pause, self.has_sent = POLL_SECONDS, True
            if is_last:
                _end(self._directory, self._sender, self._state)
                self.has_arrived = True
        except Exception as error:
            if not self._has_failed:
                traceback.print_exc()
            self._has_failed, self.failure = True, error
            self._state, self.pause = None, min(2 * self.pause, LONGEST_PAUSE_SECONDS)
        self.is_over = is_last

    def give_up(self) -> None:
        """Make no further step."""
        self.is_over = True


def follow(directory: Path, sender: Sender, *, uri: str, ended: Event, on_problem: Callable[[Exception], None]) -> bool:
    """Send records as they are written, until the run has ended and all of them have arrived.

    Args:
        directory: the run directory.
        sender: where to.
        uri: its name in mlflow.json.
        ended: set once nothing more will be written; one last try is made then.
        on_problem: called with every failure.
    Returns:
        Whether everything has arrived.
    """
    following = Following(directory, sender, uri=uri)
    while True:
        following.step(is_last=ended.is_set())
        if following.failure is not None:
            on_problem(following.failure)
        if following.is_over:
            return following.has_arrived
        ended.wait(following.pause)


def _drain(directory: Path, sender: Sender, state: State) -> State:
    for batch in batches(directory / RECORDS, state):
        sender.send(batch.after, batch.points)
        state = batch.after
        write_state(directory, state)
    return state


def _end(directory: Path, sender: Sender, state: State) -> None:
    counters = state.counters
    if counters.step > counters.events_step:  # draw the staircase up to the last step
        sender.send(state, [Point(EVENTS, counters.events, counters.time_ms, counters.step)])
        write_state(directory, replace(state, counters=counters._replace(events_step=counters.step)))
    sender.close(state)


def batches(path: Path, state: State) -> Iterator[Batch]:
    """Yield what lies behind `state.sent`, whole lines only, at most 1,000 points at once."""
    if not path.exists():
        return
    found: list[Point] = []
    sent, counters = state.sent, state.counters
    with path.open("rb") as lines:
        lines.seek(sent)
        for line in lines:
            if not line.endswith(b"\n"):
                break
            more, after = _points_of_line(line, counters)
            if found and len(found) + len(more) > LARGEST_BATCH:
                yield Batch(found, replace(state, sent=sent, counters=counters))
                found = []
            found += more
            sent, counters = sent + len(line), after
    if sent > state.sent:
        yield Batch(found, replace(state, sent=sent, counters=counters))


def first_time_ms(path: Path) -> int | None:
    """Return the time of the first record that has one, None while there is none."""
    with contextlib.suppress(OSError, ValueError), path.open("rb") as lines:
        times = (json.loads(line).get("time_ms") for line in lines)
        return next((time_ms for time_ms in times if isinstance(time_ms, int)), None)
    return None


def _points_of_line(line: bytes, counters: Counters) -> tuple[list[Point], Counters]:
    try:
        return points(from_json(line.decode()), counters)
    except ValueError as error:
        print(f"left out: {error}", file=sys.stderr)
        return [], counters


def read_state(directory: Path, uri: str) -> State | None:
    """Return the state of earlier sending to the same place, None when there is none that fits."""
    data = _states(directory).get(uri)
    try:
        state = State(**{**data, "counters": Counters(**data["counters"])})  # type: ignore[dict-item, index]
    except (TypeError, KeyError):
        return None
    records = directory / RECORDS
    size = records.stat().st_size if records.exists() else 0
    return state if state.sent <= size else None


def has_all(directory: Path, uri: str) -> bool:
    """Return whether every record of a run directory has arrived at a place."""
    records = directory / RECORDS
    state = read_state(directory, uri)
    return not records.exists() or (state is not None and state.sent == records.stat().st_size)


def write_state(directory: Path, state: State) -> None:
    """Write mlflow.json, one entry a place, so that a reader sees the old one or the new one, never half."""
    data = {**asdict(state), "counters": state.counters._asdict()}
    write_whole(directory / STATE, json.dumps({**_states(directory), state.uri: data}, indent=2) + "\n")


def _states(directory: Path) -> dict[str, dict[str, Any]]:
    try:
        data = json.loads((directory / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
