"""What a multirun left behind."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import ENVIRONMENT, Done, wait_for
from tests.processes import Forked


def sweep_of(done: Done) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((done.run / "sweep.json").read_text())
    return data


def multirun_that_gets(number: signal.Signals, *words: str, launcher: str, directory: Path) -> Done:
    """What became of a multirun of task=quadratic that got a signal when a run had made 30 steps."""
    words = ("-m", "tracking=off", f"hydra/launcher={launcher}", *words)
    process: subprocess.Popen[str] | Forked
    if launcher == "basic":
        process = Forked(*words, directory=directory, environment=ENVIRONMENT)
    else:
        command, pipe = [sys.executable, "-m", "runner", *words], subprocess.PIPE
        process = subprocess.Popen(command, cwd=directory, env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True)
    records_of_all = "runs/quadratic/*/records.jsonl"
    wait_for(lambda: any('"step":30,' in path.read_text() for path in directory.glob(records_of_all)))
    process.send_signal(number)
    if isinstance(process, Forked):
        return Done(*process.communicate(), directory)
    out, err = process.communicate(timeout=120)
    return Done(process.returncode, out, err, directory)


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
