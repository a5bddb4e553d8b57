"""Score the branch probe on silent and healthy runs: `python experiments/instability_benchmark/probe.py`.

Every run is trained once more by the runner's own loop with the comparison of `remedy=[heal]` on, and with higher rates
among its candidates, which no page may name: asked at the start as heal asks, and from the running weights after a
quarter of the run, with branches that are ten times as fast as the run and with such that are as fast. Where the rate
stays the run is what it was, to the bit, so it is broken off; where it moves it goes on to its end. generate.py comes
first: labels.json and the curves say what is true of a run.

Rows are kept in probe_dev.jsonl or probe_test.jsonl beside the curves and not made again. `--half test`, the default,
writes probe.md beside the page.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from random import Random
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple

import yaml
from cases import best_lrs, cases, tuned
from generate import ROOT, path_of
from labels import is_good
from making import Case, Curve, curve_of, read, train
from probe_tables import tables
from rigged import SETTINGS, Rigged, diabetes_table
from torch import Tensor

from runner.assemble import make as assemble
from runner.detectors.milestone import Milestone
from runner.durations import Clock
from runner.nodes import Node, conf_directory
from runner.records import Action, Record, read_non_finite, spell_non_finite
from runner.remedies.branch_probe import FACTOR, BranchProbe
from runner.tasks.protocol import Batch, LossSum
from runner.train.branches import NOISE, Branch, compare
from runner.watch import Watch

Asked = Literal["start", "quarter", "slow_quarter"]
ASKED: tuple[Asked, ...] = ("start", "quarter", "slow_quarter")
HERE = Path(__file__).parent
HIGHER = (3.0, 10.0)  # beside the lower rates of the page
QUARTER = 0.25  # share of the run after which the running weights are asked
WITHIN = 2.0  # sd over seeds of the tuned loss: a move that ends no further above the run without it did no harm


class Row(NamedTuple):
    """What the probe did to a run.

    Attributes:
        name, task, optimizer, family, multiple: of its case.
        cause, silent: of its label.
        asked: when; in "slow_quarter" the branches run as fast as the run, in the others ten times as fast.
        losses: factor on the learning rate -> val loss of its branch in every repeat, inf where it was lost.
        factor: what the run went on with.
        gain: by how much the best other rate did better than the running one, in logs of the val loss; None where one
            of the two was lost.
        sd: of the gain, as the probe takes it.
        lower: what the same branches decide where only lower rates are candidates.
        lower_compute: updates of the branches that this takes, over those of the run.
        compute: updates of all branches, over those of the run.
        same: whether the run up to the probe is the one that was labelled, number for number.
        before: final val loss of the run that was labelled.
        after: with the probe on.
        good: whether that is as good as tuned.
        harmless: whether it is within WITHIN sd of `before`, or below it.
    """

    name: str
    task: str
    optimizer: str
    family: str
    multiple: float
    cause: str
    silent: bool
    asked: Asked
    losses: dict[str, list[float]]
    factor: float
    gain: float | None
    sd: float | None
    lower: float
    lower_compute: float
    compute: float
    same: bool
    before: float
    after: float
    good: bool
    harmless: bool


class Overheard(Rigged):
    """A task that keeps the val loss of every branch of a probe; the loop tells their means alone.

    A branch in repeat r begins with the batch of step begin + r x stretch, and only a branch that is not lost is
    judged. Attributes:
        losses: of the branches in order, inf where lost.
    """

    def __init__(self, case: Case, *, begin: int, stretch: int, repeats: int) -> None:
        super().__init__(case.task, case.fault, seed=case.seed)
        self.starts = {begin + repeat * stretch for repeat in range(repeats)}
        self.losses: list[float] = []
        self.is_judging = self.is_over = False

    def batch(self, step: int, split: str, part: tuple[int, int] = (0, 1)) -> tuple[Tensor, ...] | None:
        self.is_judging = split == "val"
        if step in self.starts and split == "train" and not self.is_over:
            self.losses.append(math.inf)
        return super().batch(step, split, part)

    def loss(self, apply: Any, batch: Batch, weight: float) -> LossSum:
        found = super().loss(apply, batch, weight)
        if self.is_judging and self.losses and not self.is_over:
            self.losses[-1] = float(found.total) / weight
        return found


def main() -> None:
    """Make the rows that are not there, then the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=["dev", "test"], default="test", help="which runs")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--root", type=Path, default=ROOT, help="where curves and labels are")
    parser.add_argument("--limit", type=int, help="at most so many silent runs of each cause, drawn by a fixed seed")
    parser.add_argument("--asked", nargs="*", choices=ASKED, default=list(ASKED), help="only these")
    parser.add_argument("--to", type=Path, default=HERE, help="where probe.md goes")
    chosen = parser.parse_args()
    labels = json.loads((chosen.root / "labels.json").read_text(encoding="utf-8"))
    drawn = draw([case for case in cases(chosen.half) if case.name in labels], labels, limit=chosen.limit)
    wanted = [(case, asked) for case in drawn for asked in chosen.asked]
    rows = rows_of(wanted, labels, chosen.root, chosen.root / f"probe_{chosen.half}.jsonl", workers=chosen.workers)
    found = tables(rows)
    print(found)
    if chosen.half == "test":
        (chosen.to / "probe.md").write_text(found, encoding="utf-8")


def draw(there: Sequence[Case], labels: Mapping[str, Any], *, limit: int | None) -> list[Case]:
    """Return silent runs, at most so many of each cause, and as many healthy ones, drawn by a fixed seed."""
    random, by_cause = Random(0), dict[str, list[Case]]()
    for case in sorted(there, key=lambda case: case.name):
        given = labels[case.name]
        if given["silent"] or given["cause"] == "healthy":
            by_cause.setdefault(given["cause"], []).append(case)
    healthy = by_cause.pop("healthy", [])
    silent = [case for _, group in sorted(by_cause.items()) for case in random.sample(group, len(group))[:limit]]
    found = [*silent, *random.sample(healthy, min(len(healthy), len(silent)))]
    return random.sample(found, len(found))  # of one that is broken off a part of everything is there


