"""The tables of the benchmark: `python experiments/finding_the_lr/table.py` writes tables.md and regret.png.

Regret = loss of the curve of the truth at the pick / its minimum - 1; infinite where the pick fails. The truth goes to
truth.json, the picks to picks.json; without runs, they are read from there.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import NamedTuple

import numpy as np
from curve import Truth, percent, truths
from methods import PICKS, Pick, read_picks

from runner.finding.failures import SAFE_RATIO
from runner.records import read_non_finite, spell_non_finite

FOLDER = Path(__file__).parent
BEST_ALLOWED = f"best below 1/{SAFE_RATIO:g} of the edge"
MUCH = 0.1
WITHOUT_RATE = ("prodigy", "schedule-free adamw")


class Row(NamedTuple):
    """What came of one method.

    Attributes:
        method: its name.
        picks: all of them.
        regrets: one a pick.
    """

    method: str
    picks: list[Pick]
    regrets: list[float]

    @property
    def high(self) -> float:
        """90th percentile of the regrets: the smallest that at least so many do not exceed."""
        return float(np.quantile(self.regrets, 0.9, method="higher"))

    @property
    def failed(self) -> int:
        """Number of picks that fail."""
        return sum(map(math.isinf, self.regrets))


def main() -> None:
    """Write the numbers, the tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=FOLDER, help="where to write")
    to = parser.parse_args().to
    found = truths()
    raw = read_picks() if PICKS.exists() else json.loads((FOLDER / "picks.json").read_text(encoding="utf-8"))
    numbers = spell_non_finite({cell: truth._asdict() for cell, truth in found.items()})
    (to / "truth.json").write_text(json.dumps(numbers) + "\n", encoding="utf-8")
    (to / "picks.json").write_text(json.dumps(raw, indent=0) + "\n", encoding="utf-8")
    picks = [Pick(**read_non_finite(one)) for one in raw]
    rows = rows_of(found, complete(picks, len(found)))
    text = "\n".join([*_methods(rows, found), "", *_truth(found), "", *_cells(found, rows)]) + "\n"
    (to / "tables.md").write_text(text, encoding="utf-8")
    draw(rows, to / "regret.png")
    print(text)


def complete(picks: Sequence[Pick], cells: int) -> list[Pick]:
    """Return the picks of the repeats that were made on every cell, so that each cell counts as often as another."""
    made: dict[tuple[str, int], set[str]] = {}
    for pick in picks:
        made.setdefault((pick.method, pick.repeat), set()).add(pick.cell)
    return [pick for pick in picks if len(made[pick.method, pick.repeat]) == cells]


def rows_of(found: dict[str, Truth], picks: Sequence[Pick]) -> list[Row]:
    """Return the methods, by 90th percentile; among them the best rate of each cell that `ours` may recommend."""
    bound = [Pick(cell, BEST_ALLOWED, 0, truth.best(truth.allowed)[0], math.nan) for cell, truth in found.items()]
    rows = []
    for method in dict.fromkeys(pick.method for pick in [*bound, *picks]):
        own = [pick for pick in [*bound, *picks] if pick.method == method]
        rows.append(Row(method, own, [regret_of(pick, found[pick.cell]) for pick in own]))
    return sorted(rows, key=lambda row: (row.high, row.failed / len(row.picks), median(row.regrets)))


def regret_of(pick: Pick, truth: Truth) -> float:
    """Return how much higher the loss is at a pick than at the best rate, as a share."""
    if pick.method not in WITHOUT_RATE:
        return truth.regret(pick.lr)
    return pick.loss / truth.best()[1] - 1 if math.isfinite(pick.loss) else math.inf


