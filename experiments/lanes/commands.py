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


class Cost(NamedTuple):
    """Seconds of a command.

    Attributes:
        wall: from its start to its end.
        cpu: of its process and of all that it waited for: pictures are drawn, and records sent, by processes beside.
    """

    wall: float
    cpu: float


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
    if status:
        raise RuntimeError((directory / "output.txt").read_text()[-2000:])
    return Cost(time.perf_counter() - started, used.ru_utime + used.ru_stime)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("more", nargs="*", help="overrides for all of them, such as task=tabular tracking=off")
    parser.add_argument("--points", type=int, default=32)
    parser.add_argument("--lanes", type=int, default=16, help="most at once")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument(
        "--ways", default="-m,lanes", help="of -m, sequential, lanes, auto; the last against the others"
    )
    given = parser.parse_args()
    names = given.ways.split(",")
    best = compare(names, given.repeats, ways(given.points, given.lanes, given.more))
    last = best[names[-1]]
    for name in names[:-1]:
        ratios = {"cpu": round(best[name].cpu / last.cpu, 2), "wall": round(best[name].wall / last.wall, 2)}
        print(json.dumps({"case": " ".join(given.more), f"{names[-1]} against {name}": ratios}))


if __name__ == "__main__":
    main()
