"""What this process and its children write on standard error, kept aside while a table is on the screen."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
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
        self._seen: Counter[str] = Counter()

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
        lines = [line for line in text.decode(errors="replace").splitlines() if line.strip()]
        fresh = [line for line in dict.fromkeys(lines) if line not in self._seen]
        self._seen.update(lines)
        return fresh

    def repeated(self) -> str:
        """Return a line about the lines that were shown once but came more often, "" when there are none."""
        times = [count for count in self._seen.values() if count > 1]
        if not times:
            return ""
        lines = f"{len(times):,} line{'s' if len(times) > 1 else ''} above came up to {max(times):,} times"
        return f"{lines}, from one job or several; {os.path.relpath(self._path)} has them all"


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
        if repeated := gathered.repeated():
            print(repeated, file=sys.stderr)
