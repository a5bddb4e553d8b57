"""The one entrance of the readers: a source becomes a curve, whatever its format."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import math
import re
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from runner.diagnosis.curve import Curve, Known
from runner.errors import nearest
from runner.readers import plain
from runner.readers.blocks import MOST_ROWS
from runner.readers.collect import Columns
from runner.readers.folder import find_in_folder
from runner.readers.log import is_log, read_log
from runner.readers.mlflow_run import mlflow_address, read_mlflow_run
from runner.readers.objects import read_document, read_lines
from runner.readers.own_run import is_own_record, read_own_run
from runner.readers.problems import refused
from runner.readers.roles import Role
from runner.readers.series import join_series
from runner.readers.streams import HEAD_BYTES, Whole, encoding_of, not_text, peek
from runner.readers.tabular import read_table
from runner.readers.tensorboard import is_event_file, read_event_files
from runner.tracking.directory import RECORDS
from runner.tracking.jsonl import find_result

STANDARD_INPUT = "-"
_PIPED = "standard input"
FEWEST = 2  # losses that make a curve
_MOST_BYTES = 1 << 28  # of a document that is read whole


@dataclass(frozen=True)
class Reading:
    """What was read.

    Attributes:
        curve: the numbers.
        name: of the source, short.
        format: what kind it is, in words.
        columns: role -> name of the column that was read for it; empty where the format has no names to choose from.
        notes: what was decided or done on the way that a reader should know of.
        rows: number of losses before blocks were made.
        directory: of a run of ours.
        command: the command line that repeats it; "" where that is not known.
    """

    curve: Curve
    name: str
    format: str
    columns: Mapping[Role, str]
    notes: tuple[str, ...]
    rows: int
    directory: Path | None = None
    command: str = ""


def read_curve(source: str | Sequence[float], given: Mapping[Role, str], *, uri: str | None = None) -> Reading:
    """Read a curve.

    Args:
        source: a path, an MLflow run, "-" for standard input, or losses.
        given: role -> column, as `source.columns` says.
        uri: of MLflow.
    Raises:
        ConfigError: there is no curve to be read; with all that is wrong, and what to do.
    """
    if not isinstance(source, str):
        reading = _of_columns(plain.of_values(list(source)), "values", "losses")
    elif source == STANDARD_INPUT:
        reading = _read_stream(_standard_input(), _PIPED, given)
    else:
        try:
            reading = _read_named(source, given, uri=uri)
        except (OSError, EOFError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise refused(f"must be what can be read, got {source[:200]!r} ({reason})", "Give another file") from None
    _check(reading)
    return reading


def _read_named(source: str, given: Mapping[Role, str], *, uri: str | None) -> Reading:
    """Read a path, or a run of MLflow where nothing is at the path."""
    path = Path(source).expanduser()
    if path.exists() or (run := mlflow_address(source)) is None:
        return _read_path(path, given)
    columns, roles, known, name = read_mlflow_run(run, given, uri=uri)
    return _of_columns(columns, name, "MLflow run", roles.columns, roles.notes, known)


def _check(reading: Reading) -> None:
    """Refuse what is no curve.

    Raises:
        ConfigError: so it is.
    """
    losses = reading.curve.losses
    if len(losses) < FEWEST:
        got = "nothing" if not losses else f"one loss, {losses[0]:g}"
        key = "source.values" if reading.name == "values" else "source"
        raise refused(f"must hold at least {FEWEST} losses, got {got}", "Give a longer curve", key=key)
    if not any(map(math.isfinite, losses)):
        rule = f"must hold a loss that is finite, got {len(losses):,} that are not"
        fix = "What broke this run came before its first loss: look at data, targets, initial weights, number format"
        raise refused(rule, fix)


def _of_columns(
    columns: Columns,
    name: str,
    kind: str,
    roles: Mapping[Role, str] | None = None,
    notes: Sequence[str] = (),
    known: Known | None = None,
) -> Reading:
    """Make a reading of what was collected; a companion without any number is not known."""

    def companion(key: str) -> list[float] | None:
        values = columns.values.get(key)
        return values if values and not all(map(math.isnan, values)) else None

    curve = Curve(
        columns.steps,
        columns.values["loss"],
        lrs=companion("lr"),
        grad_norms=companion("grad_norm"),
        evals=columns.evals,
        known=known or Known(),
        thinned=max(columns.rows / max(len(columns.steps), 1), 1.0) if columns.rows > MOST_ROWS else 1.0,
    )
    return Reading(curve, name, kind, roles or {}, (*notes, *columns.notes), columns.rows)


def _read_path(path: Path, given: Mapping[Role, str]) -> Reading:
    if path.is_dir():
        path, others = find_in_folder(path)
        if others:
            series = read_event_files([path, *others])
            return _read_series(series, path.parent, given)
    elif not path.exists():
        raise _not_there(path)
    if path.name == RECORDS:
        return _own(path.parent)
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        file.seek(0)
        if is_event_file(head):
            return _read_series(read_event_files([path]), path, given)
        if head[:2] == b"\x1f\x8b":
            return _read_stream(io.BufferedReader(gzip.GzipFile(fileobj=file)), path.name, given)
        return _read_stream(file, path.name, given)


def _own(directory: Path) -> Reading:
    curve, notes, rows = read_own_run(directory)
    result = find_result(directory)
    command = result.command if result is not None else ""
    return Reading(curve, directory.name, "run directory", {}, tuple(notes), rows, directory, command)


def _read_series(series: Any, path: Path, given: Mapping[Role, str]) -> Reading:
    columns, roles = join_series(series, given, where="TensorBoard events")
    return _of_columns(columns, path.name, "TensorBoard events", roles.columns, roles.notes)


def _not_there(path: Path) -> Exception:
    """Return the error of a path where nothing is, with the nearest name that there is."""
    there = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
    close = nearest(path.name, there)
    fix = (
        f"Did you mean source={path.with_name(close)}" if close else "Give a file, a run directory, an MLflow run or -"
    )
    return refused(f"must be there, got {str(path)!r}", fix)


def _standard_input() -> IO[bytes]:
    if sys.stdin is None:
        raise refused("must be there, but standard input is closed", "Pipe the curve into the command")
    if sys.stdin.isatty():
        print("reading losses from the keyboard; Ctrl-D on an empty line ends", file=sys.stderr, flush=True)
    return sys.stdin.buffer


def _read_stream(stream: IO[bytes], name: str, given: Mapping[Role, str]) -> Reading:
    """Read text of any format from its beginning; a long one is not held as a whole."""
    head = peek(stream)
    encoding = encoding_of(head, name)
    text = codecs.getincrementaldecoder(encoding)().decode(head)
    if not text.strip():
        fix = "Pipe in at least two losses" if name == _PIPED else "Give a file with at least two losses"
        raise refused(f"must hold a curve, got nothing in {name}", fix)
    whole = Whole(head, stream)
    begin = text.lstrip()
    if begin[0] == "{" and _is_objects(begin):
        lines = io.TextIOWrapper(io.BufferedReader(whole), encoding=encoding)
        if is_own_record(json.loads(begin.splitlines()[0])):
            return _own_records(lines, name)
        columns, roles = read_lines(lines, given)
        return _of_columns(columns, name, "JSONL", roles.columns, roles.notes)
    is_list = begin[0] == "[" and plain.is_plain(begin.splitlines()[0])
    if not is_list and not _is_json(begin) and is_log(_whole_lines(text, len(head))):
        lines = io.TextIOWrapper(io.BufferedReader(whole), encoding=encoding, errors="replace")
        columns, roles = read_log(lines, given)
        return _of_columns(columns, name, "lines of a log", roles.columns, roles.notes)
    if begin[0] in "{[" and not is_list:
        columns, roles, known, kind = read_document(_all_of(whole, encoding, name), given)
        return _of_columns(columns, name, kind, roles.columns, roles.notes, known)
    if is_list or (not given and plain.is_plain(_whole_lines(text, len(head)))):
        return _of_columns(plain.read_plain(_all_of(whole, encoding, name)), name, "plain numbers")
    try:
        columns, roles = read_table(io.BufferedReader(whole), _whole_lines(text, len(head)), given, encoding=encoding)
    except UnicodeDecodeError as error:
        raise not_text(name, error.start) from None
    return _of_columns(columns, name, "table", roles.columns, roles.notes)


def _is_objects(begin: str) -> bool:
    """Whether the first line is a JSON object by itself and another one follows."""
    first, *rest = begin.splitlines()
    try:
        json.loads(first)
    except ValueError:
        return False
    return next((line for line in rest if line.strip()), "").lstrip().startswith("{")


def _is_json(begin: str) -> bool:
    """Whether a text begins as a JSON object does, or a list of objects, of lists or of texts."""
    return re.match(r"\{\s*[\"}]|\[\s*([{\"\]]|\[\s*[-\d\"]|$)", begin) is not None


def _whole_lines(text: str, size: int) -> str:
    """Return the head of a text without its last line, where that may be cut in two."""
    lines = text.splitlines(keepends=True)
    return "".join(lines[:-1]) if size >= HEAD_BYTES and len(lines) > 1 else text


def _all_of(stream: io.RawIOBase, encoding: str, name: str) -> str:
    content = io.BufferedReader(stream).read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        rule = f"must be of at most {_MOST_BYTES >> 20} MiB in this format, got {name}"
        raise refused(rule, "Write it as CSV or as JSONL, which may be of any length")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise not_text(name, error.start) from None


def _own_records(lines: io.TextIOWrapper, name: str) -> Reading:
    """Read records of ours that come without their run directory."""
    from runner.records import from_json

    records = []
    for row, line in enumerate(lines, start=1):
        if line.endswith("\n"):
            try:
                records.append(from_json(line))
            except ValueError as error:
                raise refused(f"must hold records, but row {row:,} is {error}", "Mend the file") from None
    curve = Curve.of_records(records)
    return Reading(curve, name, "records", {}, (), len(curve.losses))
