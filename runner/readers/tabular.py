"""CSV and its relatives: any names of columns, any usual separator, any length."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from runner.errors import ConfigError
from runner.readers.cells import MISSING, number
from runner.readers.collect import Collector, Columns
from runner.readers.layout import SAMPLE_LINES, Layout, cells, find_layout
from runner.readers.problems import TRIED, Bad, refused
from runner.readers.roles import Role, Roles, find_roles, may_be_loss

_BLOCK_BYTES = 1 << 22


class _Faults:
    """What is wrong with a table, and what was left out of it."""

    def __init__(self, columns: int) -> None:
        self.cells = Bad("numbers", "Mend or empty these cells, or set source.columns to name other columns")
        self.rows = Bad(f"rows of {columns} cells, as its first has", "Mend these rows")
        self.notes: list[str] = []
        self.headers = 0

    def repeated(self) -> list[str]:
        """Return what is said of rows that repeat the header."""
        if not self.headers:
            return []
        rows = (
            "1 row repeats the header and is"
            if self.headers == 1
            else f"{self.headers:,} rows repeat the header and are"
        )
        return [f"{rows} left out"]

    def add_row(self, found: Sequence[Any]) -> None:
        """Take rows that pyarrow cannot split as the others."""
        for row in found:
            self.rows.add(f"{row.actual_columns} in row {row.number:,}")


def read_table(
    stream: io.BufferedReader, head: str, given: Mapping[Role, str], *, encoding: str
) -> tuple[Columns, Roles]:
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
    if len(head.splitlines()) > layout.begin:  # pyarrow takes a header alone for a fault
        for batch, gaps in _batches(stream, layout, roles, encoding, faults):
            collector.add(batch, gaps["loss"], gaps)
    if problems := [*faults.cells.problems(), *faults.rows.problems()]:
        raise ConfigError(problems)
    columns = collector.columns()
    columns.notes.extend([*layout.notes, *faults.notes, *faults.repeated()])
    return columns, roles


def _roles(layout: Layout, head: str, given: Mapping[Role, str]) -> Roles:
    """Return which column is what; without a header, rising whole numbers first are the steps."""
    names, lines = layout.names, head.splitlines()
    if layout.headers:
        sample = [cells(line, layout.separator) for line in lines[layout.begin :][:SAMPLE_LINES]]
        rows = [row for row in sample[:-1] or sample if len(row) == len(names)]
        texts = {n for i, n in enumerate(names) if rows and not any(layout.is_filled(row[i]) for row in rows)}
        filled = {n for i, n in enumerate(names) if any(row[i].lower() not in MISSING for row in rows)}
        numeric = [n for n in names if n not in texts & filled]
        if not any(map(may_be_loss, numeric)):  # a loss that is written as text is told of, with its cells
            numeric = [n for n in names if n in numeric or may_be_loss(n)]
        if not numeric or (len(names) == 1 and not may_be_loss(names[0]) and not rows):
            raise refused(f"must be one of {TRIED}, got {lines[layout.skipped][:60]!r}", "Export the curve as CSV")
        roles = find_roles(numeric if not set(given.values()) - set(numeric) else names, given)
        first = names[0]
        if roles.step is None and first == "column 1" and first not in roles.columns.values() and _counts(rows):
            return roles._replace(step=first)
        return roles
    rows = [cells(line, layout.separator) for line in lines[layout.skipped :][:SAMPLE_LINES]]
    if len(names) == 2 and not given and _counts([row for row in rows if len(row) == 2]):
        return Roles("2", step="1", notes=("the first column is taken for the steps, the second for the loss",))
    return find_roles(names, given, where="no header, only columns")


def _counts(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first cells are whole numbers that rise."""
    first = [row[0] for row in rows if row]
    if not all(re.fullmatch(r"\d+(\.0*)?", cell) for cell in first):
        return False
    values = [float(cell) for cell in first]
    return all(a < b for a, b in pairwise(values))


class _Tabbed(io.RawIOBase):
    """Lines whose cells any stretch of blanks separates, with a tab in its place."""

    def __init__(self, stream: io.BufferedReader, encoding: str) -> None:
        self._lines = io.TextIOWrapper(stream, encoding=encoding)
        self._rest = b""

    def readable(self) -> bool:
        """Whether it can be read: yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as there is something."""
        if not self._rest:
            lines = self._lines.readlines(len(buffer))
            self._rest = "".join("\t".join(line.split()) + "\n" for line in lines).encode()
        chunk = self._rest[: len(buffer)]
        self._rest = self._rest[len(chunk) :]
        buffer[: len(chunk)] = chunk
        return len(chunk)


Batches = Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]
"""role -> values, and role -> where its cells are empty"""


