"""Score detectors, diagnosis and baselines on the runs: `python experiments/instability_benchmark/score.py`.

It reads what generate.py made, and writes scores.json (a row a run, not in git), tables.md and confusion.png.
`--half dev` scores the half on which thresholds may be fixed, and `--small` few runs; both only print their tables.
"""

from __future__ import annotations

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from baselines import BASELINES
from cases import cases, half, twin
from confusion import draw
from generate import ROOT, path_of
from labels import is_gradual, label
from making import Case, read
from replay import EVIDENCE, Verdict, alarms, all_detectors, verdict
from tables import tables

from runner.checks.watch import default_detectors

HERE = Path(__file__).parent
AFTERWARDS = 20  # steps after a fault at a known step in which an alarm is about it
SURE = 0.94  # confidence from which on a verdict of a failure is an alarm, too
AT_STEPS = ("inputs", "targets", "nan", "half")


class Row(NamedTuple):
    """What is scored of a run.

    Attributes:
        name, task, optimizer, half, family: of its case.
        cause, equal, near, silent: of its label.
        steps: length of the curve.
        non_finite: first step that is not finite and was not skipped.
        gradual: whether it left for good ten steps before that.
        rung: rule -> first step at which it rang, about the fault where that has a step; None never. A verdict rings at
            the last step.
        detectors: detector -> first step of a warning or a stop of its own.
        verdicts: what is known -> what the diagnosis said.
    """

    name: str
    task: str
    optimizer: str
    half: str
    family: str
    cause: str
    equal: list[str]
    near: list[str]
    silent: bool
    steps: int
    non_finite: int | None
    gradual: bool
    rung: dict[str, int | None]
    detectors: dict[str, int]
    verdicts: dict[str, Verdict]

    def is_right(self, cause: str) -> bool:
        """Return whether a cause is true of the run."""
        return cause == self.cause or cause in self.equal


def main() -> None:
    """Score every run that is there, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=["dev", "test"], default="test", help="which runs")
    parser.add_argument("--small", action="store_true", help="the runs of generate.py --small")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--root", type=Path, default=ROOT, help="where curves are")
    parser.add_argument("--to", type=Path, default=HERE, help="where tables.md and confusion.png go")
    chosen = parser.parse_args()
    rows = score(cases(chosen.half, small=chosen.small), chosen.root, workers=chosen.workers)
    text = json.dumps([as_tree(row) for row in rows], indent=0)
    (chosen.root / f"scores_{chosen.half}.json").write_text(text + "\n", encoding="utf-8")
    found = tables(rows)
    print(found)
    if chosen.half == "test" and not chosen.small:
        (chosen.to / "tables.md").write_text(found, encoding="utf-8")
        draw(rows, chosen.to / "confusion.png")


def score(wanted: list[Case], root: Path, *, workers: int | None) -> list[Row]:
    """Return a row for every run that is there and whose label holds."""
    there = [case for case in wanted if all(path_of(one, root).exists() for one in (case, twin(case) or case))]
    if len(there) < len(wanted):
        print(f"{len(wanted) - len(there)} of {len(wanted)} runs are not there: run generate.py first", flush=True)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(row_of, there, [root] * len(there), chunksize=16))


def row_of(case: Case, root: Path) -> Row:
    """Replay one run."""
    curve, other = read(path_of(case, root)), twin(case)
    given = label(case, curve, read(path_of(other, root)) if other is not None else None)
    found = alarms(case, curve, all_detectors())
    default = [alarm for alarm in found if alarm.detector in default_detectors()]
    window = range(10**9)
    if case.fault.kind in AT_STEPS and given.cause not in ("healthy", "dropped"):
        window = range(case.fault.steps[0], case.fault.steps[-1] + AFTERWARDS + 1)
    loud = [alarm for alarm in found if alarm.severity != "info"]
    verdicts: dict[str, Verdict] = {one: verdict(case, curve, one, default) for one in EVIDENCE}
    at_default = _first([a.step for a in loud if a in default], window)
    last = len(curve.loss) if is_sick(verdicts[EVIDENCE[0]]) else None
    rung: dict[str, int | None] = {
        "detectors of the page (default)": at_default,
        f"these, or a verdict of at least {SURE:.0%} at the end": last if at_default is None else at_default,
        "all detectors": _first([a.step for a in loud], window),
    }
    rung |= {
        name: _first([step] if (step := rule(curve)) is not None else [], window) for name, rule in BASELINES.items()
    }
    return Row(
        name=case.name,
        task=case.task,
        optimizer=case.optimizer,
        half=half(case),
        family=case.family,
        cause=given.cause,
        equal=list(given.equal),
        near=list(given.near),
        silent=given.silent,
        steps=len(curve.loss),
        non_finite=curve.first_non_finite,
        gradual=is_gradual(curve),
        rung=rung,
        detectors={a.detector: a.step for a in reversed(loud)},
        verdicts=verdicts,
    )


def is_sick(said: Verdict) -> bool:
    """Return whether a verdict names a failure and is sure enough to be an alarm for who reads it."""
    return said.cause not in ("healthy", "cannot_tell") and said.confidence >= SURE


def as_tree(row: Row) -> dict[str, Any]:
    """Return a row as JSON has it."""
    return {**row._asdict(), "verdicts": {evidence: said._asdict() for evidence, said in row.verdicts.items()}}


def _first(steps: list[int], window: range) -> int | None:
    return min((step for step in steps if step in window), default=None)


if __name__ == "__main__":
    main()
