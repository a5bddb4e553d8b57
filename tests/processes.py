"""The program in a process of its own that begins with its libraries imported: a fork of a server that has done it.

It has a process id, takes signals, writes to its own descriptors and ends with a code, as `python -m runner` does;
what a cold start, a shell or workers of joblib are part of is started as a command instead.
"""

import io
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, BinaryIO

_SERVER: Any = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "torch",
        "torch._dynamo",
        "matplotlib.pyplot",
        "hydra.main",
        "rich.live",
        "runner.modes.train",
        "tests.warm",
    ]
)


class Forked:
    """A run of the program; its output goes to given descriptors, or into files that `communicate` reads."""

    def __init__(
        self, *words: str, directory: Path, environment: Mapping[str, str], streams: int | None = None
    ) -> None:
        self._files: list[BinaryIO] = []
        if streams is None:
            self._files = [tempfile.TemporaryFile(), tempfile.TemporaryFile()]  # noqa: SIM115
        out, err = (file.fileno() for file in self._files) if self._files else (streams, streams)
        with open(os.devnull, "rb") as nothing:
            into = nothing.fileno() if streams is None else streams
            self._process = _SERVER.Process(
                target=_run, args=(words, str(directory), dict(environment), _Descriptors(into, out, err))
            )
            self._process.start()

    @property
    def pid(self) -> int:
        """The number of the process, and of the group that it leads."""
        number: int = self._process.pid
        return number

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float = 120) -> int:
        """Return the exit code, or minus the signal that killed it."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, "waited too long"
        code: int = self._process.exitcode
        return code

    def communicate(self, timeout: float = 120) -> tuple[int, str, str]:
        """Wait; return the exit code and what came on standard output and error."""
        code = self.wait(timeout)
        texts = []
        for file in self._files:
            file.seek(0)
            texts.append(file.read().decode())
            file.close()
        return code, texts[0], texts[1]


class _Descriptors:
    """Standard input, output and error on their way into the process."""

    def __init__(self, *numbers: Any) -> None:
        self._numbers = numbers

    def __reduce__(self) -> Any:  # called while the process is started
        return _duplicated, tuple(DupFd(number) for number in self._numbers)


def _duplicated(*given: Any) -> list[int]:
    return [one.detach() for one in given]


def _run(words: tuple[str, ...], directory: str, environment: dict[str, str], descriptors: list[int]) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _writer(1, line_buffering=os.isatty(1))  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _writer(2, line_buffering=True)  # type: ignore[misc]
    os.chdir(directory)
    sys.path.insert(0, directory)
    sys.argv = ["runner", *words]
    from runner.__main__ import main

    code = main()
    sys.stdout.flush()
    sys.exit(code)


def _writer(number: int, *, line_buffering: bool) -> io.TextIOWrapper:
    file = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
    encoding = os.environ.get("PYTHONIOENCODING", "utf-8")
    return io.TextIOWrapper(file, encoding=encoding, line_buffering=line_buffering)
