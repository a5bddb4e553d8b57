"""What a multirun left behind."""

import json
from pathlib import Path
from typing import Any

from tests.conftest import Done


def sweep_of(done: Done) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((done.run / "sweep.json").read_text())
    return data


def statuses(done: Done) -> list[str]:
    return [job["status"] for job in sweep_of(done)["jobs"]]


def runs_of(directory: Path) -> list[Path]:
    """Run directories, those of sweeps left out."""
    return [path.parent for path in directory.glob("runs/*/*/records.jsonl") if path.parts[-3] != "sweeps"]


def records(done: Done) -> list[list[dict[str, Any]]]:
    """The records of every job, without their wall-clock times."""
    found = []
    for job in sweep_of(done)["jobs"]:
        lines = (done.directory / job["run"] / "records.jsonl").read_text().splitlines()
        found.append([{k: v for k, v in json.loads(line).items() if k != "time_ms"} for line in lines])
    return found
