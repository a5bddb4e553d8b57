"""Ctrl-C and SIGTERM, turned into a question that the loop asks after each step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def listen() -> Iterator[Callable[[], signal.Signals | None]]:
    """Catch SIGINT and SIGTERM while inside; yield a function that returns the first one received, or None.

    A second signal acts at once, as without this. Outside the main thread nothing is caught.
    """
    received: list[signal.Signals] = []
    before: dict[signal.Signals, signal._HANDLER] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def catch(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        restore()

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, catch) for number in SIGNALS}
    try:
        yield lambda: received[0] if received else None
    finally:
        restore()
