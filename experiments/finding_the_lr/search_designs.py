"""Designs of the search compared on kept runs: `python experiments/finding_the_lr/search_designs.py [--repeats 60]`.

A design asks for runs and picks a learning rate; it is given runs that exist, at the nearest rate of the truth, whose
seeds the truth has not seen: `truth.py --seeds 5,6,7 --shares 1,0.25` makes them. A replay shuffles the seeds of every
rate anew. Regret is that of table.py. The table goes to designs.md.
"""

from __future__ import annotations

import argparse
import functools
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median

import numpy as np
from curve import Truth, percent, truth_from, truths
from methods import BUDGET, observed, typical
from runs_of_cells import CellRun, full_steps
from truth import read

from runner.finding.failures import SAFE_RATIO
from runner.finding.fit import fit
from runner.finding.interval import interval_of
from runner.finding.observed import Observed
from runner.finding.points import LRPoint, best_of, points_of
from runner.finding.procedure import Limits, next_asks
from runner.finding.recommend import recommend

SEEDS = (5, 6, 7)
STEP = 0.5  # decades
SHORT = 0.25
ANYWHERE = 1e-9  # distance from the edge that bounds nothing
MOST = 30  # runs of a search: none needs that many


class Replay:
    """Gives the runs of a cell to one search, and counts what they cost."""

    def __init__(self, cell: str, repeat: int) -> None:
        low, high = typical(cell)
        self.middle, self.full = math.sqrt(low * high), full_steps(cell)
        self.runs, self._random = _kept(cell), random.Random(f"{cell} {repeat}")
        self.lrs = sorted({lr for lr, _ in self.runs})
        self.seen: dict[float, list[Observed]] = {1.0: [], SHORT: []}
        self.cost = 0.0
        self._left: dict[tuple[float, float], list[CellRun]] = {}

    def run(self, lr: float, share: float = 1.0) -> Observed:
        """Return a run at the nearest rate, with a seed that was not given yet as long as there is one."""
        place = min(self.lrs, key=lambda one: abs(math.log(one / lr))), share
        if not self._left.get(place):
            self._left[place] = self._random.sample(self.runs[place], len(SEEDS))
        made = self._left[place].pop()
        self.cost += made.steps / self.full
        count = sum(one.lr == place[0] for one in self.seen[share])
        self.seen[share].append(observed(made, "")._replace(seed=count))
        return self.seen[share][-1]

    def points(self, share: float = 1.0) -> list[LRPoint]:
        """Return what the rates came to, of one length."""
        return points_of(self.seen[share])


@functools.cache
def _kept(cell: str) -> dict[tuple[float, float], list[CellRun]]:
    found: dict[tuple[float, float], list[CellRun]] = {}
    for run in read(cell):
        if run.seed in SEEDS and run.share in (1.0, SHORT):
            found.setdefault((run.lr, run.share), []).append(run)
    return found


def climb(
    pick: Callable[[Sequence[Observed]], float], *, budget: float = BUDGET, safety: float = ANYWHERE
) -> Callable[[Replay], float]:
    """Search as mode=search does at a distance from the edge, and pick by a rule of one's own."""

    def search(lab: Replay) -> float:
        limits = Limits(lab.middle, lab.lrs[0], lab.lrs[-1], 0, budget, 0, lab.full, safety)
        while (asks := next_asks(lab.seen[1.0], limits)) and len(lab.seen[1.0]) < MOST:
            for ask in asks:
                lab.run(ask.lr)
        return pick(lab.seen[1.0])

    return search


def grid(lab: Replay, share: float) -> None:
    """Make seven runs half a decade apart around the middle, and more while the best is at an end."""
    for k in range(-3, 4):
        lab.run(lab.middle * 10 ** (STEP * k), share)
    while (wanted := _beyond(lab, share, STEP)) is not None:
        lab.run(wanted, share)