def _methods(rows: Sequence[Row], found: dict[str, Truth]) -> list[str]:
    names = ["method", "searches", "median regret", "90th percentile", "worst", "cost"]
    names += ["picks that fail", "too high, too low", "fresh runs"]
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for row in rows:
        numbers = " | ".join(percent(value) for value in (median(row.regrets), row.high, max(row.regrets)))
        cost, fresh = fmean(pick.cost for pick in row.picks), sum(pick.fresh for pick in row.picks)
        price = f"{cost:.1f}" if math.isfinite(cost) else "-"
        verifying = fmean(pick.verify_cost for pick in row.picks)
        told = f"{verifying:.1f}, {sum(pick.failed for pick in row.picks)} of {fresh} failed" if fresh else "-"
        fails = f"{row.failed} of {len(row.picks)}"
        lines.append(
            f"| {row.method} | {len(row.picks)} | {numbers} | {price} | {fails} | {_sides(row, found)} | {told} |"
        )
    return lines


def _sides(row: Row, found: dict[str, Truth]) -> str:
    """Return how many picks with a regret over 10 % lie above the best rate, and how many below."""
    if row.method in WITHOUT_RATE:
        return "-"
    bad = [pick for pick, regret in zip(row.picks, row.regrets, strict=True) if regret > MUCH and pick.lr > 0]
    high = sum(pick.lr > found[pick.cell].best()[0] for pick in bad)
    return f"{high}, {len(bad) - high}"


def _truth(found: dict[str, Truth]) -> list[str]:
    lines = ["| cell | best lr | its loss | no seed fails up to | first rate at which one fails | that edge / best |"]
    lines.append("|---|---|---|---|---|---|")
    for cell, truth in found.items():
        lr, loss = truth.best()
        is_known = math.isfinite(truth.first_failing)
        first, ratio = f"{truth.first_failing:.2g}" if is_known else "none tried", f"{truth.stable / lr:.1f}"
        ratio = ratio if is_known else f"> {ratio}"
        lines.append(f"| {cell} | {lr:.2g} | {loss:.4f} | {truth.stable:.2g} | {first} | {ratio} |")
    return lines


def _cells(found: dict[str, Truth], rows: Sequence[Row]) -> list[str]:
    """Return the median regret of each method on each cell."""
    lines = [f"| method | {' | '.join(found)} |", "|" + "---|" * (1 + len(found))]
    for row in rows:
        medians = []
        for cell in found:
            own = [regret for pick, regret in zip(row.picks, row.regrets, strict=True) if pick.cell == cell]
            medians.append(percent(median(own)) if own else "-")
        lines.append(f"| {row.method} | {' | '.join(medians)} |")
    return lines


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw the regret of every pick, a line of points a method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    least, most = 0.05, 1e4  # percent; what is less is drawn there, what fails beyond
    figure, axes = pyplot.subplots(figsize=(8, 0.32 * len(rows) + 1.2), layout="constrained")
    for place, row in enumerate(reversed(rows)):
        shown = [min(max(100 * regret, least), 2 * most) for regret in row.regrets]
        shifts = (np.arange(len(shown)) % 7 - 3) * 0.08
        color = "tab:orange" if row.method.startswith("ours") else "tab:blue"
        axes.plot(shown, place + shifts, "o", markersize=3.5, alpha=0.6, color=color, markeredgewidth=0)
        for value, style in ((median(row.regrets), "-"), (row.high, ":")):
            at = min(max(100 * value, least), 2 * most)
            axes.plot([at, at], [place - 0.4, place + 0.4], style, color="black", linewidth=1.5)
    axes.set(xscale="log", xlim=(0.8 * least, 3.5 * most), ylim=(-0.7, len(rows) - 0.3))
    axes.set_yticks(range(len(rows)), [f"{row.method} ({len(row.picks)})" for row in reversed(rows)])
    ticks = [0.1, 1, 10, 100, 1000]
    axes.set_xticks([*ticks, 2 * most], [*(f"{tick:g} %" for tick in ticks), "fails"])
    axes.minorticks_off()
    axes.axvline(most, color="grey", linewidth=0.8)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("regret of each pick; bar: median, dotted: 90th percentile")
    figure.savefig(path, format="png", dpi=90)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
