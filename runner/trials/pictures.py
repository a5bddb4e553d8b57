"""The pictures of many runs, drawn beside their training by a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import sys
import threading
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

_MANY = 13  # runs; fewer pictures take less than to start a process for them


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
    """Draws pictures; of many runs in a process of its own, and what is left at the end both here and there.

    Args:
        on_drawn: is called with the directory of a run whose picture is there, or cannot be; maybe from a thread.
    """

    def __init__(self, on_drawn: Callable[[Path], None] = lambda directory: None) -> None:
        self._on_drawn = on_drawn
        self._waiting: queue.SimpleQueue[Picture | None] = queue.SimpleQueue()
        self._undrawn: list[Picture] = []
        self._process: BaseProcess | None = None
        self._thread: threading.Thread | None = None

    def start(self, expected: int) -> None:
        """Start the process, unless it is there, or so few are expected that it would take as long to start."""
        if self._process is not None or expected < _MANY:
            return
        context = multiprocessing.get_context("spawn")
        connection, there = context.Pipe()
        self._process = context.Process(target=_work, args=(there,), daemon=True)
        self._process.start()
        there.close()
        self._thread = threading.Thread(target=self._feed, args=(connection,), daemon=True)
        self._thread.start()

    def draw(self, picture: Picture, records: Iterable[Record]) -> None:
        """Have a picture drawn, now or later."""
        if self._process is None:
            self._draw_here(picture, records)
        else:
            self._waiting.put(picture)

    def close(self) -> None:
        """Come back when all are drawn."""
        if self._process is None or self._thread is None:
            return
        with contextlib.suppress(queue.Empty):
            while (picture := self._waiting.get_nowait()) is not None:
                self._draw_here(picture)
        self._waiting.put(None)
        self._thread.join()
        while self._undrawn:
            self._draw_here(self._undrawn.pop())
        self._process.kill()  # it has nothing to do
        self._process.join()
        self._process = self._thread = None

    def _feed(self, connection: Connection) -> None:
        """Hand pictures to the process, one at a time; what a process that dies has not drawn is drawn at the end."""
        with connection:
            while (picture := self._waiting.get()) is not None:
                try:
                    connection.send(picture)
                    connection.recv()
                except (EOFError, OSError):
                    self._undrawn.append(picture)
                    return
                self._on_drawn(picture.directory)

    def _draw_here(self, picture: Picture, records: Iterable[Record] | None = None) -> None:
        _draw_or_say(picture, records)
        self._on_drawn(picture.directory)


def _work(connection: Connection) -> None:
    """Draw what comes, until nothing more does."""
    from runner.report.style import import_ahead

    import_ahead()
    while True:
        try:
            picture = connection.recv()
        except (EOFError, OSError):
            return
        _draw_or_say(picture)
        with contextlib.suppress(OSError):
            connection.send(None)


def _draw_or_say(picture: Picture, records: Iterable[Record] | None = None) -> None:
    try:
        draw(picture, records)
    except (OSError, ValueError) as error:
        print(f"warning {picture.directory / CURVES}: no picture: {type(error).__name__}: {error}", file=sys.stderr)