def _beyond(lab: Replay, share: float, step: float) -> float | None:
    """Return the next rate beyond the end at which the best lies; None where it does not, or the truth ends there."""
    points = lab.points(share)
    best = best_of(points)
    if best is None or best.lr == points[0].lr:
        return points[0].lr / 10**step if points[0].lr > lab.lrs[0] else None
    return best.lr * 10**step if best.lr == points[-1].lr < lab.lrs[-1] else None


def full_grid(lab: Replay) -> float:
    """Make a half-decade grid of full runs, then three seeds at the best and a quarter of a decade to each side."""
    grid(lab, 1.0)
    best = fit(lab.points()).best
    for decades in (-STEP / 2, 0.0, STEP / 2):
        for _ in range(3):
            lab.run(best * 10**decades)
    return fit(lab.points()).lr


def every_rate(lab: Replay) -> float:
    """Make three full runs at every rate of the truth; the best of the smooth curve through them."""
    for lr in lab.lrs:
        for _ in SEEDS:
            lab.run(lr)
    return truth_from(lab.points()).best()[0]


def short_grid(lab: Replay) -> float:
    """Make a half-decade grid at a quarter of the length, and no full run."""
    grid(lab, SHORT)
    return fit(lab.points(SHORT)).lr


def short_grid_then_full(lab: Replay) -> float:
    """Make a half-decade grid at a quarter of the length, then four full runs around its vertex."""
    found = short_grid(lab)
    for decades in (-STEP, -STEP / 2, 0.0, STEP / 2):
        lab.run(found * 10**decades)
    return fit(lab.points()).lr


def four_then_bisect(lab: Replay) -> float:
    """Make four full runs over two decades, then bisect the wider gap beside the best."""
    width, close = 2 / 3, 0.3
    for k in (-1.5, -0.5, 0.5, 1.5):
        lab.run(lab.middle * 10 ** (width * k))
    while lab.cost + 0.95 <= BUDGET and len(lab.seen[1.0]) < MOST:
        points = lab.points()
        best = best_of(points)
        if best is None or best.lr in (points[0].lr, points[-1].lr):
            wanted = _beyond(lab, 1.0, width)
        else:
            place = points.index(best)
            beside = [points[place - 1], points[place + 1]]
            other = max(beside, key=lambda point: (round(abs(math.log10(point.lr / best.lr)), 1), -point.mean))
            is_wide = abs(math.log10(other.lr / best.lr)) > close
            wanted = math.sqrt(best.lr * other.lr) if is_wide else best.lr
        if wanted is None:
            break
        lab.run(wanted)
    return fit(lab.points()).lr


def vertex(seen: Sequence[Observed]) -> float:
    """Pick the vertex of the parabola."""
    return fit(points_of(seen)).lr


def vertex_below(seen: Sequence[Observed]) -> float:
    """Pick 0.05 decades below the vertex of the parabola."""
    points = points_of(seen)
    return recommend(points, points).uncapped


def recommended(safety: float) -> Callable[[Sequence[Observed]], float]:
    """Pick what mode=search recommends at a distance from the edge."""

    def pick(seen: Sequence[Observed]) -> float:
        points = points_of(seen)
        return recommend(points, points, safety=safety).lr

    return pick


def best_trial(seen: Sequence[Observed]) -> float:
    """Pick the rate of the run with the smallest loss."""
    return min(seen, key=lambda one: one.loss if math.isfinite(one.loss) else math.inf).lr


def best_mean(seen: Sequence[Observed]) -> float:
    """Pick the rate with the smallest mean loss."""
    return fit(points_of(seen)).best


