"""Bare losses: a list as it is printed or typed, on one line or many."""

from __future__ import annotations

import re

from runner.readers.collect import Columns
from runner.readers.problems import refused

_MARKS = re.compile(r"[\s,;\[\](){}]+")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)


def numbers_in(text: str) -> list[str]:
    """Split a text where a list is split."""
    return [word for word in _MARKS.split(text) if word]


def is_plain(text: str) -> bool:
    """Whether a text is one list of numbers: a single line of them, one a line, or in brackets."""
    stripped = text.strip()
    words = numbers_in(stripped)
    lines = [line for line in stripped.splitlines() if line.strip()]
    if not words or not all(_NUMBER.fullmatch(word) for word in words):
        return False
    return len(lines) == 1 or stripped[0] in "[(" or all(len(numbers_in(line)) == 1 for line in lines)


def of_values(values: list[float]) -> Columns:
    """Return the columns of bare losses."""
    return Columns(list(range(len(values))), {"loss": values}, [], [], len(values))


def read_plain(text: str) -> Columns:
    """Read a list of numbers.

    Raises:
        ConfigError: there is something else in it.
    """
    words = numbers_in(text)
    wrong = [f"{word[:40]!r} in place {place:,}" for place, word in enumerate(words, 1) if not _NUMBER.fullmatch(word)]
    if wrong:
        more = f" and {len(wrong) - 5:,} more" if len(wrong) > 5 else ""
        raise refused(
            f"must hold numbers, got {'; '.join(wrong[:5])}{more}", "Write nan for a loss that was not finite"
        )
    return of_values([float(word) for word in words])
