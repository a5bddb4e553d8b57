"""Start too high and see who gets home: `python experiments/rescue/rescue.py [options]`.

Every cell is a task, an optimizer and a multiple of its best learning rate. Every arm trains it with all seeds. A cell
is rescued when the mean final val loss over the seeds is at most `within` times that of the best learning rate, or
below it plus `deviations` standard deviations over seeds; a run that ends in numbers that are none is not. The compute
of a run is all updates, those of branch probes too, over the planned ones.

Runs are kept in runs/rescue/runs.jsonl and not made again. `rescue.json` and `rescue.md` beside the page hold the
result.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import yaml

HERE = Path(__file__).parent
PAGE = HERE / "arms.yaml"
BEST_LRS = HERE.parent / "instability_benchmark" / "best_lrs.yaml"
RUNS = Path("runs/rescue/runs.jsonl")
TUNED = "tuned"


class Run(NamedTuple):
    """One training.

    Attributes:
        task, optimizer, multiple, arm, seed: what it is; the arm "tuned" has multiple 1 and no remedy.
        overrides: what the program is told.
    """

    task: str
    optimizer: str
    multiple: float
    arm: str
    seed: int
    overrides: tuple[str, ...]

    @property
    def key(self) -> str:
        """What it is found by: its overrides and its seed. A change of the program or of conf/ is not seen."""
        return " ".join([*self.overrides, f"seed={self.seed}"])


def main() -> None:
    """Make the runs that are not there, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", help="only these")
    parser.add_argument("--optimizers", nargs="*", help="only these")
    parser.add_argument("--multiples", nargs="*", type=float, help="only these")
    parser.add_argument("--arms", nargs="*", help="only these")
    parser.add_argument(
        "--seeds", nargs="*", type=int, help="in place of those of the page; 0 to 99 to choose defaults"
    )
    parser.add_argument("--with", nargs="*", default=[], dest="extra", help="overrides for all arms but the tuned one")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--best-lrs", type=Path, default=BEST_LRS, help="page of the best learning rates")
    parser.add_argument("--page", type=Path, default=PAGE, help="another page of arms")
    parser.add_argument("--no-table", action="store_true", help="write no table beside the page")
    chosen = parser.parse_args()
    page = yaml.safe_load(chosen.page.read_text(encoding="utf-8"))
    for name in ("tasks", "optimizers", "arms"):
        names = getattr(chosen, name)
        page[name] = {key: value for key, value in page[name].items() if names is None or key in names}
    page["multiples"], page["seeds"] = chosen.multiples or page["multiples"], chosen.seeds or page["seeds"]
    page["extra"] = chosen.extra
    wanted = list(runs(page, yaml.safe_load(chosen.best_lrs.read_text(encoding="utf-8"))))
    found = made(wanted, workers=chosen.workers)
    cells = summary(wanted, found, page)
    text = table(cells, page)
    print(text)
    if not chosen.no_table:
        chosen.page.with_name("rescue.json").write_text(json.dumps(cells, indent=1) + "\n", encoding="utf-8")
        chosen.page.with_name("rescue.md").write_text(text, encoding="utf-8")


def runs(page: Mapping[str, Any], best_lrs: Mapping[str, Any]) -> Iterator[Run]:
    """Yield every run that the page asks for."""
    for task, of_task in page["tasks"].items():
        for optimizer, of_optimizer in page["optimizers"].items():
            lr = best_lrs[task][optimizer]["lr"]
            rates = {
                arm: best_lrs[task][page["stand_in"]]["lr"] if _replaces_optimizer(of_arm) else lr
                for arm, of_arm in page["arms"].items()
            }
            for seed in page["seeds"]:
                first = [*of_task, *page["options"], *of_optimizer]
                yield Run(task, optimizer, 1.0, TUNED, seed, (*first, f"optimizer.lr={lr:g}", "remedy=[]"))
                for multiple in page["multiples"]:
                    for arm, of_arm in page["arms"].items():
                        yield Run(
                            task, optimizer, multiple, arm, seed,
                            (
                                *without_others(first, of_arm), *_lr(rates[arm] * multiple, of_arm),
                                *of_arm, *page["extra"],
                            ),
                        )  # fmt: skip


