"""Ctrl-C and SIGTERM, turned into a question that the loop asks after each step."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
