"""`records.jsonl`, the truth about a run: append-only, one JSON object a line."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from runner.errors import RunnerError
from runner.records import Record, RunResult, StepRecord, from_json, read_non_finite, spell_non_finite, to_json
from runner.tracking.directory import EVALUATIONS, RECORDS, RESULT, write_whole

FLUSH_SECONDS = 0.5


class RecordWriter:
    """Appends records to a run directory, and nothing twice.

    A torn last line, left by a process that was killed, is cut off first. Records that are on
    disk already (the stretch between the last checkpoint and the end of an interrupted run,
    which a resumed run repeats bit for bit) are not written again.

    Args:
        directory: the run directory; must exist.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / RECORDS
        self._last_step, self._others = _written(self.path)
        self._file = self.path.open("a", encoding="utf-8")
        self._waiting: list[Record] = []
        self._flushed = time.monotonic()

    def write(self, record: Record) -> None:
        """Append one record; it reaches the disk within half a second, an alarm at once.

        Raises:
            RunnerError: the file cannot be written, for example on a full disk.
        """
        if self._is_there(record):
            return
        # encoding a line between training steps, with cold caches, takes several times as long as in one go
        self._waiting.append(record)
        if record.kind != "step" or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Hand everything written so far to the operating system."""
        self._flush(to_disk=False)

    def sync(self) -> None:
        """Have everything written so far on the disk, whatever happens to the machine."""
        self._flush(to_disk=True)

    def _is_there(self, record: Record) -> bool:
        if isinstance(record, StepRecord):
            return record.step <= self._last_step
        fields = {name: getattr(record, name, None) for name in ("detector", "remedy", "split")}
        return _key(record.kind, record.step, fields) in self._others

    def _flush(self, *, to_disk: bool) -> None:
        lines = "".join(to_json(record) + "\n" for record in self._waiting)
        self._waiting.clear()
        self._flushed = time.monotonic()
        try:
            self._file.write(lines)
            self._file.flush()
            if to_disk:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def close(self) -> None:
        """Flush and close."""
        try:
            self.flush()
        finally:
            with contextlib.suppress(OSError):  # the flush has said it
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def first_loss(directory: Path) -> float:
    """Return the training loss of a run before its first update; nan where it is not recorded."""
    try:
        record = next(record for record in read_records(directory) if isinstance(record, StepRecord))
    except (OSError, ValueError, StopIteration):
        return math.nan
    return record.loss if record.step == 0 else math.nan


def read_records(directory: Path) -> Iterator[Record]:
    """Yield the records of a run directory in order; a torn last line is left out.

    Raises:
        ValueError: a whole line is not a record (its number is named).
    """
    with (directory / RECORDS).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith("\n"):
                return
            try:
                yield from_json(line)
            except ValueError as error:
                raise ValueError(f"{directory / RECORDS}, line {number}: {error}") from None


def write_result(directory: Path, result: RunResult) -> None:
    """Write `result.json` so that a reader sees the old one or the new one, never half."""
    from dataclasses import asdict

    text = json.dumps(spell_non_finite(asdict(result)), indent=2, allow_nan=False) + "\n"
    write_whole(directory / RESULT, text)


def read_result(directory: Path) -> RunResult:
    """Read `result.json` of a run directory.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not a result.
    """
    data = json.loads((directory / RESULT).read_text(encoding="utf-8"))
    data["overrides"] = tuple(data.get("overrides", ()))
    for name in ("final", "best", "learning_rate", "seconds"):
        data[name] = read_non_finite(data.get(name))
    try:
        return RunResult(**data)
    except TypeError as error:
        raise ValueError(f"{directory / RESULT}: {error}") from None


def find_result(directory: Path) -> RunResult | None:
    """Read `result.json`, None when there is none that can be read."""
    try:
        return read_result(directory)
    except (OSError, ValueError):
        return None


def append_evaluation(directory: Path, evaluation: Mapping[str, Any]) -> None:
    """Append one line to `evaluations.jsonl` of a run directory.

    Raises:
        RunnerError: it cannot be written.
    """
    path = directory / EVALUATIONS
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(spell_non_finite(evaluation), allow_nan=False) + "\n")
    except OSError as error:
        raise RunnerError(
            f"{path}: cannot be written ({error.strerror}). Free some space or fix the permissions."
        ) from error


def _key(kind: str, step: int, data: Mapping[str, Any]) -> tuple[str, int, str]:
    """What makes a record the same as one written before."""
    return kind, step, str(data.get("detector") or data.get("remedy") or data.get("split") or "")


def _written(path: Path) -> tuple[int, set[tuple[str, int, str]]]:
    """Cut off a torn last line; return the last step on disk, and the keys of all other records."""
    last, others, whole = -1, set[tuple[str, int, str]](), 0
    if not path.exists():
        return last, others
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            try:
                data = json.loads(line)
                kind, step = data["kind"], int(data["step"])
            except (ValueError, TypeError, KeyError):
                raise RunnerError(
                    f"{path}: line {number} must be a record, it is damaged. Mend or remove it."
                ) from None
            if kind == StepRecord.kind:
                last = max(last, step)
            else:
                others.add(_key(kind, step, data))
    if whole < path.stat().st_size:
        os.truncate(path, whole)
    return last, others


def _unwritable(path: Path, error: OSError) -> RunnerError:
    return RunnerError(
        f"{path}: cannot be written ({error.strerror}). Free some space or fix the permissions, "
        f"then go on with resume.from={path.parent}."
    )