def without_others(first: Sequence[str], of_arm: Sequence[str]) -> list[str]:
    """Return the shared overrides, less those of an optimizer or a schedule that the arm replaces."""
    mine = {text.partition("=")[0] for text in of_arm}
    gone = tuple(f"{name}." for name in ("optimizer",) if name in mine)
    return [text for text in first if text.partition("=")[0] not in mine and not text.startswith(gone or "\0")]


def _replaces_optimizer(of_arm: Sequence[str]) -> bool:
    return any(text.startswith("optimizer=") for text in of_arm)


def _lr(lr: float, of_arm: Sequence[str]) -> list[str]:
    return [] if any(text.startswith("optimizer.lr=") for text in of_arm) else [f"optimizer.lr={lr:.4g}"]


def made(wanted: Iterable[Run], *, workers: int) -> dict[str, dict[str, Any]]:
    """Return key -> what came out, of every run; those that are not on the disk are made."""
    RUNS.parent.mkdir(parents=True, exist_ok=True)
    lines = RUNS.read_text(encoding="utf-8").splitlines() if RUNS.exists() else []
    found = {row.pop("key"): row for row in map(json.loads, lines)}
    missing = {run.key: run for run in wanted if run.key not in found}
    with (
        ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool,
        RUNS.open("a", encoding="utf-8") as file,
    ):
        futures = [pool.submit(make, run) for run in missing.values()]
        for done in as_completed(futures):
            if done.exception() is not None:
                pool.shutdown(cancel_futures=True)
            key, row = done.result()
            found[key] = row
            file.write(json.dumps({"key": key, **row}) + "\n")
            file.flush()
    return found


def make(run: Run) -> tuple[str, dict[str, Any]]:
    """Train one run in this process; return its key, and what came out."""
    from runner.build import build
    from runner.compose import compose_leniently
    from runner.job import checked
    from runner.records import Action
    from runner.remedies.tally import tally
    from runner.train.checkpoint import Checkpoints
    from runner.train.loop import fit

    overrides = ["tracking=off", *run.overrides, f"seed={run.seed}"]
    sys.argv = ["rescue", *overrides]
    tree, problems, _ = compose_leniently(overrides)
    made = build(checked(tree, problems))
    records: list[Any] = []
    with TemporaryDirectory() as folder:
        state = fit(
            made.task, made.model, made.optimizer, made.schedules, plan=made.plan, watch=made.watch,
            checkpoints=Checkpoints(Path(folder)),
            on_record=records.append, meters=made.meters, clipping=made.clipping,
            interrupted=lambda: "its numbers" if _is_dead(records) else None,
        )  # fmt: skip
    loss = state.last_eval.get("loss", math.inf)
    tallied = tally(state.actions, steps=state.step, planned_steps=made.plan.steps)
    row = {
        "loss": loss if state.status == "finished" and math.isfinite(loss) else "inf",
        "status": state.status,
        "lr_scale": state.lr_scale,
        "compute": tallied.get("compute_ratio", 1.0),
        "undone": tallied.get("rewound_steps", 0),
        "actions": [f"{action.remedy}@{action.step}" for action in records if isinstance(action, Action)],
    }
    return run.key, row


def _is_dead(records: Sequence[Any]) -> bool:
    last = [record.loss for record in records[-80:] if record.kind == "step"]
    return len(last) >= 40 and not any(map(math.isfinite, last[-40:]))


