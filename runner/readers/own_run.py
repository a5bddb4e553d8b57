"""Runs of ours: a run directory with its records, page and result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from runner.diagnosis.curve import Curve, Known
from runner.known import known_of_page
from runner.readers.blocks import MOST_ROWS, Blocks
from runner.readers.problems import refused
from runner.records import Record, StepRecord
from runner.tracking.directory import RECORDS, read_config
from runner.tracking.jsonl import find_result, read_records

_BATCH = 10_000


def read_own_run(directory: Path) -> tuple[Curve, list[str], int]:
    """Return the curve of a run directory, notes about it, and the number of its steps.

    Raises:
        ConfigError: its records cannot be read.
    """
    try:
        kept, seen = _thinned(directory)
    except (ValueError, OSError, TypeError) as error:
        text = " ".join(str(error).split()).rstrip(".")
        raise refused(f"must be a run directory with readable {RECORDS}, but {text}", "Mend the file") from None
    notes = []
    count = sum(isinstance(record, StepRecord) for record in kept)
    if count < seen:
        what = "first, smallest, largest, steepest, last and first non-finite loss"
        notes.append(f"{seen:,} steps are reduced to {count:,}: blocks keep their {what}")
    curve = Curve.of_records(kept, _known(directory))
    return replace(curve, thinned=seen / count) if count < seen else curve, notes, seen


def _known(directory: Path) -> Known:
    import yaml

    try:
        page = read_config(directory)
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        page = None
    return known_of_page(page if isinstance(page, dict) else {}, find_result(directory), directory=str(directory))


def _thinned(directory: Path) -> tuple[list[Record], int]:
    """Return all records, or those of the steps that blocks keep where there are too many."""
    records: list[Record] = []
    steps = 0
    for record in read_records(directory):
        steps += isinstance(record, StepRecord)
        records.append(record)
        if steps > MOST_ROWS:
            return _only_kept(directory)
    return records, steps


def _only_kept(directory: Path) -> tuple[list[Record], int]:
    blocks, seen = Blocks(["loss", "grad_norm"]), 0
    for batch in _batches(directory):
        values = np.array([[record.loss, record.grad_norm] for record in batch], dtype=np.float64)
        rows = np.arange(seen, seen + len(batch), dtype=np.float64)
        blocks.add(rows, {"loss": values[:, 0], "grad_norm": values[:, 1]})
        seen += len(batch)
    kept = set(blocks.take()[0].astype(np.int64).tolist())
    found: list[Record] = []
    place = 0
    for record in read_records(directory):
        if not isinstance(record, StepRecord) or place in kept:
            found.append(record)
        place += isinstance(record, StepRecord)
    return found, seen


def _batches(directory: Path) -> Iterator[list[StepRecord]]:
    batch: list[StepRecord] = []
    for record in read_records(directory):
        if isinstance(record, StepRecord):
            batch.append(record)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def is_own_run(directory: Path) -> bool:
    """Whether a directory is that of a run of ours."""
    return (directory / RECORDS).is_file()


def is_own_record(found: Any) -> bool:
    """Whether a JSON object is one of our records."""
    return isinstance(found, dict) and found.get("kind") in ("step", "eval", "alarm", "action") and "step" in found
