"""The dense truth: `python experiments/finding_the_lr/truth.py [--cells a,b] [--seeds 0,1] [--shares 1,0.25]`.

Every cell is trained at about 20 learning rates with every truth seed; a run that is there is not made again. The runs
go to runs/finding_the_lr/<cell>.jsonl.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from runs_of_cells import PAGE, CellRun, train

from runner.records import read_non_finite, spell_non_finite

ROOT = Path("runs/finding_the_lr")


def main() -> None:
    """Make what is not there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default=",".join(PAGE["cells"]), help="which cells")
    parser.add_argument("--seeds", default=",".join(map(str, PAGE["truth_seeds"])), help="which seeds")
    parser.add_argument("--shares", default="1", help="lengths, over that of the full run")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    chosen = parser.parse_args()
    wanted = [
        (cell, lr, int(seed), float(share))
        for seed in chosen.seeds.split(",")
        for share in chosen.shares.split(",")
        for cell in chosen.cells.split(",")
        for lr in grid(cell)
    ]
    made = {cell: {(run.lr, run.seed, run.share) for run in read(cell)} for cell in PAGE["cells"]}
    missing = [one for one in wanted if one[1:] not in made[one[0]]]
    ROOT.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(chosen.workers, mp_context=get_context("spawn")) as pool:
        for count, (cell, run) in enumerate(pool.map(_make, missing, chunksize=4), start=1):
            with path_of(cell).open("a", encoding="utf-8") as file:
                file.write(json.dumps(spell_non_finite(run._asdict())) + "\n")
            if count % 100 == 0:
                print(f"{count} of {len(missing)} runs", flush=True)


def grid(cell: str) -> list[float]:
    """Return the learning rates of the truth, three digits each."""
    low, high = PAGE["cells"][cell]["range"]
    count = round(math.log10(high / low) * PAGE["per_decade"])
    return [float(f"{low * 10 ** (i / PAGE['per_decade']):.3g}") for i in range(count + 1)]


def path_of(cell: str) -> Path:
    """Return where the runs of a cell lie."""
    return ROOT / f"{cell}.jsonl"


def read(cell: str) -> list[CellRun]:
    """Return the runs of a cell that are there."""
    if not path_of(cell).exists():
        return []
    lines = path_of(cell).read_text(encoding="utf-8").splitlines()
    runs = [{key: read_non_finite(value) for key, value in json.loads(line).items()} for line in lines]
    return [CellRun(**run) for run in runs]


def _make(one: tuple[str, float, int, float]) -> tuple[str, CellRun]:
    cell, lr, seed, share = one
    return cell, train(cell, lr, seed, share=share)


if __name__ == "__main__":
    main()
