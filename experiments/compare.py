"""Compare ways to train, each at its own best learning rate: `python experiments/compare.py <arms.yaml> [overrides]`.

For every arm the learning rate with the lowest mean loss over the tuning seeds is taken, and the arm is run there with
fresh seeds, so that no arm is flattered by the seeds that chose for it. A run that diverged counts as infinitely bad.

The page of arms:
    options   command line that all runs share, such as --config-dir and --config-name; overrides given here follow it
    arms      name -> {overrides, lrs}; lrs of the page where an arm has none
    lrs       learning rates to choose from; one that is best at an end of them is marked
    tune      seeds that choose
    seeds     seeds that are reported
    baseline  arm that the others are compared with, seed by seed

It writes `<arms>.json` (every number) and `<arms>.md` (the table) beside the page, and prints the table.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import yaml
from scipy import stats

CONFIDENCE = 0.95


class Arm(NamedTuple):
    """One way to train, as found.

    Attributes:
        name: of the arm.
        tuned: learning rate -> mean loss over the tuning seeds; inf where one of them diverged.
        lr: the best of them.
        losses: seed -> final loss on the val split at that learning rate; inf where it diverged.
    """

    name: str
    tuned: dict[float, float]
    lr: float
    losses: dict[int, float]

    @property
    def is_at_an_end(self) -> bool:
        """Whether the best learning rate is the lowest or the highest that was tried."""
        return self.lr in (min(self.tuned), max(self.tuned)) and len(self.tuned) > 1


def main(page: Path, *extra: str) -> None:
    """Run all arms, and write what came out."""
    declared = yaml.safe_load(page.read_text(encoding="utf-8"))
    declared["options"] += extra
    arms = [measure(name, arm or {}, declared) for name, arm in declared["arms"].items()]
    found = {arm.name: {"lr": arm.lr, "tuned": arm.tuned, "losses": arm.losses} for arm in arms}
    page.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text = table(arms, declared["baseline"])
    page.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def measure(name: str, arm: dict[str, Any], declared: dict[str, Any]) -> Arm:
    """Choose the learning rate of an arm and run it there with fresh seeds."""
    lrs, overrides = arm.get("lrs", declared["lrs"]), [*declared["options"], *arm.get("overrides", [])]
    tuned: dict[float, list[float]] = {}
    if len(lrs) > 1:
        for lr, _, loss in run(overrides, lrs, declared["tune"]):
            tuned.setdefault(lr, []).append(loss)
    means = {lr: fmean(losses) for lr, losses in tuned.items()} or {float(lrs[0]): math.nan}
    best = min(means, key=lambda lr: means[lr])
    losses = {seed: loss for _, seed, loss in run(overrides, [best], declared["seeds"])}
    return Arm(name, means, best, losses)


def run(overrides: Sequence[str], lrs: Sequence[float], seeds: Sequence[int]) -> list[tuple[float, int, float]]:
    """Run a multirun and return (learning rate, seed, final val loss) of every job."""
    grid = [f"optimizer.lr={','.join(map(str, lrs))}", f"seed={','.join(map(str, seeds))}"]
    quiet = ["tracking=off", "quiet=true", "hydra/launcher=joblib"]
    command = [sys.executable, "-m", "runner", "-m", *overrides, *grid, *quiet]
    print("$", " ".join(["python", *command[1:]]), flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    sweep = json.loads((Path(done.stdout.strip().splitlines()[-1]) / "sweep.json").read_text(encoding="utf-8"))
    failed = [job["verdict"] for job in sweep["jobs"] if job["status"] not in ("finished", "diverged")]
    if failed:
        raise SystemExit(f"{len(failed)} jobs failed: {failed[0]}")
    return [
        (job["lr"], job["seed"], job["final_loss"] if job["status"] == "finished" else math.inf)
        for job in sweep["jobs"]
    ]


def table(arms: Sequence[Arm], baseline: str) -> str:
    """Return a table in Markdown, best arm first."""
    against = next(arm for arm in arms if arm.name == baseline)
    rows = ["| arm | learning rate | val loss, mean | 95 % interval | sd | against " + baseline + ", paired | wins |"]
    rows += ["|---|---|---|---|---|---|---|"]
    for arm in sorted(arms, key=lambda arm: fmean(arm.losses.values())):
        losses = list(arm.losses.values())
        gains = [arm.losses[seed] - against.losses[seed] for seed in arm.losses]
        wins = f"{sum(gain < 0 for gain in gains)} of {len(gains)}"
        end = " (at an end)" if arm.is_at_an_end else ""
        own = f"| {arm.name} | {arm.lr:g}{end} | {fmean(losses):.4f} | {interval(losses)} | {stdev(losses):.4f} "
        rows.append(own + (f"| {interval(gains, signed=True)} | {wins} |" if arm is not against else "| | |"))
    return "\n".join(rows) + "\n"


def interval(values: Sequence[float], *, signed: bool = False) -> str:
    """Return the interval of the mean by Student's t; a dash where a run diverged."""
    if not all(map(math.isfinite, values)):
        return "-"
    half = stats.sem(values) * stats.t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1)
    low, high = fmean(values) - half, fmean(values) + half
    return f"{low:+.4f} to {high:+.4f}" if signed else f"{low:.4f} to {high:.4f}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
