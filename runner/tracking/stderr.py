"""What this process and its children write on standard error, kept aside while a table is on the screen."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class GatheredStderr:
    """A file that takes the place of standard error.

    Args:
        path: of the file.
        terminal: file descriptor of the true standard error.
    """

    def __init__(self, path: Path, terminal: int) -> None:
        self.terminal = terminal
        self._path = path
        self._offset = path.stat().st_size
        self._seen: set[str] = set()

    def say(self, line: str) -> None:
        """Write a line to the true standard error; it is dropped when nobody reads there."""
        with contextlib.suppress(OSError):
            os.write(self.terminal, f"{line}\n".encode())

    def new_lines(self, *, is_over: bool = False) -> list[str]:
        """Return the whole lines written since the last call, those that came before left out."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        if not is_over:
            text = text[: text.rfind(b"\n") + 1]
        self._offset += len(text)
        lines = dict.fromkeys(text.decode(errors="replace").splitlines())
        fresh = [line for line in lines if line.strip() and line not in self._seen]
        self._seen.update(fresh)
        return fresh


@contextmanager
def gathered_stderr(path: Path) -> Iterator[GatheredStderr]:
    """Send standard error to a file, of this process and of those it starts; at the end the rest is shown."""
    sys.stderr.flush()
    terminal = os.dup(2)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    gathered = GatheredStderr(path, terminal)
    os.dup2(file, 2)
    os.close(file)
    try:
        yield gathered
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)
        os.close(terminal)
        for line in gathered.new_lines(is_over=True):
            print(line, file=sys.stderr)
