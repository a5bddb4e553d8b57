"""What a step costs on a GPU, by hand and with the runner. Run: python experiments/step_overhead/gpu.py

Each loop has a process of its own. All of them start at once; then they take turns, one at a time on the GPU, job by
job and round by round, every time with a fresh model. Medians of the rounds are compared.
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
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmark import environment

LOOPS = {
    "by_hand": "by hand, tuned",
    "by_hand_seldom": "by hand, loss read every 20 steps",
    "ours": "**runner**",
    "ours_seldom": "**runner**, train.watch_every=20",
    "by_hand_compiled": "by hand, torch.compile",
    "ours_compiled": "**runner**, train.compile=true",
}
"""function of `loops` -> label"""
PLAIN = ("by_hand", "by_hand_seldom", "ours", "ours_seldom")


class Measured(NamedTuple):
    """What a table is of.

    Attributes:
        job: as in `job.TASKS`.
        precision: of the forward pass.
        steps: the second half counts. The first holds start-up, compilation, and the shorter batch that ends an epoch.
        loops: of `LOOPS`.
    """

    job: str
    precision: str
    steps: int
    loops: tuple[str, ...] = PLAIN


TABLES = [
    Measured("mlp", "fp32", 1600),
    Measured("char_lm", "fp32", 600),
    Measured("gpt", "bf16", 160, tuple(LOOPS)),
    Measured("gpt", "fp16", 160),
    Measured("gpt", "fp32", 80),
]
Found = dict[str, list[dict[str, Any]]]  # loop -> what it told in each round; an "error" where it failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="at most")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no round is begun that would end later")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tables", type=int, nargs="*", help=f"numbers from 0 to {len(TABLES) - 1}; all unless given")
    parser.add_argument("--loops", nargs="*", choices=LOOPS, help="all unless given")
    parser.add_argument("--share", type=float, default=1.0, help="of the steps, for a first look")
    parser.add_argument("--output", type=Path, help="file for the numbers of every round, JSON")
    parser.add_argument("--loop", choices=LOOPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loop:
        answer(options.loop, options.device)
        return
    chosen = TABLES if options.tables is None else [TABLES[index] for index in options.tables]
    tables = [
        table._replace(
            steps=max(4, int(table.steps * options.share)),
            loops=tuple(loop for loop in table.loops if loop in (options.loops or LOOPS)),
        )
        for table in chosen
    ]
    found: dict[Measured, Found] = {table: {loop: [] for loop in table.loops} for table in tables if table.loops}
    began, longest = time.monotonic(), 0.0
    with processes({loop for table in tables for loop in table.loops}, options.device) as ready:
        for index in range(options.rounds):
            started = time.monotonic()
            if index and started + longest - began > options.seconds:
                break
            play(found, ready)
            longest = time.monotonic() - started  # the first round starts up more than the others do
            print(f"round {index + 1}: {longest:.0f} s", file=sys.stderr, flush=True)
            if options.output:
                rows = [{**table._asdict(), "loops": loops} for table, loops in found.items()]
                options.output.write_text(json.dumps(rows, indent=1))
    for table, loops in found.items():
        show(table, loops, options.device)


@contextmanager
def processes(loops: set[str], device: str) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Start a process for each loop, and give them out when all are ready."""
    command = [sys.executable, str(Path(__file__).resolve()), "--device", device, "--loop"]
    started = {
        loop: subprocess.Popen(
            [*command, loop], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for loop in LOOPS
        if loop in loops
    }
    try:
        for process in started.values():
            _line(process)
        yield started
    finally:
        for process in started.values():
            process.communicate()


def play(found: dict[Measured, Found], ready: dict[str, subprocess.Popen[str]]) -> None:
    """Make one round, and add what it tells; a loop that failed is left out from then on."""
    for table, loops in found.items():
        for loop, told_before in loops.items():
            if told_before and "error" in told_before[-1]:
                continue
            process = ready[loop]
            assert process.stdin is not None
            process.stdin.write(f"{json.dumps(table)}\n")
            process.stdin.flush()
            told = _line(process)
            told_before.append(told)
            said = told.get("error") or f"{told['step_seconds'] * 1e6:.0f} us a step, {told['whole_seconds']:.1f} s"
            print(f"{table.job} {table.precision} {loop}: {said}", file=sys.stderr, flush=True)


def _line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        sys.exit(f"{process.args!r}: ended with {process.wait()}")
    told: dict[str, Any] = json.loads(line)
    return told


def show(table: Measured, loops: Found, device: str) -> None:
    """Print a table of medians."""
    rounds = max(map(len, loops.values()))
    print(
        f"\n{table.job}, {table.precision}, {device}, {table.steps:,} steps, median of {rounds} (lowest to highest):\n"
    )
    print(f"| {'loop':33} | us a step | range | ratio | MiB on the GPU |\n|---|---|---|---|---|")
    base = float("nan")
    for loop, all_told in loops.items():
        if not all_told or "error" in all_told[-1]:
            print(f"| {LOOPS[loop]:33} | failed | | | |")
            continue
        values = [told["step_seconds"] * 1e6 for told in all_told]
        median, memory = statistics.median(values), max(told["gpu_mib"] for told in all_told)
        base = median if loop == "by_hand" else base
        spread = f"{min(values):.0f} to {max(values):.0f}"
        print(f"| {LOOPS[loop]:33} | {median:.0f} | {spread} | {median / base:.2f} | {memory:.0f} |")
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
        told, started = dict[str, Any](), time.monotonic()
        try:
            told = make(table.job, table.steps, Place(device, table.precision))._asdict()
        except (Exception, SystemExit) as error:  # a machine may have no compiler; the other loops go on
            traceback.print_exc()
            told["error"] = f"{type(error).__name__}: {error}"[:300]
        told["gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20 if is_gpu else 0.0
        print(json.dumps({**told, "whole_seconds": time.monotonic() - started}), file=channel, flush=True)
        if is_gpu:
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
