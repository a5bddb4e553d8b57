"""Make the runs of the benchmark: `python experiments/instability_benchmark/generate.py [--small] [--workers N]`.

A run that is there is not made again. Curves go to runs/instability_benchmark/curves/, one gzipped JSON a run, and
labels.json beside them holds the label of every run. `--small` makes a few hundred, of the cheap tasks.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from shutil import copy
from typing import Any
from zlib import crc32

from cases import best_lrs, cases, half, twin
from labels import label
from making import Case, make, read, write
from rigged import diabetes_table

ROOT = Path("runs/instability_benchmark")
SAMPLE = Path(__file__).with_name("sample")


def main() -> None:
    """Make what is not there, then label everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a few hundred runs of the cheap tasks")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--root", type=Path, default=ROOT, help="where curves and labels go")
    parser.add_argument("--sample", action="store_true", help="also copy one test run of every label to sample/")
    chosen = parser.parse_args()
    started = time.monotonic()
    wanted = cases(small=chosen.small)
    made = generate(wanted, chosen.root, workers=chosen.workers)
    labels = label_all(wanted, chosen.root)
    (chosen.root / "labels.json").write_text(json.dumps(labels, indent=1) + "\n", encoding="utf-8")
    if chosen.sample:
        copy_sample(labels, chosen.root, SAMPLE)
    seconds = time.monotonic() - started
    print(f"{made} runs made, {len(labels)} labelled in {seconds:.0f} s")
    for name in ("dev", "test"):
        counts = Counter(
            (f"{found['cause']} (silent)" if found["silent"] else found["cause"])
            for found in labels.values()
            if found["half"] == name
        )
        print(name, dict(counts.most_common()))


def generate(wanted: list[Case], root: Path, *, workers: int) -> int:
    """Make the runs, and those that they are compared with, that are not there yet; return how many."""
    diabetes_table()  # before processes could write it together
    every = {case.name: case for case in [*wanted, *filter(None, map(twin, wanted))]}
    missing = [case for case in every.values() if not path_of(case, root).exists()]
    missing.sort(key=lambda case: (case.seed % 100, crc32(case.name.encode())))  # something of everything first
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for count, _ in enumerate(pool.map(_make, missing, [root] * len(missing), chunksize=4), start=1):
            if count % 100 == 0:
                print(f"{count} of {len(missing)} runs", flush=True)
    return len(missing)


def path_of(case: Case, root: Path) -> Path:
    """Return where the curve of a case lies."""
    return root / "curves" / f"{case.name}.json.gz"


def label_all(wanted: list[Case], root: Path) -> dict[str, dict[str, Any]]:
    """Return name -> case, half and label of every run."""
    found: dict[str, dict[str, Any]] = {}
    for case in wanted:
        other = twin(case)
        compared = read(path_of(other, root)) if other is not None else None
        given = label(case, read(path_of(case, root)), compared)
        found[case.name] = {
            **given._asdict(),
            "half": half(case),
            "case": {**case._asdict(), "fault": case.fault._asdict()},
        }
    return found


def copy_sample(labels: dict[str, dict[str, Any]], root: Path, to: Path) -> None:
    """Copy the first test run of every label, by name, and write their labels."""
    first: dict[tuple[str, bool], str] = {}
    for name, given in sorted(labels.items()):
        if given["half"] == "test":
            first.setdefault((given["cause"], given["silent"]), name)
    to.mkdir(exist_ok=True)
    for name in first.values():
        copy(root / "curves" / f"{name}.json.gz", to)
    kept = {name: labels[name] for name in sorted(first.values())}
    (to / "labels.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def _make(case: Case, root: Path) -> None:
    write(path_of(case, root), make(case, best_lrs()))


if __name__ == "__main__":
    main()
