"""What the same runs take by `python -m runner -m`, one after another, in lanes and as auto chooses: whole commands."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from runner.trials.grid import spaced

ROOT = Path(__file__).resolve().parents[2]
LOW, HIGH = 1e-3, 0.3
TASKS = {
    "digits, mlp": [],
    "digits, cnn": ["task.model=cnn", "train.duration=60"],
    "tabular": ["task=tabular"],
    "quadratic": ["task=quadratic"],
    "char_lm": ["task=char_lm", "train.duration=30"],
    "supervised": [
        "task=supervised",
        "++task.model._target_=tests.own_parts.Net",
        "++task.train._target_=tests.own_parts.Points",
        "train.duration=400",
    ],
}
"""the tasks of conf/task, and what makes their runs short"""


class Cost(NamedTuple):
    """Seconds of a command.

    Attributes:
        wall: from its start to its end.
        cpu: of its process and of all that it waited for: pictures are drawn, and records sent, by processes beside.
        output: what it printed.
    """

    wall: float
    cpu: float
    output: str


def cost(arguments: Sequence[str], directory: Path) -> Cost:
    """Return what a call of the program takes.

    Raises:
        RuntimeError: it fails.
    """
    command, started = [sys.executable, "-m", "runner", *arguments], time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (directory / "output.txt").open("w") as output:
        process = subprocess.Popen(command, cwd=directory, env=environment, stdout=output, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
    wall, text = time.perf_counter() - started, (directory / "output.txt").read_text()
    if status:
        raise RuntimeError(text[-2000:])
    return Cost(wall, used.ru_utime + used.ru_stime, text)


def ways(points: int, lanes: int, more: Sequence[str]) -> dict[str, list[str]]:
    """Return the command lines of the same runs, with tracking as it is by default."""
    rates = ",".join(spaced(LOW, HIGH, points))
    grid = ["mode=sweep", f"sweep.low={LOW}", f"sweep.high={HIGH}", f"sweep.points={points}", f"sweep.lanes={lanes}"]
    backends = {name: [*grid, *more, f"sweep.backend={name}"] for name in ("sequential", "lanes", "auto")}
    return {"-m": ["-m", f"optimizer.lr={rates}", *more], **backends}


def compare(names: Sequence[str], repeats: int, given: dict[str, list[str]]) -> dict[str, Cost]:
    """Return the cost of each way, of the turn that took the least processor time: others may use this machine too."""
    best: dict[str, Cost] = {}
    for _ in range(repeats):
        for name in names:
            with tempfile.TemporaryDirectory() as folder:
                found = cost(given[name], Path(folder))
            best[name] = min(best.get(name, found), found, key=lambda each: each.cpu)
            print(json.dumps({"way": name, "cpu s": round(found.cpu, 1), "wall s": round(found.wall, 1)}), flush=True)
    return best


def told(case: str, names: Sequence[str], best: dict[str, Cost]) -> None:
    """Print how many times as much each way takes as the last one, and what auto has chosen."""
    last = best[names[-1]]
    row: dict[str, object] = {"case": case}
    for name in names[:-1]:
        found = best[name]
        row[f"{name} / {names[-1]}"] = {"cpu": round(found.cpu / last.cpu, 2), "wall": round(found.wall / last.wall, 2)}
    chosen = [line for line in last.output.splitlines() if line.startswith("sweep.backend: ")]
    print(json.dumps({**row, **({"auto": chosen[0].partition(": ")[2]} if chosen else {})}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("more", nargs="*", help="overrides for all of them, such as task=tabular tracking=off")
    parser.add_argument("--points", type=int, default=32)
    parser.add_argument("--lanes", type=int, default=16, help="most at once")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument(
        "--ways", default="-m,lanes", help="of -m, sequential, lanes, auto; the last against the others"
    )
    parser.add_argument("--tasks", action="store_true", help="every task, with sequential, lanes and auto")
    given = parser.parse_args()
    names = ["sequential", "lanes", "auto"] if given.tasks else given.ways.split(",")
    for case, overrides in (TASKS if given.tasks else {"": []}).items():
        more = [*overrides, *given.more]
        told(case, names, compare(names, given.repeats, ways(given.points, given.lanes, more)))


if __name__ == "__main__":
    main()
