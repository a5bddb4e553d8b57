"""CSV and its relatives: any names of columns, any usual separator, any length."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import IO, Any

import numpy as np

from runner.errors import ConfigError
from runner.readers.cells import MISSING, number
from runner.readers.collect import Collector, Columns
from runner.readers.problems import TRIED, Bad, refused
from runner.readers.roles import Role, Roles, find_roles, may_be_loss

_SEPARATORS = (",", ";", "\t", "|")
_BLOCK_BYTES = 1 << 22
_SAMPLE_LINES = 50


@dataclass(frozen=True)
class Layout:
    """How a table is written.

    Attributes:
        separator: what stands between two cells; " " for any stretch of blanks.
        names: of the columns; "1", "2" ... where there is no header.
        has_header: whether the first line is the header.
        skipped: lines before it.
        decimal: "." or ",".
    """

    separator: str
    names: list[str]
    has_header: bool
    skipped: int
    decimal: str = "."


class _Faults:
    """What is wrong with a table, and what was left out of it."""

    def __init__(self, columns: int) -> None:
        self.cells = Bad("numbers", "Mend or empty these cells, or set source.columns to name other columns")
        self.rows = Bad(f"rows of {columns} cells, as its first has", "Mend these rows")
        self.notes: list[str] = []

    def add_row(self, found: Sequence[Any]) -> None:
        """Take rows that pyarrow cannot split as the others."""
        for row in found:
            self.rows.add(f"{row.actual_columns} in row {row.number:,}")


def find_layout(head: str) -> Layout:
    """Return how the table is written that begins with these lines."""
    lines = head.splitlines()
    skipped = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")), 0)
    sample = [line for line in lines[skipped : skipped + _SAMPLE_LINES] if line.strip()]
    separator = _separator(sample)
    rows = [cells(line, separator) for line in sample]
    first = rows[0] if rows else []
    decimal = "."
    if separator != "," and any(re.fullmatch(r"[+-]?\d+,\d+(e[+-]?\d+)?", cell, re.I) for row in rows for cell in row):
        decimal = ","
    has_header = not all(is_number(cell.replace(decimal, ".")) for cell in first)
    names = first if has_header else [str(i) for i in range(1, len(first) + 1)]
    return Layout(separator, _unique(names), has_header, skipped, decimal)


def cells(line: str, separator: str) -> list[str]:
    """Split one line."""
    if separator == " ":
        return line.split()
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator), [])]


def is_number(text: str) -> bool:
    """Whether a cell holds a number, nan and inf included, or nothing."""
    try:
        number(text)
    except ValueError:
        return False
    return True


def _separator(sample: Sequence[str]) -> str:
    """Return what splits the lines into the same number of cells, the more the better."""

    def score(mark: str) -> tuple[bool, int]:
        counts = [len(cells(line, mark)) for line in sample]
        return len(set(counts)) == 1 and counts[0] > 1, counts[0] if counts else 0

    best = max(_SEPARATORS, key=score)
    if score(best)[1] > 1:
        return best
    return " " if sample and len(sample[0].split()) > 1 and all(map(is_number, sample[-1].split())) else ","


def _unique(names: Sequence[str]) -> list[str]:
    """Return names that differ: a column without one is called by its place."""
    seen: dict[str, int] = {}
    found = []
    for place, name in enumerate(names, start=1):
        name = name.strip() or f"column {place}"
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found


def read_table(stream: IO[bytes], head: str, given: Mapping[Role, str], *, encoding: str) -> tuple[Columns, Roles]:
    """Read a table in bounded memory.

    Args:
        stream: from its beginning.
        head: its first lines.
        given: role -> column, as `source.columns` says.
        encoding: of the text.
    Raises:
        ConfigError: no column is the loss, or a cell holds no number, or rows differ in length.
    """
    layout = find_layout(head)
    roles = _roles(layout, head, given)
    collector = Collector(list(roles.columns), has_steps=roles.step is not None, empty_may_be_nan=True)
    faults = _Faults(len(layout.names))
    batches = _by_lines if layout.separator == " " else _by_arrow
    if len(head.splitlines()) <= layout.skipped + layout.has_header:
        batches = _none  # pyarrow takes a header alone for a fault
    for batch, gaps in batches(stream, layout, roles, encoding, faults):
        collector.add(batch, gaps["loss"], gaps)
    if problems := [*faults.cells.problems(), *faults.rows.problems()]:
        raise ConfigError(problems)
    columns = collector.columns()
    columns.notes.extend(faults.notes)
    return columns, roles


def _roles(layout: Layout, head: str, given: Mapping[Role, str]) -> Roles:
    """Return which column is what; without a header, rising whole numbers first are the steps."""
    names, lines = layout.names, head.splitlines()
    if layout.has_header:
        sample = [cells(line, layout.separator) for line in lines[layout.skipped + 1 :][:_SAMPLE_LINES]]
        rows = [row for row in sample[:-1] or sample if len(row) == len(names)]
        texts = {n for i, n in enumerate(names) if rows and not any(_is_numeric(row[i], layout) for row in rows)}
        filled = {n for i, n in enumerate(names) if any(row[i].lower() not in MISSING for row in rows)}
        numeric = [n for n in names if n not in texts & filled]
        if not numeric or (len(names) == 1 and not may_be_loss(names[0]) and not rows):
            raise refused(f"must be one of {TRIED}, got {lines[layout.skipped][:60]!r}", "Export the curve as CSV")
        roles = find_roles(numeric if not set(given.values()) - set(numeric) else names, given)
        first = names[0]
        if roles.step is None and first == "column 1" and first not in roles.columns.values() and _counts(rows):
            return roles._replace(step=first)
        return roles
    rows = [cells(line, layout.separator) for line in lines[layout.skipped :][:_SAMPLE_LINES]]
    if len(names) == 2 and not given and _counts([row for row in rows if len(row) == 2]):
        return Roles("2", step="1", notes=("the first column is taken for the steps, the second for the loss",))
    return find_roles(names, given, where="no header, only columns")


def _is_numeric(cell: str, layout: Layout) -> bool:
    return cell.lower() not in MISSING and is_number(cell.replace(layout.decimal, "."))


def _counts(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first cells are whole numbers that rise."""
    first = [row[0] for row in rows if row]
    if not all(re.fullmatch(r"\d+(\.0*)?", cell) for cell in first):
        return False
    values = [float(cell) for cell in first]
    return all(a < b for a, b in pairwise(values))


