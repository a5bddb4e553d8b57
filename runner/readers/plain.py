"""Bare losses: a list as it is printed or typed, on one line or many."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import pairwise

from runner.readers.collect import Columns
from runner.readers.problems import refused

_ENOUGH = 5  # lines that do not rise by chance
NUMBER = r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|nan|inf(?:inity)?)"
_MARKS = re.compile(r"[\s,;|\[\](){}]+")
_NUMBER = re.compile(rf"{NUMBER}|null|none", re.IGNORECASE)
_BEFORE = re.compile(r"\s*(?:\w+\s*=\s*)?(?:(?:\w+\.)?(?:tensor|array)\s*\(\s*)?(?=\[)")  # losses = np.array([
_NO_DIGITS = re.compile(r"[+-]?(nan|inf(inity)?)|null|none", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


def numbers_in(text: str) -> list[str]:
    """Split a text where a list is split."""
    return [word for word in _MARKS.split(text) if word]


def _bare(text: str) -> str:
    """Return a list without what is assigned or called around it."""
    before = _BEFORE.match(text)
    return text[before.end() :] if before else text


def _has_decimal_commas(text: str) -> bool:
    """Whether every number has one comma in it and something else stands between them, as in "2,5 2,4" or "2,5;2,4".

    What is no finite number has no comma to have.
    """
    words = re.split(r"[\s;|]+", text.strip("[](){} \t\r\n"))
    numbers = [word for word in words if not _NO_DIGITS.fullmatch(word)]
    return len(words) > 1 and bool(numbers) and all(_DECIMAL_COMMA.fullmatch(word) for word in numbers)


def is_plain(text: str) -> bool:
    """Whether a text is one list of numbers: on one line or on many, but no table whose first column is steps."""
    stripped = _bare(text).strip()
    words = numbers_in(stripped)
    lines = [line for line in stripped.splitlines() if line.strip()]
    if not words or not all(_NUMBER.fullmatch(word) for word in words):
        return False
    rows = _rows(lines)
    if len(rows) == 1 or stripped[0] in "[(" or len({len(row) for row in rows}) > 1 or len(rows[0]) == 1:
        return True
    first = [math.nan if _NO_DIGITS.fullmatch(row[0]) else float(row[0].replace(",", ".")) for row in rows]
    rises = all(a < b for a, b in pairwise(first))
    return not (rises and (len(rows) >= _ENOUGH or all(value.is_integer() for value in first)))


def _rows(lines: list[str]) -> list[list[str]]:
    """Split lines where cells with decimal commas are split if that is what they hold, else where a list is."""
    rows = [[cell.strip() for cell in re.split(r"[;|\t]", line)] for line in lines]
    numbers = [cell for row in rows for cell in row if not _NO_DIGITS.fullmatch(cell)]
    is_table = any("," in cell for cell in numbers) and any(len(row) > 1 for row in rows)
    if is_table and all(_DECIMAL_COMMA.fullmatch(cell) or _NUMBER.fullmatch(cell) for cell in numbers):
        return rows
    return [numbers_in(line) for line in lines]


def of_values(values: list[float]) -> Columns:
    """Return the columns of bare losses."""
    return Columns(list(range(len(values))), {"loss": values}, [], [], len(values))


def read_plain(text: str) -> Columns:
    """Read a list of numbers.

    Raises:
        ConfigError: there is something else in it.
    """
    notes = []
    text = _bare(text)
    if _has_decimal_commas(text):
        text = text.replace(",", ".")
        notes.append("commas are read as decimal points, as there is one in each number")
    words = numbers_in(text)
    wrong = [f"{word[:40]!r} in place {place:,}" for place, word in enumerate(words, 1) if not _NUMBER.fullmatch(word)]
    if wrong:
        more = f" and {len(wrong) - 5:,} more" if len(wrong) > 5 else ""
        raise refused(
            f"must hold numbers, got {'; '.join(wrong[:5])}{more}", "Write nan for a loss that was not finite"
        )
    return replace(
        of_values([math.nan if word.lower() in ("null", "none") else float(word) for word in words]), notes=notes
    )
