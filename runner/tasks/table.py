"""A table from a file, as a pandas frame."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import ConfigError, Problem, nearest
from runner.tasks.described import listed

if TYPE_CHECKING:
    from pandas import DataFrame

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|"}
SUFFIXES = (".csv", ".tsv", ".parquet")


def read_table(path: str, *, separator: str = "auto", missing: Sequence[str] = ()) -> DataFrame:
    """Return the table of a CSV or Parquet file: column names are text without surrounding spaces, all different.

    Args:
        path: file ending in .csv, .tsv or .parquet; text in UTF-8, with the names of the columns in its first line.
        separator: name of what stands between two values of a CSV; "auto" takes the one that splits the first line
            into most parts, the comma when none does.
        missing: texts of a CSV that mean "no value", besides the empty one, NA, nan, null and their like.
    Raises:
        ConfigError: the file cannot be had or is not a table.
    """
    file = Path(path).expanduser()
    if problem := _find_problem(file, path):
        raise ConfigError([problem])
    try:
        if file.suffix.lower() == ".parquet":
            names, table = _read_parquet(file)
        else:
            names, table = _read_csv(file, separator, missing)
    except UnicodeDecodeError as error:
        rule = f"must be a table as text in UTF-8, got {path!r}, whose byte {error.start} is not"
        raise ConfigError([Problem("task.path", rule, "Save it as CSV in UTF-8")]) from error
    except (ValueError, OSError, NotImplementedError, csv.Error, Warning) as error:
        rule = f"must be a table that can be read, got {path!r}: {_one_line(error)}"
        fix = "Mend the file" if file.suffix.lower() == ".parquet" else "Mend the file, or set task.separator"
        raise ConfigError([Problem("task.path", rule, fix)]) from error
    if twice := sorted({name for name in names if names.count(name) > 1}):
        rule = f"must have columns with different names, got {listed(twice)} more than once"
        raise ConfigError([Problem("task.path", rule, "Rename them")])
    if table.empty:
        raise ConfigError([Problem("task.path", f"must have rows below its header, got {path!r}", "Add rows")])
    return table.set_axis(names, axis=1)


def _find_problem(file: Path, path: str) -> Problem | None:
    """Return what is wrong with a file before it is opened."""
    others = sorted(p.name for p in file.parent.iterdir()) if file.parent.is_dir() else []
    tables = [name for name in others if name.lower().endswith(SUFFIXES)]
    if file.is_dir():
        inside = sorted(p.name for p in file.iterdir() if p.name.lower().endswith(SUFFIXES))
        fix = f"Tables there: {listed(inside)}" if inside else "Give a file in it"
        return Problem("task.path", f"must be a file, got the directory {path!r}", fix)
    if not file.exists():
        close = nearest(file.name, tables) or nearest(file.name, others)
        if close:
            fix = f"Did you mean task.path={Path(path).with_name(close)}"
        elif file.parent.is_dir():
            fix = f"Tables there: {listed(tables)}" if tables else "There is no table in that directory"
        else:
            fix = f"There is no directory {str(Path(path).parent)!r}"
        return Problem("task.path", f"must be a file that is there, got {path!r}", fix)
    if not file.name.lower().endswith(SUFFIXES):
        return Problem("task.path", f"must end in {', '.join(SUFFIXES)}, got {path!r}", "Convert the file")
    if file.stat().st_size == 0:
        return Problem("task.path", f"must not be empty, got {path!r}", "Give a table with a header and rows")
    return None


def _read_csv(file: Path, separator: str, missing: Sequence[str]) -> tuple[list[str], DataFrame]:
    import pandas as pd

    mark = SEPARATORS.get(separator) or _find_separator(file)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # values would be lost
        read = {"sep": mark, "skipinitialspace": True, "index_col": False, "encoding": "utf-8-sig"}
        header = pd.read_csv(file, header=None, nrows=1, dtype=str, keep_default_na=False, **read)
        table = pd.read_csv(file, na_values=list(missing), low_memory=False, **read)
    written = [str(name).strip() for name in header.iloc[0]]
    return [name or f"column {place}" for place, name in enumerate(written, start=1)], table


def _find_separator(file: Path) -> str:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        line = next((line for line in lines if line.strip()), "")
    if "\0" in line:
        raise ValueError("it is not text")
    return max(SEPARATORS.values(), key=lambda mark: len(next(csv.reader([line], delimiter=mark), [])))


def _read_parquet(file: Path) -> tuple[list[str], DataFrame]:
    from pyarrow import parquet

    # pandas would hide columns in an index, and its own unnamed index says nothing
    read = parquet.ParquetFile(file).read()
    kept = read.select([i for i, name in enumerate(read.column_names) if not name.startswith("__index_level_")])
    return [name.strip() for name in kept.column_names], kept.to_pandas(ignore_metadata=True)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
