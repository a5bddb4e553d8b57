"""What a step costs on a GPU, by hand and with the runner. Run: python experiments/step_overhead/gpu.py

In every round each loop has a fresh process. All of them start at once and wait until the others have done so too; then
they take turns, one at a time on the GPU, job by job. Medians of the rounds are compared.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmark import environment

LOOPS = {
    "by_hand": "by hand, tuned",
    "by_hand_seldom": "by hand, loss read every 20 steps",
    "ours": "**runner**",
    "ours_seldom": "**runner**, train.watch_every=20",
    "ours_hardly_watched": "runner, detector=[non_finite]",
}
"""function of `loops` -> label"""


class Measured(NamedTuple):
    """What a table is of.

    Attributes:
        job: as in `job.TASKS`.
        precision: of the forward pass.
        steps: the second half counts.
    """

    job: str
    precision: str
    steps: int


TABLES = [
    Measured("mlp", "fp32", 3000),
    Measured("char_lm", "fp32", 1200),
    Measured("gpt", "fp32", 80),
    Measured("gpt", "bf16", 240),
    Measured("gpt", "fp16", 240),
]
Found = dict[str, list[dict[str, Any]]]  # loop -> what it told in each round


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="at most")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no round is begun that would end later")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tables", type=int, nargs="*", help=f"numbers from 0 to {len(TABLES) - 1}; all unless given")
    parser.add_argument("--share", type=float, default=1.0, help="of the steps, for a first look")
    parser.add_argument("--output", type=Path, help="file for the numbers of every round, JSON")
    parser.add_argument("--loop", choices=LOOPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loop:
        answer(options.loop, options.device)
        return
    chosen = TABLES if options.tables is None else [TABLES[index] for index in options.tables]
    tables = [table._replace(steps=max(4, int(table.steps * options.share))) for table in chosen]
    found: dict[Measured, Found] = {table: {loop: [] for loop in LOOPS} for table in tables}
    began, longest = time.monotonic(), 0.0
    for index in range(options.rounds):
        started = time.monotonic()
        if index and started + longest - began > options.seconds:
            break
        play(found, options.device)
        longest = max(longest, time.monotonic() - started)
        print(f"round {index + 1}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        if options.output:
            rows = [{**table._asdict(), "loops": loops} for table, loops in found.items()]
            options.output.write_text(json.dumps(rows, indent=1))
    for table, loops in found.items():
        show(table, loops, options.device)


def play(found: dict[Measured, Found], device: str) -> None:
    """Make one round, and add what it tells."""
    command = [sys.executable, str(Path(__file__).resolve()), "--device", device, "--loop"]
    processes = {
        loop: subprocess.Popen(
            [*command, loop], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for loop in LOOPS
    }
    try:
        for process in processes.values():
            _line(process)
        for table, loops in found.items():
            for loop, process in processes.items():
                assert process.stdin is not None
                process.stdin.write(f"{json.dumps(table)}\n")
                process.stdin.flush()
                told = _line(process)
                loops[loop].append(told)
                name = f"{table.job} {table.precision} {loop}"
                print(f"{name}: {told['step_seconds'] * 1e6:.0f} us a step", file=sys.stderr, flush=True)
    finally:
        for process in processes.values():
            process.communicate()


def _line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        sys.exit(f"{process.args!r}: ended with {process.wait()}")
    told: dict[str, Any] = json.loads(line)
    return told


def show(table: Measured, loops: Found, device: str) -> None:
    """Print a table of medians."""
    rounds = len(loops["by_hand"])
    print(
        f"\n{table.job}, {table.precision}, {device}, {table.steps:,} steps, median of {rounds} (lowest to highest):\n"
    )
    print(f"| {'loop':33} | us a step | range | ratio | MiB on the GPU |\n|---|---|---|---|---|")
    base = statistics.median(told["step_seconds"] for told in loops["by_hand"])
    for loop, label in LOOPS.items():
        values = [told["step_seconds"] * 1e6 for told in loops[loop]]
        memory = max(told["gpu_mib"] for told in loops[loop])
        median = statistics.median(values)
        ratio, spread = median / base / 1e6, f"{min(values):.0f} to {max(values):.0f}"
        print(f"| {label:33} | {median:.0f} | {spread} | {ratio:.2f} | {memory:.0f} |")
    sys.stdout.flush()


def answer(loop: str, device: str) -> None:
    """Make the measurements that are asked for, one a line on standard input, until it ends."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what the runner says
    import loops
    import torch
    from job import Place

    importlib.import_module("runner.modes.train")
    torch.set_num_threads(1)
    is_gpu = device == "cuda"
    torch.zeros((), device=device).item()
    print("{}", file=channel, flush=True)
    make: Callable[..., Any] = getattr(loops, loop)
    for line in sys.stdin:
        table = Measured(*json.loads(line))
        torch.manual_seed(0)
        if is_gpu:
            torch.cuda.reset_peak_memory_stats()
        timing = make(table.job, table.steps, Place(device, table.precision))
        mib = torch.cuda.max_memory_allocated() / 2**20 if is_gpu else 0.0
        print(json.dumps({**timing._asdict(), "gpu_mib": mib}), file=channel, flush=True)
        if is_gpu:
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
