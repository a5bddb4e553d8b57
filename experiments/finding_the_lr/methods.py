"""What every method picks: `python experiments/finding_the_lr/methods.py [--searches "ours;tpe 20"] [--repeats 3]`.

Each search is made on each cell with seeds that the truth has not seen, several times; one that is there is not made
again. Some yield the picks of several methods. Picks go to runs/finding_the_lr/picks.jsonl. Cost is in updates, over
those of one full run.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import ranges
from runs_of_cells import PAGE, CellRun, full_steps, page_of, train
from truth import ROOT

from runner.finding.observed import VERIFY, Observed
from runner.finding.points import points_of
from runner.finding.procedure import Limits, next_asks, verify_asks
from runner.finding.recommend import recommend
from runner.records import spell_non_finite

FIRST_SEED = 1000
SEEDS_A_REPEAT = 100
BUDGET, FRESH = 6.0, 5
PICKS = ROOT / "picks.jsonl"


class Pick(NamedTuple):
    """What a method came to.

    Attributes:
        cell, method, repeat: which search.
        lr: the learning rate that it picked; nan where it made no suggestion.
        cost: updates of the search, over those of a full run.
        loss: mean over fresh seeds, where the method verifies, or has no learning rate of the optimizer of the cell;
            nan elsewhere.
        verify_cost: updates of these runs.
        fresh, failed: number of these runs, and how many of them failed.
    """

    cell: str
    method: str
    repeat: int
    lr: float
    cost: float
    loss: float = math.nan
    verify_cost: float = 0.0
    fresh: int = 0
    failed: int = 0


class Lab:
    """Makes the runs of one search, and counts what they cost."""

    def __init__(self, cell: str, repeat: int) -> None:
        self.cell = cell
        self.seed = FIRST_SEED + SEEDS_A_REPEAT * repeat
        self.full = full_steps(cell)
        self.steps = 0

    def run(self, lr: float, seed: int | None = None, **how: Any) -> CellRun:
        """Train once."""
        made = train(self.cell, lr, self.seed if seed is None else seed, **how)
        self.steps += made.steps
        return made

    @property
    def cost(self) -> float:
        """Updates so far, in full runs."""
        return self.steps / self.full

    @property
    def bracket(self) -> tuple[float, float]:
        """What a user gives to a sampler: what is typical, and a decade more on each side."""
        low, high = typical(self.cell)
        return low / 10, high * 10


def typical(cell: str) -> tuple[float, float]:
    """Return the learning rates that are typical for the optimizer of a cell."""
    found = page_of(cell).optimizer.typical
    assert found is not None
    return found.from_scratch


def observed(run: CellRun, purpose: str) -> Observed:
    """Return a run as the search sees it."""
    return Observed(
        run.lr, run.seed, run.loss, run.status, "", run.first_loss, run.steps, run.planned_steps, "", purpose
    )


def ours(lab: Lab) -> list[Pick]:
    """Search as mode=search does; also what it finds without the distance to the edge."""
    low, high = typical(lab.cell)
    limits = Limits(math.sqrt(low * high), 0.0, math.inf, lab.seed, BUDGET, FRESH, lab.full)
    seen: list[Observed] = []
    while asks := next_asks(seen, limits):
        seen += [observed(lab.run(ask.lr, ask.seed), ask.purpose) for ask in asks]
    cost, points = lab.cost, points_of(seen)
    picks = list[Pick]()
    advice = recommend(points, points)
    for name, lr in (("ours", advice.lr), ("ours, no cap", advice.uncapped)):
        if picks and lr == picks[0].lr:
            picks.append(picks[0]._replace(method=name))
            continue
        before = lab.cost
        fresh = [observed(lab.run(ask.lr, ask.seed), VERIFY) for ask in verify_asks(seen, lr, limits)]
        good = [one.loss for one in fresh if one.status == "finished" and math.isfinite(one.loss)]
        loss = math.fsum(good) / len(good) if good else math.nan
        failed = len(fresh) - len(good)
        picks.append(Pick(lab.cell, name, 0, lr, cost, loss, lab.cost - before, len(fresh), failed))
    return picks


def sampled(
    name: str, sampler: Callable[[int], Any], *, looks: tuple[int, ...], prunes: bool = False
) -> Callable[[Lab], list[Pick]]:
    """Return a search by one of Optuna's samplers; its pick is the best trial, after each number of trials in `looks`.

    The first ten trials of a study of twenty are those of a study of ten: a sampler does not know how many will come.
    """

    def search(lab: Lab) -> list[Pick]:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        low, high = lab.bracket
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
        study = optuna.create_study(sampler=sampler(lab.seed), pruner=pruner if prunes else optuna.pruners.NopPruner())

        def objective(trial: optuna.Trial) -> float:
            lr = trial.suggest_float("lr", low, high, log=True)

            def is_pruned(step: int, loss: float) -> bool:
                trial.report(loss if math.isfinite(loss) else 1e6, round(4 * step / lab.full))
                return prunes and step < lab.full and trial.should_prune()

            made = lab.run(lr, is_pruned=is_pruned)
            if made.status == "interrupted":
                raise optuna.TrialPruned
            # as a user would who wants the sampler to learn of it
            return made.loss if math.isfinite(made.loss) else made.first_loss

        picks = list[Pick]()
        for trials in looks:
            study.optimize(objective, n_trials=trials - len(study.trials))
            picks.append(Pick(lab.cell, f"{name} {trials}", 0, float(study.best_params["lr"]), lab.cost))
        return picks

    return search


def ramped(test: Callable[[str, int], ranges.Suggested]) -> Callable[[Lab], list[Pick]]:
    """Return a search that is one range test, with a pick for each of its rules."""

    def search(lab: Lab) -> list[Pick]:
        found = test(lab.cell, lab.seed)
        return [Pick(lab.cell, name, 0, lr, found.cost) for name, lr in found.rates.items()]

    return search


def fixed(lab: Lab) -> list[Pick]:
    """Take 3e-4."""
    return [Pick(lab.cell, "3e-4", 0, 3e-4, 0.0)]


def without_rate(name: str, *others: str) -> Callable[[Lab], list[Pick]]:
    """Return a method that trains with another optimizer at its default, once a fresh seed."""

    def search(lab: Lab) -> list[Pick]:
        page = page_of(lab.cell, *others)
        lr = page.optimizer.lr
        made = lab.run(lr, others=others)
        is_good = made.status == "finished" and math.isfinite(made.loss)
        loss = made.loss if is_good else math.nan
        return [Pick(lab.cell, name, 0, lr, 0.0, loss, lab.cost, 1, int(not is_good))]

    return search


# Each sampler has a seed of its own, so that no two begin with the same random trials.
SEARCHES: dict[str, Callable[[Lab], list[Pick]]] = {
    "3e-4": fixed,
    "fastai valley": ramped(ranges.fastai),
    "lightning": ramped(ranges.lightning),
    "range test, middle": ramped(ranges.ours),
    "prodigy": without_rate("prodigy", "optimizer=prodigy"),
    "schedule-free adamw": without_rate("schedule-free adamw", "optimizer=schedulefree_adamw", "schedule=constant"),
    "random 10": sampled("random", lambda seed: optuna.samplers.RandomSampler(seed=seed + 1), looks=(10,)),
    "gp 10": sampled("gp", lambda seed: optuna.samplers.GPSampler(seed=seed + 2, n_startup_trials=4), looks=(10,)),
    "asha 20": sampled("asha", lambda seed: optuna.samplers.TPESampler(seed=seed + 3), looks=(20,), prunes=True),
    "tpe 20": sampled("tpe", lambda seed: optuna.samplers.TPESampler(seed=seed), looks=(10, 20)),
    "ours": ours,
}
"""name, which is that of one of its picks -> search"""


def main() -> None:
    """Make the searches that are not there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default=",".join(PAGE["cells"]), help="which cells")
    parser.add_argument("--searches", default=";".join(SEARCHES), help="which, by a pick of theirs, parted by ;")
    parser.add_argument("--repeats", type=int, default=5, help="of each search on each cell")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    chosen = parser.parse_args()
    made = {(one["cell"], one["method"], one["repeat"]) for one in read_picks()}
    wanted = [
        (cell, search, repeat)
        for repeat in range(chosen.repeats)
        for search in chosen.searches.split(";")
        for cell in chosen.cells.split(",")
        if (cell, search, repeat) not in made
    ]
    ROOT.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(chosen.workers, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_search, *one) for one in wanted]):
            picks = done.result()
            with PICKS.open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(spell_non_finite(pick._asdict())) + "\n" for pick in picks))
            for pick in picks:
                print(f"{pick.cell} {pick.method} {pick.repeat}: lr {pick.lr:.3g}, cost {pick.cost:.1f}", flush=True)


def read_picks(path: Path = PICKS) -> list[dict[str, Any]]:
    """Return the searches that were made."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _search(cell: str, search: str, repeat: int) -> list[Pick]:
    return [pick._replace(repeat=repeat) for pick in SEARCHES[search](Lab(cell, repeat))]


if __name__ == "__main__":
    main()
