"""Run directories as a trainer leaves them, for tests of what sends them."""

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from runner.records import Record, RunResult, StepRecord
from runner.tracking.jsonl import RecordWriter, write_result

START_MS = 1_700_000_000_000
CONFIG = {
    "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.1, "betas": [0.9, 0.999]},
    "train": {"clip_norm": None, "compile": False, "note": "x" * 600},
    "tags": {},
}
RESULT = RunResult(
    mode="train",
    status="finished",
    verdict="finished",
    title="adamw lr=0.1 cosine w100",
    experiment="digits",
    command="python -m runner optimizer=adamw",
    seed=0,
    tags={"task": "digits", "optimizer": "adamw"},
    best={"loss": 0.25, "accuracy": 0.9, "step": 20},
    dataset={"name": "digits", "examples": {"train": 1437, "val": 360}, "digest": "0123456789abcdef"},
)
RUNNING = replace(RESULT, status="running", verdict="running")


def step(number: int, **values: Any) -> StepRecord:
    fields = {"loss": 1 / (number + 1), "lr": 0.1, "grad_norm": 2.0, "examples": 64 * number, **values}
    return StepRecord(step=number, time_ms=START_MS + number, **fields)


def write_run(directory: Path, records: list[Record], result: RunResult = RESULT, config: Any = CONFIG) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with RecordWriter(directory) as writer:
        for record in records:
            writer.write(record)
    write_result(directory, result)
    return directory


def state_of(directory: Path) -> dict[str, Any]:
    path = directory / "mlflow.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return next(iter(found.values()), {})


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port
