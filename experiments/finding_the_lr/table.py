"""The table of the benchmark: `python experiments/finding_the_lr/table.py` writes truth.json, picks.json and tables.md.

The truth of a cell is a smooth curve through the mean losses of its learning rates: at each point a parabola in ln lr
through the logarithm of the means within half a decade, weighed by their noise and by how near they are. A rate at
which a run of the truth failed ends the curve. Regret = loss of the curve at the pick / its minimum - 1; infinite
beyond its end.
Without runs, it reads truth.json and picks.json that lie beside it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np
from methods import PICKS, read_picks
from runs_of_cells import PAGE
from truth import read

from runner.records import read_non_finite, spell_non_finite

FOLDER = Path(__file__).parent
NEAR_DECADES, LEAST_NOISE = 0.5, 0.005
POINTS = 2000


class Truth(NamedTuple):
    """What the dense truth says of a cell.

    Attributes:
        lrs: learning rates.
        means: mean loss of each over the seeds; nan where one failed.
        sds: standard deviation over the seeds, over the mean.
        failed: share of the seeds that failed.
    """

    lrs: tuple[float, ...]
    means: tuple[float, ...]
    sds: tuple[float, ...]
    failed: tuple[float, ...]

    def curve(self) -> tuple[Any, Any]:
        """Return log10 of the learning rates of the smooth curve, and its losses."""
        good = [i for i, mean in enumerate(self.means) if math.isfinite(mean)]
        xs, ys = np.log10([self.lrs[i] for i in good]), np.log([self.means[i] for i in good])
        noise = np.maximum([self.sds[i] for i in good], LEAST_NOISE)
        places = np.linspace(xs[0], xs[-1], POINTS)
        return places, np.array([_local(place, xs, ys, noise) for place in places])


def _local(place: float, xs: Any, ys: Any, noise: Any) -> float:
    near = np.clip(1 - ((xs - place) / NEAR_DECADES) ** 2, 0, None) ** 1.5
    if np.count_nonzero(near) < 4:
        return math.nan
    root = np.sqrt(near / noise**2)
    terms = np.vander(xs - place, 3, increasing=True)
    return math.exp(np.linalg.lstsq(terms * root[:, None], ys * root, rcond=None)[0][0])


def truth_of(cell: str) -> Truth | None:
    """Return the truth of a cell from its runs; None where there are none."""
    losses: dict[float, list[float]] = {}
    for run in read(cell):
        if run.share == 1.0 and run.seed in PAGE["truth_seeds"]:
            losses.setdefault(run.lr, []).append(run.loss if run.status == "finished" else math.nan)
    if not losses:
        return None
    rows = [(lr, *_summed(found)) for lr, found in sorted(losses.items())]
    return Truth(*map(tuple, zip(*rows, strict=True)))


def _summed(losses: Sequence[float]) -> tuple[float, float, float]:
    good = [loss for loss in losses if math.isfinite(loss)]
    failed = 1 - len(good) / len(losses)
    if failed:
        return math.nan, math.nan, failed
    return fmean(good), float(np.std(good, ddof=1)) / fmean(good), 0.0


def main() -> None:
    """Write the truth as numbers, and the table."""
    kept = FOLDER / "truth.json"
    found = {cell: truth for cell in PAGE["cells"] if (truth := truth_of(cell)) is not None}
    if found:
        text = {cell: truth._asdict() for cell, truth in found.items()}
        kept.write_text(json.dumps(spell_non_finite(text)) + "\n", encoding="utf-8")
    else:
        saved = json.loads(kept.read_text(encoding="utf-8"))
        found = {
            cell: Truth(**{name: tuple(map(read_non_finite, values)) for name, values in truth.items()})
            for cell, truth in saved.items()
        }
    picks = read_picks() if PICKS.exists() else json.loads((FOLDER / "picks.json").read_text(encoding="utf-8"))
    (FOLDER / "picks.json").write_text(json.dumps(picks, indent=0) + "\n", encoding="utf-8")
    table = "\n".join([*_methods(found, picks), "", *_cells(found, picks)]) + "\n"
    (FOLDER / "tables.md").write_text(table, encoding="utf-8")
    print(table)


def _methods(truths: dict[str, Truth], picks: list[dict[str, Any]]) -> list[str]:
    rows = ["| method | searches | median regret | 90th percentile | worst | cost | verifying | failed |"]
    rows.append("|---|---|---|---|---|---|---|---|")
    curves = {cell: truth.curve() for cell, truth in truths.items()}
    for method in dict.fromkeys(pick["method"] for pick in picks):
        own = [pick for pick in picks if pick["method"] == method and pick["cell"] in truths]
        regrets = [_regret(pick, curves) for pick in own]
        cost, verifying = fmean(pick["cost"] for pick in own), fmean(pick["verify_cost"] for pick in own)
        fresh, failed = sum(pick["fresh"] for pick in own), sum(pick["failed"] for pick in own)
        beyond = sum(math.isinf(regret) for regret in regrets)
        told = f"{failed} of {fresh}" if fresh else f"{beyond} of {len(own)} picks"
        high = float(np.quantile(regrets, 0.9, method="higher"))
        numbers = " | ".join(_percent(value) for value in (median(regrets), high, max(regrets)))
        rows.append(f"| {method} | {len(own)} | {numbers} | {cost:.1f} | {verifying:.1f} | {told} |")
    return rows


def _cells(truths: dict[str, Truth], picks: list[dict[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(pick["method"] for pick in picks))
    rows = [f"| cell | best lr | its loss | {' | '.join(names)} |", "|" + "---|" * (3 + len(names))]
    for cell, truth in truths.items():
        places, losses = truth.curve()
        best = int(np.nanargmin(losses))
        curves = {cell: (places, losses)}
        medians = []
        for name in names:
            own = [_regret(pick, curves) for pick in picks if pick["cell"] == cell and pick["method"] == name]
            medians.append(_percent(median(own)) if own else "-")
        rows.append(f"| {cell} | {10 ** places[best]:.2g} | {losses[best]:.4f} | {' | '.join(medians)} |")
    return rows


def _regret(pick: dict[str, Any], curves: dict[str, tuple[Any, Any]]) -> float:
    """Return how much higher the loss is at a pick than at the best, as a share."""
    places, losses = curves[pick["cell"]]
    best = float(np.nanmin(losses))
    if pick["method"] in ("prodigy", "schedule-free adamw"):
        loss = read_non_finite(pick["loss"])
        return loss / best - 1 if math.isfinite(loss) else math.inf
    lr = read_non_finite(pick["lr"])
    if not lr > 0:
        return math.inf
    if math.log10(lr) < places[0]:
        return float(losses[0]) / best - 1
    value = float(np.interp(math.log10(lr), places, losses, right=math.nan))
    return value / best - 1 if math.isfinite(value) else math.inf


def _percent(share: float) -> str:
    return "fails" if math.isinf(share) else f"{100 * share:.1f} %"


if __name__ == "__main__":
    main()
