"""Standard output and error that never end a run: when nobody reads them any more, what is said is dropped."""

from __future__ import annotations

import io
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


_PATIENCE_SECONDS = 1.0


class _Dropping(io.FileIO):
    """A file that takes whatever is written to it, also behind a closed pipe, a lost terminal or on a full disk."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            written: int | None = super().write(data)
            if written is None:  # it does not block and is full
                select.select([], [self], [], _PATIENCE_SECONDS)
                written = super().write(data)
        except OSError:
            written = None
        return memoryview(data).nbytes if written is None else written


def keep_streams() -> None:
    """Let a run go on when its standard output or error is closed, as by `| head`; its directory has it all.

    Streams that something else has put into their place are left alone.
    """
    if sys.stdout is sys.__stdout__:
        sys.stdout = _kept(sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _kept(sys.stderr)


def _kept(stream: TextIO | None) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):  # closed from the start: takes the number, before a file of ours does
        return open(os.devnull, "w", encoding="utf-8")
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Dropping(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