def summary(
    wanted: Sequence[Run], found: Mapping[str, Mapping[str, Any]], page: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return, of every cell and arm, the losses, whether it is rescued and what it cost."""
    cells: dict[tuple[str, str, float, str], list[Mapping[str, Any]]] = {}
    for run in wanted:
        cells.setdefault((run.task, run.optimizer, run.multiple, run.arm), []).append(found[run.key])
    rows = []
    for (task, optimizer, multiple, arm), results in cells.items():
        losses = [float(result["loss"]) for result in results]
        tuned = [float(result["loss"]) for result in cells[task, optimizer, 1.0, TUNED]]
        spread = stdev(tuned) if len(tuned) > 1 else 0.0
        bound = max(page["within"] * fmean(tuned), fmean(tuned) + page["deviations"] * spread)
        rows.append(
            {
                "task": task, "optimizer": optimizer, "multiple": multiple, "arm": arm,
                "losses": ["inf" if math.isinf(loss) else round(loss, 5) for loss in losses],
                "tuned": round(fmean(tuned), 5), "bound": round(bound, 5), "rescued": fmean(losses) <= bound,
                "compute": round(fmean(result["compute"] for result in results), 4),
                "most_compute": max(result["compute"] for result in results),
                "acted": sum(bool(result["actions"]) for result in results),
            }
        )  # fmt: skip
    return rows


def table(cells: Sequence[Mapping[str, Any]], page: Mapping[str, Any]) -> str:
    """Return in how many cells each arm gets home, by multiple, and every mean, in Markdown."""
    judged = [multiple for multiple in page["judged"] if multiple in page["multiples"]]
    columns = [
        *(f"{m:g}x" for m in page["multiples"]),
        " and ".join(f"{m:g}x" for m in judged),
        "compute, mean",
        "most",
    ]
    lines = [f"| arm | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for arm in page["arms"]:
        of_arm = [cell for cell in cells if cell["arm"] == arm]
        counts = [_home(of_arm, [multiple]) for multiple in page["multiples"]]
        mean = fmean(cell["compute"] for cell in of_arm)
        most = max(cell["most_compute"] for cell in of_arm)
        shown = [f"{home} of {total}" for home, total in [*counts, _home(of_arm, judged)]]
        lines.append(f"| {arm} | {' | '.join(shown)} | {mean:.2f} | {most:.2f} |")
    lines += ["", *_verdicts(cells, page, judged), *_means(cells, page)]
    return "\n".join(lines) + "\n"


def _home(of_arm: Sequence[Mapping[str, Any]], multiples: Sequence[float]) -> tuple[int, int]:
    here = [cell["rescued"] for cell in of_arm if cell["multiple"] in multiples]
    return sum(here), len(here)


def _verdicts(cells: Sequence[Mapping[str, Any]], page: Mapping[str, Any], judged: Sequence[float]) -> Iterator[str]:
    """Yield a line an arm that has a target: whether it is met."""
    names = " and ".join(f"{multiple:g}x" for multiple in judged)
    for arm, target in page["targets"].items():
        of_arm = [cell for cell in cells if cell["arm"] == arm]
        home, total = _home(of_arm, judged)
        if not total:
            continue
        mean = fmean(cell["compute"] for cell in of_arm)
        said = f"{arm}: compute {mean:.2f}, at most {target['compute']:g}"
        is_met = mean <= target["compute"]
        if "home" in target:
            said += f"; at {names} {home} of {total} cells home, at least {target['home']:.0%}"
            is_met = is_met and home >= target["home"] * total
        yield f"{said}: {'met' if is_met else '**missed**'}."
        yield ""


def _means(cells: Sequence[Mapping[str, Any]], page: Mapping[str, Any]) -> Iterator[str]:
    arms = list(page["arms"])
    yield f"| task, optimizer, multiple | tuned | at most | {' | '.join(arms)} |"
    yield "|---" * (len(arms) + 3) + "|"
    by = {(c["task"], c["optimizer"], c["multiple"], c["arm"]): c for c in cells}
    for task in page["tasks"]:
        for optimizer in page["optimizers"]:
            for multiple in page["multiples"]:
                row = [by[task, optimizer, multiple, arm] for arm in arms]
                first = f"{task}, {optimizer}, {multiple:g}x"
                means = " | ".join(map(_shown, row))
                yield f"| {first} | {row[0]['tuned']:.4g} | {row[0]['bound']:.4g} | {means} |"


def _shown(cell: Mapping[str, Any]) -> str:
    losses = [float(loss) for loss in cell["losses"]]
    lost = sum(map(math.isinf, losses))
    text = f"{lost} of {len(losses)} lost" if lost else f"{fmean(losses):.4g}"
    return f"**{text}**" if cell["rescued"] else text


if __name__ == "__main__":
    main()
