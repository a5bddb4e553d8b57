"""Ctrl-C and SIGTERM in a sweep: runs save, workers live until they have, and nothing new starts.

A worker that waits for its next job would die of a signal, and loky would then kill the others in the middle of a
step. So the signals are blocked where workers are born, and let through only while a job runs.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from runner.train.interrupt import SIGNALS

_POLL_SECONDS = 0.2


@contextlib.contextmanager
def interruptible(stop: Path) -> Iterator[None]:
    """Let signals through while a job runs, and turn one that comes outside its training into KeyboardInterrupt.

    Args:
        stop: is written with the number of the signal.
    """

    def catch(number: int, frame: FrameType | None) -> None:
        stop.write_text(str(number), encoding="utf-8")
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        for number in SIGNALS:
            signal.signal(number, catch)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # one that is pending is caught here
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def caught(stop: Path, *, pass_on: Callable[[int], None] | None = None) -> Iterator[None]:
    """Keep signals from ending the process that runs a sweep while its jobs run.

    Args:
        stop: is written with the number of the signal.
        pass_on: sends a signal to the child processes that jobs run in; None where they run in this one.
    """

    def catch(number: int, frame: FrameType | None = None) -> None:
        stop.write_text(str(number), encoding="utf-8")
        if pass_on is not None:
            pass_on(number)

    before = {number: signal.signal(number, catch) for number in SIGNALS}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    over = threading.Event()
    receiver = threading.Thread(target=_receive, args=(catch, over), daemon=True)
    if pass_on is not None:
        _start_resource_trackers()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # inherited by the workers
        receiver.start()
    try:
        yield
    finally:
        over.set()
        if pass_on is not None:
            receiver.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in before.items():
            signal.signal(number, handler)


def _receive(catch: Callable[[int], None], over: threading.Event) -> None:
    while not over.wait(_POLL_SECONDS):
        if pending := signal.sigpending() & set(SIGNALS):  # macOS has no sigtimedwait
            catch(signal.sigwait(pending))


def _start_resource_trackers() -> None:
    """Start the resource trackers of loky and Python, which would unblock the signals if they started later."""
    from multiprocessing import resource_tracker

    from joblib.externals.loky.backend import resource_tracker as loky_tracker

    resource_tracker.ensure_running()
    loky_tracker.ensure_running()


def pass_on_to_loky(number: int) -> None:
    """Send a signal to the workers of loky; followers of runs and loky's tracker have no use for it."""
    import psutil

    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if any("LokyProcess" in word for word in child.cmdline()):
                child.send_signal(number)