Batches = Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]
"""role -> values, and role -> where its cells are empty"""


def _none(*_: Any) -> Batches:
    """Yield no batches."""
    return iter(())


def _by_arrow(stream: IO[bytes], layout: Layout, roles: Roles, encoding: str, faults: _Faults) -> Batches:
    """Yield batches with the numbers of the columns that are used.

    Raises:
        ConfigError: it is no table.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow

    row = 1 + layout.skipped + layout.has_header

    invalid: list[Any] = []

    def skip(found: Any) -> str:
        faults.add_row(invalid)
        invalid[:] = [found]
        return "skip"

    wanted = list(dict.fromkeys(roles.columns.values()))
    try:
        reader = arrow.open_csv(
            stream,
            arrow.ReadOptions(
                use_threads=False,
                block_size=_BLOCK_BYTES,
                column_names=layout.names,
                skip_rows=layout.skipped + layout.has_header,
                encoding="utf8" if encoding.startswith("utf-8") else encoding,
            ),
            arrow.ParseOptions(delimiter=layout.separator, invalid_row_handler=skip),
            arrow.ConvertOptions(
                column_types={name: pa.string() for name in wanted}, include_columns=wanted, strings_can_be_null=False
            ),
        )
        for batch in reader:
            found = {
                role: _numbers(batch.column(name), layout, name, row, faults.cells)
                for role, name in roles.columns.items()
            }
            row += batch.num_rows
            yield {role: values for role, (values, _) in found.items()}, {role: gap for role, (_, gap) in found.items()}
        is_last = bool(invalid) and invalid[0].number == row + faults.rows.count
        if is_last and invalid[0].actual_columns < invalid[0].expected_columns:
            faults.notes.append("the unfinished last row is left out")
        else:
            faults.add_row(invalid)
    except pa.ArrowInvalid as error:
        text = " ".join(str(error).split()).rstrip(".")
        raise refused(f"must be a table that can be read, but {text}", "Mend the file") from None


def _numbers(column: Any, layout: Layout, name: str, first_row: int, bad: Bad) -> tuple[Any, Any]:
    """Return the values of a column of texts, nan where there is none, and where its cells are empty."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.utf8_trim_whitespace(column)
    if layout.decimal == ",":
        texts = pc.replace_substring(texts, ",", ".")
    gaps = pc.equal(texts, "")
    try:
        values = pc.cast(pc.if_else(gaps, "nan", texts), pa.float64())
        return values.to_numpy(zero_copy_only=False), gaps.to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        found, missing = np.full(len(texts), np.nan), np.zeros(len(texts), dtype=bool)
    for place, text in enumerate(texts.to_pylist()):
        try:
            value = number(text)
        except ValueError:
            bad.add(f"{text[:40]!r} in row {first_row + place:,}, column {name!r}")
            continue
        missing[place] = value is None
        if value is not None:
            found[place] = value
    return found, missing


def _by_lines(stream: IO[bytes], layout: Layout, roles: Roles, encoding: str, faults: _Faults) -> Batches:
    """Yield batches of a table whose cells are separated by any stretch of blanks."""
    places = {role: layout.names.index(name) for role, name in roles.columns.items()}
    batch: dict[str, list[float]] = {role: [] for role in places}
    gaps: dict[str, list[bool]] = {role: [] for role in places}
    lines = codecs.getreader(encoding)(stream)
    for row, line in enumerate(lines, start=1):
        if row <= layout.skipped + layout.has_header or not line.strip():
            continue
        found = line.split()
        if len(found) != len(layout.names):
            faults.rows.add(f"{len(found)} in row {row:,}")
            continue
        for role, place in places.items():
            try:
                value = number(found[place].replace(layout.decimal, "."))
            except ValueError:
                faults.cells.add(f"{found[place][:40]!r} in row {row:,}, column {layout.names[place]!r}")
                value = None
            batch[role].append(np.nan if value is None else value)
            gaps[role].append(value is None)
        if len(batch["loss"]) >= 50_000:
            yield _arrays(batch, gaps)
            batch, gaps = {role: [] for role in places}, {role: [] for role in places}
    yield _arrays(batch, gaps)


def _arrays(
    batch: Mapping[str, Sequence[float]], gaps: Mapping[str, Sequence[bool]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    columns = {role: np.array(values, dtype=np.float64) for role, values in batch.items()}
    return columns, {role: np.array(found, dtype=bool) for role, found in gaps.items()}
