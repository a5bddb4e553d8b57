"""Event files of TensorBoard, read without it: framed records, each a protocol buffer of which the scalars are taken.

A record is its length (8 bytes), a checksum of that (4), the message, and a checksum of the message (4), all little
endian; the format is that of TFRecord. Of an Event the fields step (2) and summary (5) are read, of a summary its
values (1), and of a value tag (1), simple_value (2) and tensor (8: dtype 1, tensor_content 4, float_val 5,
double_val 6).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from runner.readers.problems import refused
from runner.readers.roles import is_held_out

_HEADER = 12
_FLOAT, _DOUBLE = 1, 2  # dtypes of a tensor
_CASTAGNOLI = 0x82F63B78


def is_event_file(head: bytes) -> bool:
    """Whether a file begins with the frame of a record."""
    if len(head) < _HEADER:
        return False
    return int.from_bytes(head[8:_HEADER], "little") == _masked(_crc32c(head[:8]))


def read_events(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Return tag -> steps and values of one file; a torn last record is left out.

    Raises:
        ConfigError: the file is damaged.
    """
    series: dict[str, tuple[list[float], list[float]]] = {}
    with path.open("rb") as file:
        for number, message in enumerate(_records(file, path), start=1):
            try:
                for step, tag, value in _scalars(message):
                    steps, values = series.setdefault(tag, ([], []))
                    steps.append(step)
                    values.append(value)
            except (ValueError, IndexError, struct.error, UnicodeDecodeError):
                rule = f"must hold sound events, got {str(path)!r} whose record {number:,} is damaged"
                raise refused(rule, "Export the curve as CSV") from None
    return series


def read_event_files(paths: list[Path]) -> dict[str, tuple[list[float], list[float]]]:
    """Return tag -> steps and values of several files of one run, in the order in which they were begun.

    Where they lie in several folders, as Keras writes them, those of held-out data give their name to the tags.

    Raises:
        ConfigError: a file is damaged.
    """
    joined: dict[str, tuple[list[float], list[float]]] = {}
    has_splits = len({path.parent for path in paths}) > 1
    for path in paths:
        split = f"{path.parent.name}/" if has_splits and is_held_out(path.parent.name) else ""
        for tag, (steps, values) in read_events(path).items():
            into = joined.setdefault(split + tag, ([], []))
            into[0].extend(steps)
            into[1].extend(values)
    return joined


def _records(file: IO[bytes], path: Path) -> Iterator[bytes]:
    number = 0
    while len(header := file.read(_HEADER)) == _HEADER:
        number += 1
        length, checksum = struct.unpack("<QI", header)
        if checksum != _masked(_crc32c(header[:8])):
            rule = f"must hold sound events, got {str(path)!r} whose record {number:,} has a wrong checksum"
            raise refused(rule, "Export the curve as CSV")
        message = file.read(length)
        if len(message) < length or len(file.read(4)) < 4:
            return
        yield message


def _scalars(event: bytes) -> Iterator[tuple[float, str, float]]:
    step, summaries = 0.0, []
    for field, value in _fields(event):
        if field == 2 and isinstance(value, int):
            step = float(value if value < 1 << 63 else value - (1 << 64))
        elif field == 5 and isinstance(value, bytes):
            summaries.append(value)
    for summary in summaries:
        for field, value in _fields(summary):
            if field == 1 and isinstance(value, bytes):
                tag, number = _value(value)
                if number is not None:
                    yield step, tag, number


def _value(message: bytes) -> tuple[str, float | None]:
    tag, number = "", None
    for field, value in _fields(message):
        if field == 1 and isinstance(value, bytes):
            tag = value.decode("utf-8")
        elif field == 2 and isinstance(value, bytes):
            number = float(struct.unpack("<f", value)[0])
        elif field == 8 and isinstance(value, bytes):
            number = _tensor(value)
    return tag, number


def _tensor(message: bytes) -> float | None:
    """Return the value of a tensor that holds one float or double, None of another."""
    dtype, content = 0, b""
    for field, value in _fields(message):
        if field == 1 and isinstance(value, int):
            dtype = value
        elif field in (4, 5, 6) and isinstance(value, bytes):
            content = value
    layout = {_FLOAT: "<f", _DOUBLE: "<d"}.get(dtype)
    if layout is None:
        return None
    if not content:
        return 0.0  # what a protocol buffer leaves out
    return float(struct.unpack(layout, content)[0]) if len(content) == struct.calcsize(layout) else None


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (number, value) of the fields of a protocol buffer: integers, and the bytes of all else."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            whole, at = _varint(message, at)
            yield key >> 3, whole
            continue
        if kind == 2:
            length, at = _varint(message, at)
        else:
            length = {1: 8, 5: 4}.get(kind, -1)
        if length < 0 or at + length > end:
            raise ValueError(f"field of kind {kind}")
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > math.ceil(64 / 7) * 7:
            raise ValueError("number too long")


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (_CASTAGNOLI if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _table()


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _masked(crc: int) -> int:
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
