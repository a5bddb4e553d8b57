"""The pictures of many runs, drawn beside their training by a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from runner.tracking.directory import CURVES
from runner.tracking.jsonl import read_records

if TYPE_CHECKING:
    from runner.diagnosis.verdict import Stretch
    from runner.records import Record

_AHEAD = 4  # pictures that the process has at once, so that it need not wait for the next one
_LAST_SECONDS = 5.0
_MANY = 13


class Picture(NamedTuple):
    """What `curves.png` of a run is drawn from, besides its records.

    Attributes:
        directory: of the run.
        title, verdict, stretches: as `runner.report.figures.curves` takes them.
    """

    directory: Path
    title: str
    verdict: str
    stretches: Sequence[Stretch]


def draw(picture: Picture, records: Iterable[Record] | None = None) -> None:
    """Draw a picture; its records are read where they are not given.

    Raises:
        OSError, ValueError: it cannot be.
    """
    from runner.report.figures import curves

    history = read_records(picture.directory) if records is None else records
    path = picture.directory / CURVES
    curves(history, path, title=picture.title, verdict=picture.verdict, stretches=picture.stretches)


class Pictures:
    """Draws pictures in a process of its own; what is left at the end is shared with it.

    Args:
        on_drawn: is called with the directory of a run whose picture is there, or cannot be.
        expected: how many there will be; few are drawn here, as the process takes as long to start.
    """

    def __init__(self, on_drawn: Callable[[Path], None] = lambda directory: None, *, expected: int = _MANY) -> None:
        self._on_drawn = on_drawn
        self._waiting = deque[Picture]()
        self._there = deque[Picture]()
        self._process: BaseProcess | None = None
        if expected < _MANY:
            return
        context = multiprocessing.get_context("spawn")
        self._connection, there = context.Pipe()
        self._process = context.Process(target=_work, args=(there,), daemon=True)
        self._process.start()
        there.close()

    def draw(self, picture: Picture, records: Iterable[Record]) -> None:
        """Have a picture drawn, now or later."""
        self._waiting.append(picture)
        self._feed()

    def close(self) -> None:
        """Come back when all are drawn."""
        while self._waiting or self._there:
            self._feed()
            if self._waiting:
                self._draw_here(self._waiting.pop())
            elif self._there:
                self._hear()
        if self._process is None:
            return
        self._connection.close()
        self._process.join(_LAST_SECONDS)
        if self._process.exitcode is None:
            self._process.kill()

    def _feed(self) -> None:
        while self._process is None and self._waiting:
            self._draw_here(self._waiting.popleft())
        while self._there and self._connection.poll():
            self._hear()
        while self._waiting and len(self._there) < _AHEAD:
            picture = self._waiting.popleft()
            self._there.append(picture)
            with contextlib.suppress(OSError):  # it has died, which shows when it is listened to
                self._connection.send(picture)

    def _hear(self) -> None:
        """Wait until one more is drawn; what a process that died has left undone is drawn here."""
        try:
            self._connection.recv()
            self._on_drawn(self._there.popleft().directory)
        except (EOFError, OSError):
            while self._there:
                self._draw_here(self._there.popleft())

    def _draw_here(self, picture: Picture) -> None:
        _draw_or_say(picture)
        self._on_drawn(picture.directory)


def _work(connection: Connection) -> None:
    """Draw what comes, until nothing more does."""
    while True:
        try:
            picture = connection.recv()
        except (EOFError, OSError):
            return
        _draw_or_say(picture)
        with contextlib.suppress(OSError):
            connection.send(None)


def _draw_or_say(picture: Picture) -> None:
    try:
        draw(picture)
    except (OSError, ValueError) as error:
        print(f"warning {picture.directory / CURVES}: no picture: {type(error).__name__}: {error}", file=sys.stderr)