DESIGNS: dict[str, Callable[[Replay], float]] = {
    "3 full runs at every rate of the truth; best of the smooth curve": every_rate,
    "7 points at a quarter of the length": short_grid,
    "7 points at a quarter of the length, 4 full runs around the vertex": short_grid_then_full,
    "7 full runs, 3 seeds each at the best and beside it": full_grid,
    "4 full runs over two decades, bisection": four_then_bisect,
    "climb by half decades, then seeds; best run": climb(best_trial),
    "climb by half decades, then seeds; best mean": climb(best_mean),
    "climb by half decades, then seeds; vertex": climb(vertex),
    "climb by half decades, then seeds; 0.05 decades below the vertex": climb(vertex_below),
    "the same at 4 full runs": climb(vertex_below, budget=4.0),
    "the same at 8 full runs": climb(vertex_below, budget=8.0),
    "the same at 6, no higher than the largest stable rate (search.safety=1)": climb(recommended(1.0), safety=1.0),
    "the same at 6, at most half of that (search.safety=2)": climb(recommended(2.0), safety=2.0),
    "the same at 6, at most a third of that (mode=search of itself)": climb(recommended(SAFE_RATIO), safety=SAFE_RATIO),
}
"""name -> search"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=60, help="of each design on each cell")
    parser.add_argument("--to", type=Path, default=Path(__file__).parent, help="where to write designs.md")
    chosen = parser.parse_args()
    found = {cell: truth for cell, truth in truths().items() if _kept(cell)}
    lines = ["| design | median regret | 90th percentile | worst cell, median | picks that fail | cost | most |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, design in DESIGNS.items():
        lines.append(f"| {name} | {' | '.join(judged(design, found, chosen.repeats))} |")
        print(lines[-1], flush=True)
    lines += ["", *_intervals(found, chosen.repeats), "", *_horizons(found)]
    (chosen.to / "designs.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def judged(design: Callable[[Replay], float], found: dict[str, Truth], repeats: int) -> list[str]:
    """Return the columns of a design."""
    regrets: dict[str, list[float]] = {}
    costs = []
    for cell, truth in found.items():
        for repeat in range(repeats):
            lab = Replay(cell, repeat)
            regrets.setdefault(cell, []).append(truth.regret(design(lab)))
            costs.append(lab.cost)
    every = [regret for own in regrets.values() for regret in own]
    shares = median(every), float(np.quantile(every, 0.9, method="higher")), max(map(median, regrets.values()))
    failed = sum(map(math.isinf, every))
    return [*map(percent, shares), f"{failed} of {len(every)}", f"{fmean(costs):.1f}", f"{max(costs):.1f}"]


def _intervals(found: dict[str, Truth], repeats: int) -> list[str]:
    """Return how often the interval that mode=search tells holds the best rate of the truth, an open end all beyond."""
    lines = [
        "| cell | intervals that hold the best rate | median width, decades | ends that are open |",
        "|---|---|---|---|",
    ]
    total = 0
    for cell, truth in found.items():
        best, held, ends, widths = truth.best()[0], 0, 0, []
        for repeat in range(repeats):
            lab = Replay(cell, repeat)
            climb(vertex_below, safety=SAFE_RATIO)(lab)
            interval = interval_of(lab.points())
            assert interval is not None
            is_above = interval.is_low_open or interval.low <= best
            held += is_above and (interval.is_high_open or best <= interval.high)
            ends += interval.is_low_open + interval.is_high_open
            widths.append(math.log10(interval.high / interval.low))
        total += held
        lines.append(f"| {cell} | {held} of {repeats} | {median(widths):.2f} | {ends} of {2 * repeats} |")
    lines.append(f"| all | {total} of {repeats * len(found)} | | |")
    return lines


def _horizons(found: dict[str, Truth]) -> list[str]:
    """Return the best rate of short runs beside that of full runs, each by a parabola through all of them."""
    lines = ["| cell | best lr at a quarter of the length | at full length | ratio | regret of the former |"]
    lines.append("|---|---|---|---|---|")
    for cell, truth in found.items():
        runs = [run for own in _kept(cell).values() for run in own]
        short, full = (
            fit(points_of([observed(run, "") for run in runs if run.share == share])).lr for share in (SHORT, 1.0)
        )
        regret = percent(truth.regret(short))
        lines.append(f"| {cell} | {short:.2g} | {full:.2g} | {short / full:.1f} | {regret} |")
    return lines


if __name__ == "__main__":
    main()