def _batches(stream: io.BufferedReader, layout: Layout, roles: Roles, encoding: str, faults: _Faults) -> Batches:
    """Yield batches with the numbers of the columns that are used.

    Raises:
        ConfigError: it is no table.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow

    if layout.separator == " ":
        stream, layout, encoding = (
            io.BufferedReader(_Tabbed(stream, encoding)),
            replace(layout, separator="\t"),
            "utf-8",
        )
    row = last = 1 + layout.begin
    invalid: list[Any] = []
    gone: list[int] = []

    def skip(found: Any) -> str:
        gone.append(found.number)
        faults.add_row(invalid)
        invalid[:] = [found]
        return "skip"

    wanted = list(dict.fromkeys(roles.columns.values()))
    others = [name for name in layout.names if name not in wanted]  # those that never are beside a loss
    try:
        reader = arrow.open_csv(stream, *_options(layout, [*wanted, *others], encoding, skip))
        for batch in reader:
            rows = np.arange(row, row + batch.num_rows)
            row += batch.num_rows
            rows += np.searchsorted(np.array(gone, dtype=int) - np.arange(len(gone)), rows, side="right")
            last = int(rows[-1]) if len(rows) else last
            if layout.headers and (is_header := _is_header(batch, wanted)).any():
                faults.headers += int(is_header.sum())
                batch, rows = batch.filter(pa.array(~is_header)), rows[~is_header]
            found = {
                role: _numbers(batch.column(name), layout, name, rows, faults.cells)
                for role, name in roles.columns.items()
            }
            gaps = {role: gap for role, (_, gap) in found.items()}
            others = [name for name in others if (_is_filled(batch, name) <= gaps["loss"]).all()]
            elsewhere = _is_elsewhere(batch, others, gaps)
            yield (
                {role: values[~elsewhere] for role, (values, _) in found.items()},
                {role: gap[~elsewhere] for role, gap in gaps.items()},
            )
        is_last = bool(invalid) and invalid[0].number > last
        if is_last and invalid[0].actual_columns < invalid[0].expected_columns:
            faults.notes.append("the unfinished last row is left out")
        else:
            faults.add_row(invalid)
    except pa.ArrowInvalid as error:
        text = " ".join(str(error).split()).rstrip(".")
        raise refused(f"must be a table that can be read, but {text}", "Mend the file") from None


def _options(layout: Layout, wanted: Sequence[str], encoding: str, skip: Callable[[Any], str]) -> tuple[Any, Any, Any]:
    """Return how pyarrow is to read a table: every cell as text, as errors shall name them."""
    import pyarrow as pa
    from pyarrow import csv as arrow

    read = arrow.ReadOptions(
        use_threads=False,
        block_size=_BLOCK_BYTES,
        column_names=layout.names,
        skip_rows=layout.begin,
        encoding="utf8" if encoding.startswith("utf-8") else encoding,
    )
    convert = arrow.ConvertOptions(
        column_types={name: pa.string() for name in wanted}, include_columns=list(wanted), strings_can_be_null=False
    )
    return read, arrow.ParseOptions(delimiter=layout.separator, invalid_row_handler=skip), convert


def _is_header(batch: Any, names: Sequence[str]) -> Any:
    """Return where a row repeats the header, as in logs that were joined."""
    import pyarrow.compute as pc

    is_header = np.ones(batch.num_rows, dtype=bool)
    for name in names:
        if is_header.any():
            texts = pc.utf8_trim_whitespace(batch.column(name))
            is_header &= pc.equal(texts, name.strip()).to_numpy(zero_copy_only=False)
    return is_header


def _is_filled(batch: Any, name: str) -> Any:
    """Return where a column holds anything."""
    import pyarrow.compute as pc

    return pc.not_equal(pc.utf8_trim_whitespace(batch.column(name)), "").to_numpy(zero_copy_only=False)


def _is_elsewhere(batch: Any, others: Sequence[str], gaps: Mapping[Role, Any]) -> Any:
    """Return the rows of something else: nothing that is used is in them, but what never is beside a loss."""
    is_bare = np.ones(batch.num_rows, dtype=bool)
    for role, gap in gaps.items():
        if role != "step":
            is_bare &= gap
    if not is_bare.any():
        return is_bare
    has_other = np.zeros(batch.num_rows, dtype=bool)
    for name in others:
        has_other |= _is_filled(batch, name)
    return is_bare & has_other


def _numbers(column: Any, layout: Layout, name: str, rows: Any, bad: Bad) -> tuple[Any, Any]:
    """Return the values of a column of texts, nan where there is none, and where its cells are empty."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.utf8_trim_whitespace(column)
    for mark, plain in ((layout.thousands, ""), (layout.decimal, ".")):
        if mark and mark != plain:
            texts = pc.replace_substring(texts, mark, plain)
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
            bad.add(f"{text[:40]!r} in row {rows[place]:,}, column {name!r}")
            continue
        missing[place] = value is None
        if value is not None:
            found[place] = value
    return found, missing
