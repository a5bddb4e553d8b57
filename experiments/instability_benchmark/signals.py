"""How often the detectors of signals ring in real runs: healthy ones, and ones with a wrong learning rate.

    python experiments/instability_benchmark/signals.py --every 100 --steps 500 --seeds 5

Each cell trains a task with an optimizer at multiples of a good learning rate (below), with all signals measured; the
detectors of `conf/detector/` then read the records. Printed: runs with an alarm of each detector, and the range of each
signal over the runs. Healthy are the multiples 0.3 and 1.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch

from runner.build import build
from runner.compose import compose_leniently
from runner.job import checked
from runner.records import Record, StepRecord
from runner.train.checkpoint import Checkpoints
from runner.train.loop import fit
from runner.watch import Watch

DETECTORS = ("update_ratio", "rms_spike", "oscillation", "logit_growth")
TASKS = {
    "mlp": ["task=digits"],
    "cnn": ["task=digits", "task.model=cnn"],
    "full batch": ["task=digits", "task.hidden=[32,32]", "train.batch_size=1400"],
    "tabular": ["task=tabular"],
    "char_lm": ["task=char_lm", "task.context=32", "task.width=64", "task.depth=2", "train.batch_size=16"],
}
GOOD = {
    "sgd": {"mlp": 0.1, "cnn": 0.1, "full batch": 0.1, "tabular": 0.1, "char_lm": 0.03},
    "adamw": dict.fromkeys(TASKS, 3e-3),
    "muon": {"mlp": 0.02, "char_lm": 0.02},
}
HEALTHY = (0.3, 1.0)


class Cell(NamedTuple):
    """A kind of run."""

    task: str
    optimizer: str
    multiple: float


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=100, help="steps between measurements")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--multiples", type=float, nargs="*", default=[0.001, *HEALTHY, 10.0, 100.0])
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--optimizers", nargs="*", default=list(GOOD))
    parser.add_argument("--set", nargs="*", default=[], help="further overrides, such as optimizer.betas=[0.9,0.95]")
    given = parser.parse_args()
    torch.set_num_threads(1)
    told: dict[Cell, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for cell in _cells(given.tasks, given.optimizers, given.multiples):
        ranges: dict[str, tuple[float, float]] = {}
        for seed in range(given.seeds):
            records, watch = _train(cell, given.every, given.steps, seed, given.set)
            for name in _rings(records, watch):
                told[cell][name] += 1
            for record in records:
                for name, value in (record.signals or {}).items():
                    low, high = ranges.get(name, (math.inf, -math.inf))
                    ranges[name] = min(low, value), max(high, value)
        told[cell]["runs"] = given.seeds
        alarms = {name: told[cell][name] for name in DETECTORS if told[cell][name]}
        shown = ", ".join(f"{name} {low:.2g} to {high:.2g}" for name, (low, high) in sorted(ranges.items()))
        print(
            f"{cell.task}, {cell.optimizer} x{cell.multiple:g}: {alarms or 'silent'} in {given.seeds}; {shown}",
            flush=True,
        )
    _summarise(told)


def _cells(tasks: list[str], optimizers: list[str], multiples: list[float]) -> Iterator[Cell]:
    for task, optimizer, multiple in product(tasks, optimizers, multiples):
        if task in GOOD[optimizer]:
            yield Cell(task, optimizer, multiple)


def _train(cell: Cell, every: int, steps: int, seed: int, further: list[str]) -> tuple[list[StepRecord], Watch]:
    lr = GOOD[cell.optimizer][cell.task] * cell.multiple
    overrides = [
        *TASKS[cell.task], f"optimizer={cell.optimizer}", f"optimizer.lr={lr:g}", f"train.duration={steps}",
        f"seed={seed}", "train.eval_every=null", "train.checkpoint_every=null", f"monitor.signals_every={every}",
        f"detector=[non_finite,{','.join(DETECTORS)}]", "tracking=off", *further,
    ]  # fmt: skip
    tree, problems, _ = compose_leniently(overrides)
    made = build(checked(tree, problems))
    records: list[StepRecord] = []

    def keep(record: Record) -> None:
        if isinstance(record, StepRecord):
            records.append(record)

    with tempfile.TemporaryDirectory() as folder:
        fit(
            made.task, made.model, made.optimizer, made.schedules, plan=made.plan, watch=made.watch,
            checkpoints=Checkpoints(Path(folder)), on_record=keep, meters=made.meters,
        )  # fmt: skip
    return records, made.watch


def _rings(records: list[StepRecord], watch: Watch) -> set[str]:
    """Return the detectors that ring: of oscillation only a warning counts, as its info is benign."""
    state, found = watch.start(), set()
    for record in records:
        state, alarms = watch.observe(state, record)
        found |= {alarm.detector for alarm in alarms if alarm.severity != "info"}
    return found


def _summarise(told: dict[Cell, dict[str, int]]) -> None:
    print(
        "\n| multiple of a good learning rate | runs |", " | ".join(DETECTORS), "|\n|---|---|" + "---|" * len(DETECTORS)
    )
    for multiple in sorted({cell.multiple for cell in told}):
        cells = [counts for cell, counts in told.items() if cell.multiple == multiple]
        sums = [sum(counts[name] for counts in cells) for name in ("runs", *DETECTORS)]
        print(f"| {multiple:g} |", " | ".join(map(str, sums)), "|")


if __name__ == "__main__":
    main()
