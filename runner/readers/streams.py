"""The beginning of a stream, looked at and put back; and how its text is encoded."""

from __future__ import annotations

import codecs
import io
from typing import IO, Any

from runner.errors import ConfigError
from runner.readers.problems import TRIED, refused

HEAD_BYTES = 1 << 16


class Whole(io.RawIOBase):
    """A stream with its head put back."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        """Whether it can be read: yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as there is something."""
        chunk = self._head[: len(buffer)]
        if chunk:
            self._head = self._head[len(chunk) :]
        else:
            chunk = self._rest.read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)


def peek(stream: IO[bytes]) -> bytes:
    """Read the head of a stream, which may come bit by bit."""
    head = b""
    while len(head) < HEAD_BYTES and (chunk := stream.read(HEAD_BYTES - len(head))):
        head += chunk
    return head


def encoding_of(head: bytes, name: str) -> str:
    """Return the encoding of a text: that of its mark, else UTF-8.

    Raises:
        ConfigError: it is no text.
    """
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" in head:
        rule = f"must be one of {TRIED}, got {name} with bytes that are no text"
        raise refused(rule, "Export the curve as CSV")
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError as error:
        raise not_text(name, error.start) from None
    return "utf-8-sig" if head.startswith(codecs.BOM_UTF8) else "utf-8"


def not_text(name: str, place: int) -> ConfigError:
    """Return the error of bytes that are no UTF-8."""
    return refused(f"must be text in UTF-8, got {name} whose byte {place:,} is not", "Save it as CSV in UTF-8")
