"""The file of records: what is written when, and what a full disk leaves."""

import resource
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from runner.errors import RunnerError
from runner.records import EvalRecord, Record, StepRecord
from runner.tracking.jsonl import RecordWriter, read_records

STEPS = [StepRecord(step, 0, 1.0 / (step + 1), 0.1, 1.0, 64 * step) for step in range(40)]


def write(writer: RecordWriter, records: Iterable[Record]) -> None:
    for record in records:
        writer.write(record)


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Let no file grow beyond 1,000 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


def test_evaluation_takes_the_steps_before_it_to_the_file(tmp_path: Path) -> None:
    evaluation = EvalRecord(40, 0, "val", {"loss": 0.5})
    with RecordWriter(tmp_path) as writer:
        write(writer, [*STEPS, evaluation])
        assert list(read_records(tmp_path)) == [*STEPS, evaluation]


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("last", [STEPS[-1], EvalRecord(40, 0, "val", {"loss": 0.5})], ids=["at the end", "at once"])
def test_full_disk_is_said_whenever_the_lines_are_written(tmp_path: Path, last: Record) -> None:
    with pytest.raises(RunnerError, match=r"records\.jsonl: cannot be written"), RecordWriter(tmp_path) as writer:
        write(writer, [*STEPS[:-1], last])
    with RecordWriter(tmp_path):
        kept = list(read_records(tmp_path))
    assert kept == STEPS[: len(kept)]
