"""Make the curves of the exercise again: `python experiments/diagnose_exercise/make_curves.py`.

Every curve is a run of the runner that nothing stops (`remedy=[advise]`); its records become a CSV beside this file.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

from runner.records import EvalRecord, StepRecord
from runner.tracking.jsonl import read_records

HERE = Path(__file__).parent
RUNS = {
    "a": "optimizer.lr=1.5 train.duration=120 train.eval_every=20",
    "b": "optimizer.lr=3e-3 train.duration=250 train.eval_every=25",
    "c": "task=tabular optimizer=adamw optimizer.lr=1e-2 train.duration=400 train.batch_size=32 train.eval_every=20",
    "d": "optimizer.lr=0.1 schedule=multistep schedule.milestones=[25] schedule.gamma=1e-3 train.duration=250 "
    "train.eval_every=25",
    "e": "optimizer=adamw optimizer.lr=3e-3 schedule=linear train.duration=250 train.eval_every=25",
}
"""name of the curve -> command line of its run"""


def main() -> None:
    """Run them one after the other."""
    for name, overrides in RUNS.items():
        words = [*overrides.split(), "remedy=[advise]", "tracking=off", "quiet=true"]
        command = [sys.executable, "-m", "runner", *words]
        print("$ python -m runner", *words, flush=True)
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        write(name, Path(done.stdout.strip().splitlines()[-1]))


def write(name: str, run: Path) -> None:
    """Write the records of a run as a table: an evaluation stands in the row of the step before it."""
    records = list(read_records(run))
    evals = {record.step: record.metrics["loss"] for record in records if isinstance(record, EvalRecord)}
    with (HERE / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["step", "loss", "lr", "grad_norm", "val_loss"])
        for record in records:
            if isinstance(record, StepRecord):
                val = evals.get(record.step + 1)
                numbers = [f"{value:.5g}" for value in (record.loss, record.lr, record.grad_norm)]
                table.writerow([record.step, *numbers, "" if val is None else f"{val:.5g}"])


if __name__ == "__main__":
    main()