def rows_of(
    wanted: Sequence[tuple[Case, Asked]], labels: Mapping[str, Any], root: Path, kept: Path, *, workers: int | None
) -> list[Row]:
    """Return a row for each, and keep those that are new."""
    diabetes_table()  # before processes could write it together
    lines = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
    found = {(row.name, row.asked): row for row in (Row(**read_non_finite(json.loads(line))) for line in lines)}
    missing = [(case, asked) for case, asked in wanted if (case.name, asked) not in found]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool, kept.open("a") as file:
        made = [pool.submit(row_of, case, asked, labels[case.name], root) for case, asked in missing]
        for count, future in enumerate(as_completed(made), start=1):
            row = future.result()
            found[row.name, row.asked] = row
            file.write(json.dumps(spell_non_finite(row._asdict())) + "\n")
            file.flush()
            if count % 50 == 0:
                print(f"{count} of {len(missing)} probes", flush=True)
    return [found[case.name, asked] for case, asked in wanted]


def row_of(case: Case, asked: Asked, given: Mapping[str, Any], root: Path) -> Row:
    """Train one run again with the probe on."""
    lr, known = case.multiple * best_lrs()[case.task][case.optimizer], read(path_of(case, root))
    remedy, at = remedy_of(case, asked), 0 if asked == "start" else int(QUARTER * case.length)
    told = remedy.arguments
    stretch, repeats = int(told["stretch"]), int(told["repeats"])
    task, made = Overheard(case, begin=at + 1, stretch=stretch, repeats=repeats), list[Action]()

    def listen(record: Record) -> None:
        if isinstance(record, Action):
            made.append(record)
            task.is_over = True

    watch = Watch({"probe_due": Milestone(at=at)}, {"probe": remedy})
    records = train(
        case, lr, task, watch=watch, on_record=listen,
        is_over=lambda: bool(made) and "factor" not in made[0].arguments,
    )  # fmt: skip
    [action] = made
    factors = [1.0, *(value for name, value in told.items() if name.startswith(FACTOR))]
    losses = {factor: tuple(task.losses[index :: len(factors)]) for index, factor in enumerate(factors)}
    moved_to, curve = action.arguments.get("factor", 1.0), curve_of(records, lr, known.prior)
    gain, sd = gain_of(losses)
    lower, lower_repeats = decided({f: found for f, found in losses.items() if f <= 1.0}, sd=told["sd"])
    ended = known if moved_to == 1.0 else curve
    return Row(
        name=case.name,
        task=case.task,
        optimizer=case.optimizer,
        family=case.family,
        multiple=case.multiple,
        cause=given["cause"],
        silent=given["silent"],
        asked=asked,
        losses={f"{factor:g}": [float(f"{loss:.5g}") for loss in found] for factor, found in losses.items()},
        factor=moved_to,
        gain=gain,
        sd=sd,
        lower=lower,
        lower_compute=lower_repeats * stretch * sum(factor <= 1.0 for factor in factors) / case.length,
        compute=action.arguments["extra_steps"] / case.length,
        same=curve.loss[: at + 1] == known.loss[: at + 1],
        before=known.final_val,
        after=ended.final_val,
        good=is_good(case, ended),
        harmless=_is_harmless(case, known, ended),
    )


def remedy_of(case: Case, asked: Asked) -> BranchProbe:
    """Return the remedy of conf/remedy/probe.yaml, the comparison of heal, with higher rates beside the lower ones."""
    page = yaml.safe_load((conf_directory() / "remedy" / "probe.yaml").read_text(encoding="utf-8"))
    del page["defaults"]
    page["begin"] = "initial" if asked == "start" else "here"
    page["faster"] = 1.0 if asked == "slow_quarter" else page["faster"]
    clock = Clock(SETTINGS[case.task].batch_size, None, case.length, round(case.warmup * case.length))
    remedy: BranchProbe = assemble("remedies.probe", Node.model_validate(page), clock, {})
    first = len(page["factors"]) + 1
    remedy.arguments |= {f"{FACTOR}{number}": factor for number, factor in enumerate(HIGHER, start=first)}
    return remedy


def decided(losses: Mapping[float, Sequence[float]], *, sd: float) -> tuple[float, int]:
    """Return which rate these branches would have gone on with alone, and after how many repeats."""
    repeats = len(losses[1.0])
    for count in range(2, repeats + 1):
        said = compare([Branch(factor, 0, tuple(found[:count])) for factor, found in losses.items()], sd=sd)
        if not said.is_open or count == repeats:
            break
    return said.winner.factor, count


def gain_of(losses: Mapping[float, Sequence[float]]) -> tuple[float | None, float | None]:
    """Return the gain of the best other rate over the running one and its sd, as `branches.compare` takes them."""
    logs = {f: [math.log(loss) for loss in found] for f, found in losses.items() if all(map(math.isfinite, found))}
    running = logs.pop(1.0, None)
    if running is None or not logs:
        return None, None
    best = min(logs.values(), key=fmean)
    return fmean(running) - fmean(best), max(stdev(best), NOISE) * math.sqrt(2 / len(best))


def _is_harmless(case: Case, known: Curve, ended: Curve) -> bool:
    return ended.final_val <= known.final_val + WITHIN * float(tuned()[case.task][case.optimizer]["sd"])


if __name__ == "__main__":
    main()
