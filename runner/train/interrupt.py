"""Ctrl-C and SIGTERM, turned into a question that the loop asks after each step."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_early: list[int] = []


def catch_early() -> None:
    """Remember a Ctrl-C of the time before anything listens, as an import in progress may swallow its exception."""
    _early.clear()

    def catch(number: int, frame: FrameType | None) -> None:
        _early.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, catch)


def raise_early() -> None:
    """Raise KeyboardInterrupt where one was swallowed."""
    if _early:
        _early.clear()
        raise KeyboardInterrupt


@contextmanager
def listen() -> Iterator[Callable[[], signal.Signals | None]]:
    """Catch SIGINT and SIGTERM while inside; yield a function that returns the first one received, or None.

    A second signal, a second later or more, acts at once, as without this. Outside the main thread nothing is caught.
    """
    received: list[signal.Signals] = []
    since: list[float] = []
    before: dict[signal.Signals, signal._HANDLER] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def catch(number: int, frame: FrameType | None) -> None:
        if not received:
            received.append(signal.Signals(number))
            since.append(time.monotonic())
        elif time.monotonic() - since[0] > 1.0:
            restore()
            raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, catch) for number in SIGNALS}
    try:
        yield lambda: received[0] if received else None
    finally:
        restore()
