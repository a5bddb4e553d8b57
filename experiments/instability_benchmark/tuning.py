"""Find the best learning rate of every task and optimizer: `python experiments/instability_benchmark/tuning.py`.

From a guess it walks over a grid of half decades, downhill in the worst loss of the tuning seeds (a rate that suits one
seed and wrecks another is not the best one), until the best has a worse neighbour on both sides. Fresh seeds at the
best one then give the tuned loss and its standard deviation. Written to best_lrs.yaml; what is there already is kept.
Arguments: names of tasks, all of them by default.
"""

from __future__ import annotations

import math
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml
from making import Case, Curve, make
from rigged import SETTINGS

PAGE = Path(__file__).with_name("best_lrs.yaml")
HEADER = """\
# Made by: python experiments/instability_benchmark/tuning.py
# lr: best of half decades; loss, sd (val), train: at it, with fresh seeds; tried: lr -> worst loss of three seeds
"""
TUNE_SEEDS, FRESH_SEEDS = (900, 901, 902), (910, 911, 912, 913, 914)  # none of them is in the benchmark
GUESS = {"sgd": -0.5, "momentum": -1.5, "adamw": -2.5}  # decimal logarithms
OPTIMIZERS = tuple(GUESS)
LEFT_OUT = {("digits_deep", "sgd")}  # its best rate leaves half of the seeds untrained
AT_THE_EDGE = {"sgd": 0.3, "momentum": 0.4, "adamw": 1e-3}
"""of full batches: where training hovers at the edge of stability (Cohen et al. 2021, 2022)"""


def main(*tasks: str) -> None:
    """Find what is not there yet."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}
    wanted = [(t, o) for t in tasks or SETTINGS for o in OPTIMIZERS if o not in found.get(t, {})]
    wanted = [pair for pair in wanted if pair not in LEFT_OUT]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for (task, optimizer), result in zip(wanted, pool.map(tune, *zip(*wanted, strict=True)), strict=True):
            print(task, optimizer, result, flush=True)
            found.setdefault(task, {})[optimizer] = result
            PAGE.write_text(HEADER + yaml.safe_dump(found, sort_keys=False, default_flow_style=None, width=120))


def tune(task: str, optimizer: str) -> dict[str, Any]:
    """Return the best learning rate, the tuned loss with its deviation over seeds, and what was tried."""
    if task == "digits_full":
        return measured(task, optimizer, AT_THE_EDGE[optimizer], {})
    tried: dict[float, float] = {}
    exponent, best = GUESS[optimizer], GUESS[optimizer]
    while True:
        for exponent in (best, best - 0.5, best + 0.5):
            if exponent not in tried:
                tried[exponent] = max(map(_loss, curves(task, optimizer, 10**exponent, TUNE_SEEDS)))
        lowest = min(tried, key=lambda exponent: tried[exponent])
        if lowest == best:
            return measured(task, optimizer, rounded(10**best), {rounded(10**e): tried[e] for e in sorted(tried)})
        best = lowest


def measured(task: str, optimizer: str, lr: float, tried: dict[float, float]) -> dict[str, Any]:
    """Return what is known of a learning rate."""
    fresh = curves(task, optimizer, lr, FRESH_SEEDS)
    found = [_loss(curve) for curve in fresh]
    train = fmean(curve.final_train for curve in fresh)
    shown = {f"{lr:g}": rounded(loss) for lr, loss in tried.items()}
    return {
        "lr": lr,
        "loss": rounded(fmean(found)),
        "sd": rounded(stdev(found)),
        "train": rounded(train),
        "tried": shown,
    }


def curves(task: str, optimizer: str, lr: float, seeds: tuple[int, ...]) -> list[Curve]:
    """Train every seed at a learning rate."""
    return [
        make(Case("tune", task, optimizer, seed, clip_norm=SETTINGS[task].clip_norm), {task: {optimizer: lr}})
        for seed in seeds
    ]


def _loss(curve: Curve) -> float:
    """Return the final val loss; a large number for a run that diverged, so that means can be compared."""
    return curve.final_val if math.isfinite(curve.final_val) else 1e3


def rounded(value: float) -> float:
    """Return four significant digits."""
    return float(f"{value:.4g}")


if __name__ == "__main__":
    main(*sys.argv[1:])
