"""How a table is written: separators, headers, lines before them, and how its numbers are spelled."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass

from runner.readers.cells import MISSING, number

_SEPARATORS = (",", ";", "\t", "|")
SAMPLE_LINES = 50
_MOST_TITLES = 5  # lines before a table
_SPELLING_LINES = 3000  # steps may need some to reach 1,000
_COMMA = re.compile(r"[+-]?\d+,\d+(e[+-]?\d+)?", re.IGNORECASE)
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+")
_GROUPED = {",": re.compile(r"[+-]?\d{1,3}(,\d{3})+\.\d+"), ".": re.compile(r"[+-]?\d{1,3}(\.\d{3})+,\d+")}


@dataclass(frozen=True)
class Layout:
    """How a table is written.

    Attributes:
        separator: what stands between two cells; " " for any stretch of blanks.
        names: of the columns; "1", "2" ... where there is no header.
        headers: lines of the header: 0, 1, or 2 where units or a rule stand below the names.
        skipped: lines before it.
        decimal: "." or ",".
        thousands: what groups digits; "" for nothing.
        notes: what was decided that may not be what was meant.
    """

    separator: str
    names: list[str]
    headers: int
    skipped: int
    decimal: str = "."
    thousands: str = ""
    notes: tuple[str, ...] = ()

    @property
    def begin(self) -> int:
        """Lines before the first row."""
        return self.skipped + self.headers

    def is_number(self, cell: str) -> bool:
        """Whether a cell holds a number, nan and inf included, or nothing."""
        try:
            number(self.spelled(cell))
        except ValueError:
            return False
        return True

    def is_filled(self, cell: str) -> bool:
        """Whether a cell holds a number, nan and inf included."""
        return cell.lower() not in MISSING and self.is_number(cell)

    def spelled(self, cell: str) -> str:
        """Return a cell with the number in it as Python spells it."""
        cell = cell.replace(self.thousands, "") if self.thousands else cell
        return cell.replace(self.decimal, ".")


def find_layout(head: str) -> Layout:
    """Return how the table is written that begins with these lines."""
    lines = head.splitlines()
    skipped = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")), 0)
    titles = _titles(lines[skipped : skipped + SAMPLE_LINES])
    notes = []
    if titles:
        skipped += titles
        notes.append(
            f"{'1 line before the table is' if titles == 1 else f'{titles} lines before the table are'} left out"
        )
    sample = [line for line in lines[skipped : skipped + SAMPLE_LINES] if line.strip()]
    separator = _separator(sample)
    rows = [cells(line, separator) for line in sample]
    spelled = (cells(line, separator) for line in lines[skipped : skipped + _SPELLING_LINES])
    decimal, thousands = _spelling(separator, [cell for row in spelled for cell in row])
    if thousands:
        notes.append(f"{'commas' if thousands == ',' else 'points'} in numbers are read as marks of thousands")
    plain = Layout(separator, [], 0, skipped, decimal, thousands)
    first, second = rows[0] if rows else [], rows[1] if len(rows) > 1 else []
    headers = int(not all(map(plain.is_number, first)))
    if headers and _is_second_header(plain, rows):
        headers = 2
        notes.append(f"the line with {', '.join(map(repr, second[:5]))} is taken for a second one of the header")
    names = first if headers else [str(i) for i in range(1, len(first) + 1)]
    return Layout(separator, _unique(names), headers, skipped, decimal, thousands, tuple(notes))


def cells(line: str, separator: str) -> list[str]:
    """Split one line."""
    if separator == " ":
        return line.split()
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator), [])]


def _is_second_header(plain: Layout, rows: Sequence[Sequence[str]]) -> bool:
    """Whether no cell of the second row is a number, as in one of units, and the third has one."""
    if len(rows) < 3 or len(rows[1]) != len(rows[0]) or not any(rows[1]):
        return False
    return not any(cell and plain.is_number(cell) for cell in rows[1]) and any(map(plain.is_filled, rows[2]))


def _is_number(text: str) -> bool:
    return Layout("", [], 0, 0).is_number(text)


def _titles(lines: Sequence[str]) -> int:
    """Return how many lines stand before the header of a table: of fewer cells than its rows, which are all alike."""
    for mark in _SEPARATORS:
        counts = [len(cells(line, mark)) for line in lines]
        width = counts[-1] if counts else 0
        first = next((i for i, count in enumerate(counts) if count == width), 0)
        is_table = len(counts) - first > 2 and set(counts[first:]) == {width} and width > 1
        if is_table and 0 < first <= _MOST_TITLES and not any(map(_is_number, cells(lines[first], mark))):
            return first
    return 0


def _spelling(separator: str, found: Sequence[str]) -> tuple[str, str]:
    """Return what stands before decimals, and what groups thousands."""
    for thousands, decimal in ((",", "."), (".", ",")):
        if any(_GROUPED[thousands].fullmatch(cell) for cell in found):
            return decimal, thousands
    commas = [cell for cell in found if _COMMA.fullmatch(cell) or _THOUSANDS.fullmatch(cell)]
    if not commas:
        return ".", ""
    if separator == "," and all(map(_THOUSANDS.fullmatch, commas)):
        return ".", ","
    return ",", ""


def _separator(sample: Sequence[str]) -> str:
    """Return what splits the lines into the same number of cells, of numbers in the last line, the more the better."""

    def score(mark: str) -> tuple[bool, bool, int]:
        rows = [cells(line, mark) for line in sample]
        counts = {len(row) for row in rows}
        holds_numbers = bool(rows) and all(_COMMA.fullmatch(cell) or _is_number(cell) for cell in rows[-1])
        return len(counts) == 1 and max(counts) > 1, holds_numbers, len(rows[0]) if rows else 0

    best = max(_SEPARATORS, key=score)
    if score(best)[2] > 1:
        return best
    return " " if sample and len(sample[0].split()) > 1 and all(map(_is_number, sample[-1].split())) else ","


def _unique(names: Sequence[str]) -> list[str]:
    """Return names that differ: a column without one is called by its place."""
    seen: dict[str, int] = {}
    found = []
    for place, name in enumerate(names, start=1):
        name = name.strip() or f"column {place}"
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found
