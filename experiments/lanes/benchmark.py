"""How much faster many runs are in lanes than one after another: one process, one thread, the same functions."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from runner.build import Experiment, build
from runner.compose import compose_leniently
from runner.job import checked
from runner.lanes.engine import fit_lanes
from runner.lanes.lane import Lane
from runner.tracking.jsonl import RecordWriter
from runner.train.checkpoint import Checkpoints
from runner.train.loop import fit

SHORT = ["train.eval_every=null", "train.checkpoint_every=null"]
CASES: dict[str, tuple[list[str], tuple[float, float], int]] = {
    "digits": (["optimizer=adamw"], (1e-5, 3e-3), 32),
    "digits, end only": (["optimizer=adamw", *SHORT], (1e-5, 3e-3), 32),
    "digits, diverging": (["optimizer=sgd"], (1e-3, 1e3), 32),
    "digits sgd": (["optimizer=sgd"], (1e-3, 0.3), 32),
    "digits cnn": (["task.model=cnn", "optimizer=adamw", "train.duration=60"], (1e-4, 3e-3), 8),
    "tabular": (["task=tabular", "optimizer=adamw"], (1e-5, 3e-3), 32),
    "quadratic": (["task=quadratic"], (1e-3, 0.15), 32),
    "char_lm": (["task=char_lm", "train.duration=6"], (1e-4, 3e-3), 8),
    "supervised": (
        [
            "task=supervised",
            "++task.model._target_=tests.own_parts.Net",
            "++task.train._target_=tests.own_parts.Points",
        ],
        (1e-3, 0.3),
        32,
    ),
}
"""name -> overrides, lowest and highest learning rate, lanes"""


class Cost(NamedTuple):
    """What a way took for each step of a run that it made.

    Attributes:
        wall, cpu: microseconds.
        steps: made, all runs together.
    """

    wall: float
    cpu: float
    steps: int


def made(overrides: Sequence[str]) -> Experiment:
    tree, problems, _ = compose_leniently(["train.threads=1", "tracking=off", *overrides])
    return build(checked(tree, problems))


def experiments(case: str, count: int | None = None) -> list[Experiment]:
    overrides, (low, high), lanes = CASES[case]
    rates = [low * (high / low) ** (i / (lanes - 1)) for i in range(lanes)]
    picked = rates if count is None else rates[:: max(1, lanes // count)]
    return [made([*overrides, f"optimizer.lr={rate:.6g}"]) for rate in picked]


def timed(work: Callable[[], int]) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    steps = work()
    return Cost(1e6 * (time.perf_counter() - wall), 1e6 * (time.process_time() - cpu), steps)


def one_after_another(runs: Sequence[Experiment], root: Path) -> Cost:
    def work() -> int:
        steps = 0
        for index, run in enumerate(runs):
            directory = root / f"alone{index}"
            directory.mkdir(parents=True)
            with RecordWriter(directory) as writer:
                given = Checkpoints(directory, before_save=writer.sync)
                steps += fit(**run.parts(), checkpoints=given, on_record=writer.write).step
        return steps

    return timed(work)


def in_lanes(runs: Sequence[Experiment], root: Path, *, width: int) -> Cost:
    with ExitStack() as writers:
        lanes = []
        for index, run in enumerate(runs):
            directory = root / f"lane{width}_{index}"
            directory.mkdir(parents=True)
            writer = writers.enter_context(RecordWriter(directory))
            parts = {**run.parts(), "task": runs[0].task}
            lanes.append(Lane(parts, Checkpoints(directory, before_save=writer.sync), writer.write))

        def work() -> int:
            outcomes = fit_lanes(lanes, width=width)
            return sum(outcome.step for outcome in outcomes if not isinstance(outcome, Exception))

        return timed(work)


def compare(case: str, *, repeats: int, widths: Sequence[int], alone: int) -> dict[str, float | int | str]:
    """Take turns; of each way the quickest turn counts, a step of a run: others use this machine too."""
    best: dict[str, Cost] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(repeats + 1):
            root = Path(folder) / str(turn)
            found = {"alone": one_after_another(experiments(case, alone), root)}
            for width in widths:
                found[f"lanes {width}"] = in_lanes(experiments(case), root, width=width)
            for name, cost in found.items() if turn else ():  # the first turn warms up
                each = Cost(cost.wall / cost.steps, cost.cpu / cost.steps, cost.steps)
                if name not in best or each.cpu < best[name].cpu:
                    best[name] = each
    row: dict[str, float | int | str] = {"case": case}
    for name, cost in best.items():
        row |= {f"{name} us": round(cost.wall), f"{name} cpu us": round(cost.cpu), f"{name} steps": cost.steps}
    for width in widths:
        row[f"ratio {width}"] = round(best["alone"].cpu / best[f"lanes {width}"].cpu, 2)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES), help="of " + ", ".join(CASES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--widths", type=int, nargs="*", default=[16])
    parser.add_argument("--alone", type=int, default=8, help="how many of the runs are also made alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for case in given.cases:
        print(json.dumps(compare(case, repeats=given.repeats, widths=given.widths, alone=given.alone)), flush=True)


if __name__ == "__main__":
    main()
