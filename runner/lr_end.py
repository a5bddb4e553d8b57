"""What every sweep and search over learning rates ends in: one report, its files, and a few lines on the terminal."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runner.commands import PROGRAM
from runner.curves import number
from runner.finding.words import brief, headline
from runner.report.lr_files import write_lr_report
from runner.sweep_summary import SEED
from runner.tracking.sweep_file import JobState, Sweep, changed, key_of
from runner.tracking.sweep_observed import in_common, loss_name, lr_key, observe

if TYPE_CHECKING:
    from runner.finding.report import LRReport

LR_TAGS = "lr."  # how the tags and metrics of a report begin


def end_with_report(
    directory: Path,
    sweep: Sweep,
    states: Sequence[JobState],
    *,
    root: Path,
    full_steps: int | None = None,
    quiet: bool = False,
) -> LRReport | None:
    """Report a sweep in which the learning rate varies: write the files, print the recommendation.

    Args:
        directory: where the files go.
        sweep: its jobs.
        states: what they came to, in the same order.
        root: the directory of launch, below which the runs lie.
        full_steps: updates of a full run; None is the longest that was declared, group by group.
        quiet: print nothing.
    Returns:
        the report, None where fewer than two learning rates were tried, or no run has begun.
    Raises:
        OSError: the files cannot be written.
    """
    from runner.finding.report import lr_report

    key = lr_key(sweep)
    if key is None or not any(state.run for state in states):
        return None
    observed = observe(sweep, states, root, key=key)
    fixed = in_common(sweep, states, root)
    report = lr_report(observed, full_steps=full_steps, key=key, loss=loss_name(states), fixed=fixed)
    uses = {group.name: use_of(sweep, report, nth) for nth, group in enumerate(report.groups)}
    title = (
        f"{sweep.jobs[0].experiment}: {' x '.join(dict.fromkeys(name for job in sweep.jobs for name in job.varied))}"
    )
    write_lr_report(directory, report, title=title, command=sweep.command, uses=uses)
    if not quiet:
        for line in brief(report):
            print(line)
        if use := uses.get(report.best.name):
            print(f"use it with: {use}", flush=True)
    return report


def overrides_of_group(sweep: Sweep, report: LRReport, nth: int = 0) -> list[str]:
    """Return the overrides that train with the recommendation of a group, [] where there is none.

    They are those of a job of the group, with the recommended rate, and without the seed where it was varied.
    """
    group = report.groups[nth]
    if math.isnan(group.recommended):
        return []
    words = shlex.split(group.name)
    job = next(
        (
            job
            for job in sweep.jobs
            if all(f"{k}={v}" in words for k, v in job.varied.items() if k not in (report.key, SEED))
        ),
        sweep.jobs[0],
    )
    kept = [text for text in job.overrides if not (key_of(text) == SEED and sweep.varies(SEED))]
    return list(changed(kept, [f"{report.key}={number(group.recommended)}"]))


def use_of(sweep: Sweep, report: LRReport, nth: int = 0) -> str:
    """Return the command line that trains with the recommendation of a group, "" where there is none."""
    overrides = overrides_of_group(sweep, report, nth)
    return shlex.join([*PROGRAM, *sweep.page, *overrides]) if overrides else ""


def tags_of(report: LRReport) -> dict[str, str]:
    """Return what MLflow shows of a report beside its numbers."""
    best = report.best
    found = {f"{LR_TAGS}report": headline(report), f"{LR_TAGS}override": report.override_line()}
    if not math.isnan(best.recommended):
        found[f"{LR_TAGS}recommended"] = number(best.recommended)
        found[f"{LR_TAGS}is_at_edge"] = str(best.is_at_edge).lower()
    if best.interval is not None:
        found[f"{LR_TAGS}interval"] = f"{number(best.interval.low)} to {number(best.interval.high)}"
    return {name: value for name, value in found.items() if value}


def metrics_of(report: LRReport) -> dict[str, float]:
    """Return the numbers of the best group that are known, for MLflow."""
    best = report.best
    found = {
        "recommended": best.recommended,
        "expected_loss": best.expected_loss,
        "safety_ratio": best.safety_ratio,
        "seed_noise": best.noise,
        "largest_stable": best.edge.stable,
        "smallest_hopeless": best.edge.hopeless,
        "cost_full_runs": report.cost.full_runs,
        "sensitivity": best.sensitivity if best.sensitivity is not None else math.nan,
        "sensitivity_windowed": best.windowed.value if best.windowed is not None else math.nan,
        "basin_decades": best.basin.decades if best.basin is not None else math.nan,
        "interval_low": best.interval.low if best.interval is not None else math.nan,
        "interval_high": best.interval.high if best.interval is not None else math.nan,
    }
    return {f"{LR_TAGS}{name}": value for name, value in found.items() if math.isfinite(value)}


def safe_end(
    directory: Path, sweep: Sweep, states: Sequence[JobState], *, root: Path, quiet: bool = False
) -> LRReport | None:
    """Report a sweep as `end_with_report`; where that cannot be done, say so, for the runs are done and count.

    Raises:
        OSError: the files cannot be written.
    """
    try:
        return end_with_report(directory, sweep, states, root=root, quiet=quiet)
    except (ValueError, ArithmeticError, LookupError) as error:
        print(f"warning lr_report.json: no report ({type(error).__name__}: {error})", file=sys.stderr)
        return None
