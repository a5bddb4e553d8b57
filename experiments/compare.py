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

It writes `<arms>.json` (every number), `<arms>.md` (the table) and `<arms>.png` (the figure) beside the page, and
prints the table. `--figure` in place of overrides writes figure and table of the numbers that are there.
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
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from scipy import stats

from runner.records import spell_non_finite
from runner.report.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, SMALL, TEXT, WIDTH_INCHES, save

CONFIDENCE = 0.95
MOST_TICKS = 6
COLOURS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK, GREY)


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
    def finished(self) -> list[float]:
        """Losses of the runs that did not diverge."""
        return [loss for loss in self.losses.values() if math.isfinite(loss)]

    @property
    def diverged(self) -> str:
        """How many runs diverged, in words; "" where none did."""
        count = len(self.losses) - len(self.finished)
        return f"{count} of {len(self.losses)} diverged" if count else ""

    @property
    def rank(self) -> tuple[int, float]:
        """What arms are sorted by: runs that diverged, mean of the others."""
        return len(self.losses) - len(self.finished), fmean(self.finished or [math.inf])

    @property
    def is_at_an_end(self) -> bool:
        """Whether the best learning rate is the lowest or the highest that was tried."""
        return self.lr in (min(self.tuned), max(self.tuned)) and len(self.tuned) > 1


def main(page: Path, *extra: str) -> None:
    """Run all arms, and write what came out."""
    if not page.is_file():
        raise SystemExit(__doc__)
    declared = yaml.safe_load(page.read_text(encoding="utf-8"))
    if len(declared["seeds"]) < 2:
        raise SystemExit(f"{page}: seeds: must be at least two, got {declared['seeds']}")
    if extra == ("--figure",):
        arms = read(page.with_suffix(".json"))
    else:
        declared["options"] += extra
        arms = [measure(name, arm or {}, declared) for name, arm in declared["arms"].items()]
        found = {arm.name: {"lr": arm.lr, "tuned": arm.tuned, "losses": arm.losses} for arm in arms}
        text = json.dumps(spell_non_finite(found), indent=1)
        page.with_suffix(".json").write_text(f"{text}\n", encoding="utf-8")
    figure(arms, page.with_suffix(".png"))
    text = table(arms, declared["baseline"])
    page.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def read(path: Path) -> list[Arm]:
    """Return what an earlier comparison has found."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return [
        Arm(
            name,
            {float(lr): float(loss) for lr, loss in arm["tuned"].items()},
            arm["lr"],
            {int(seed): float(loss) for seed, loss in arm["losses"].items()},
        )
        for name, arm in found.items()
    ]


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
    if done.returncode not in (0, 3):  # all finished or diverged
        raise SystemExit(done.returncode)
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
    for arm in sorted(arms, key=lambda arm: arm.rank):
        losses = list(arm.losses.values())
        gains = [arm.losses[seed] - against.losses[seed] for seed in arm.losses]
        wins = f"{sum(arm.losses[seed] < against.losses[seed] for seed in arm.losses)} of {len(gains)}"
        end = " (at an end)" if arm.is_at_an_end else ""
        found = (
            f"{arm.diverged} | - | -"
            if arm.diverged
            else f"{fmean(losses):.4f} | {interval(losses)} | {stdev(losses):.4f}"
        )
        compared = f"{interval(gains, signed=True)} | {wins}" if arm is not against else " | "
        rows.append(f"| {arm.name} | {arm.lr:g}{end} | {found} | {compared} |")
    return "\n".join(rows) + "\n"


def interval(values: Sequence[float], *, signed: bool = False) -> str:
    """Return the interval of the mean by Student's t; a dash where a run diverged."""
    if not all(map(math.isfinite, values)):
        return "-"
    low, high = fmean(values) - half_width(values), fmean(values) + half_width(values)
    return f"{low:+.4f} to {high:+.4f}" if signed else f"{low:.4f} to {high:.4f}"


def half_width(values: Sequence[float]) -> float:
    """Return half the width of the interval of the mean."""
    return float(stats.sem(values) * stats.t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1))


def figure(arms: Sequence[Arm], path: Path) -> None:
    """Draw how each arm depends on the learning rate, and what it reaches at its best one."""
    is_tuned = any(len(arm.tuned) > 1 for arm in arms)
    drawn = Figure((WIDTH_INCHES, 0.9 + 0.3 * len(arms) if not is_tuned else 3.4), layout="constrained")
    colours = {arm.name: COLOURS[index % len(COLOURS)] for index, arm in enumerate(arms)}
    *left, right = drawn.subplots(1, 2 if is_tuned else 1, squeeze=False)[0]
    for ax in left:
        _draw_tuning(ax, arms, colours)
    _draw_intervals(right, arms, colours)
    save(drawn, path)


def _draw_tuning(ax: Axes, arms: Sequence[Arm], colours: dict[str, str]) -> None:
    found = [loss for arm in arms for loss in arm.tuned.values() if math.isfinite(loss)]
    lrs = sorted({lr for arm in arms for lr in arm.tuned})
    for arm in arms:
        finite = {lr: loss for lr, loss in arm.tuned.items() if math.isfinite(loss)}
        ax.plot([*finite], [*finite.values()], color=colours[arm.name], marker="o", markersize=3, linewidth=1.2)
    if found:
        low, high = min(found), min(max(found), 4 * min(found))
        ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    ax.set_xscale("log")
    ax.set_xticks(lrs[:: -(-len(lrs) // MOST_TICKS)], minor=False)
    ax.xaxis.set_major_formatter(lambda lr, _: f"{lr:g}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_title("Tuning seeds: mean val loss", loc="left", fontsize=TEXT)
    _label(ax, "learning rate")


def _draw_intervals(ax: Axes, arms: Sequence[Arm], colours: dict[str, str]) -> None:
    ranked = sorted(arms, key=lambda arm: arm.rank, reverse=True)
    for place, arm in enumerate(ranked):
        losses = arm.finished
        ax.plot(losses, [place] * len(losses), "|", color=colours[arm.name], markersize=7)
        if not arm.diverged:
            half = half_width(losses)
            ax.errorbar(fmean(losses), place, xerr=half, color=colours[arm.name], marker="o", markersize=4, capsize=3)
    labels = [", ".join(filter(None, (arm.name, f"{arm.lr:g}", arm.diverged))) for arm in ranked]
    ax.set_yticks(range(len(ranked)), labels=labels, fontsize=SMALL)
    ax.set_title(f"Fresh seeds at that rate: mean, {CONFIDENCE:.0%} interval, runs", loc="right", fontsize=TEXT)
    _label(ax, "val loss")


def _label(ax: Axes, text: str) -> None:
    ax.set_xlabel(text, fontsize=SMALL)
    ax.tick_params(labelsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
