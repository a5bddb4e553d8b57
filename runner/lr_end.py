"""What every sweep and search over learning rates ends in: one report, its files, and a few lines on the terminal."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from runner.commands import PROGRAM
from runner.curves import number
from runner.finding.failures import SAFE_RATIO
from runner.finding.group_words import group_sentences
from runner.finding.phrases import interval_text
from runner.finding.words import brief, headline
from runner.lr_retry import asked_of, retry
from runner.range_file import find_range_test
from runner.report.lr_files import Commands, write_lr_report
from runner.sweep_summary import PURPOSE_TAG, SEED, is_setting
from runner.tracking.sweep_file import Job, JobState, Sweep, changed, key_of
from runner.tracking.sweep_observed import Stand, find_known_runs, in_common, loss_name, lr_key, observe

if TYPE_CHECKING:
    from runner.finding.observed import Observed
    from runner.finding.report import LRReport

LR_TAGS = "lr."  # how the tags and metrics of a report begin
_ADDED = ("name", "train.threads", "train.device")  # what a sweep adds to its jobs where they do not say it


class Told(NamedTuple):
    """What was found.

    Attributes:
        report: of the sweep.
        overrides: name of a group -> what trains with its recommendation; groups without one are left out.
    """

    report: LRReport
    overrides: Mapping[str, list[str]]


def end_with_report(
    directory: Path,
    sweep: Sweep,
    states: Sequence[JobState],
    *,
    root: Path,
    source: Path | None = None,
    full_steps: int | None = None,
    safety: float = SAFE_RATIO,
    quiet: bool = False,
    stand: Stand | None = None,
) -> Told | None:
    """Report a sweep in which the learning rate varies: write the files, print the recommendation.

    Args:
        directory: where the files go.
        sweep: its jobs.
        states: what they came to, in the same order.
        root: the directory of launch, below which the runs lie.
        source: directory of the sweep; None is where the files go.
        full_steps: updates of a full run; None is the longest that was declared, group by group.
        safety: a recommendation is at most the largest stable rate over this, >= 1.
        quiet: print nothing.
        stand: stands for its jobs where it has none.
    Returns:
        what was told, None where fewer than two learning rates were tried, or no run has begun.
    Raises:
        OSError: the files cannot be written.
    """
    from runner.finding.report import lr_report

    known, test = find_known_runs(source or directory) or [], find_range_test(source or directory)
    if (about := _about(sweep, states, root, known, stand)) is None:
        return None
    sweep = about.sweep
    notes = [*([_given(known)] if known else []), *([test.in_words()] if test is not None else [])]
    report = lr_report(
        [*known, *about.observed],
        full_steps=full_steps,
        key=about.key,
        loss=about.loss,
        fixed=about.fixed,
        safety=safety,
        range_test=test.cost if test is not None else 0.0,
        notes=notes,
        asked=asked_of(sweep, about.key),
    )
    told = Told(report, _overrides(sweep, report, about.observed))
    commands = _commands(sweep, told)
    varied = dict.fromkeys(name for job in sweep.jobs for name in job.varied if name == SEED or is_setting(name))
    write_lr_report(directory, report, commands, title=f"{sweep.jobs[0].experiment}: {' x '.join(varied)}")
    if not quiet:
        _print(report, commands)
    return told


class _About(NamedTuple):
    """What a report is about: a sweep with jobs, the key of the learning rate, and what was seen of it."""

    sweep: Sweep
    key: str
    loss: str
    fixed: Mapping[str, str]
    observed: Sequence[Observed]


def _about(
    sweep: Sweep, states: Sequence[JobState], root: Path, known: Sequence[Observed], stand: Stand | None
) -> _About | None:
    """Return what there is to report, None where it is nothing."""
    if not sweep.jobs and stand is not None:
        of_study = replace(sweep, jobs=(stand.job,))
        is_varied = len({one.lr for one in known}) > 1
        return _About(of_study, stand.key, stand.loss, stand.fixed(), ()) if is_varied else None
    key = lr_key(sweep, known)
    if key is None or not any(state.run for state in states):
        return None
    observed = observe(sweep, states, root, key=key)
    return _About(sweep, key, loss_name(states), in_common(sweep, states, root), observed)


def _commands(sweep: Sweep, told: Told) -> Commands:
    uses = {name: shlex.join([*PROGRAM, *sweep.page, *words]) for name, words in told.overrides.items()}
    lower = told.report.best.missing.try_next if not uses else ()
    return Commands(sweep.command, uses, retry(sweep, told.report.key, lower) if lower else "")


def _print(report: LRReport, commands: Commands) -> None:
    """Print what was found, and the command line that uses it or tries lower rates, as far as it is known."""
    for line in brief(report):
        print(line)
    if (use := commands.uses.get(report.best.name)) is not None:
        print(f"use it with: {use}", flush=True)
    elif commands.again:
        print(f"try lower ones with: {commands.again}", flush=True)


def _given(known: Sequence[Observed]) -> str:
    runs = "1 earlier run was" if len(known) == 1 else f"{len(known)} earlier runs were"
    return f"{runs} known before: the curve counts them, the cost does not."


def _overrides(sweep: Sweep, report: LRReport, observed: Sequence[Observed]) -> dict[str, list[str]]:
    """Return group -> the overrides that train with its recommendation.

    They are those of its longest job, with the recommended rate, without the seed where it was varied, and without what
    the sweep added for its workers. A group of earlier runs alone has what any job has, and what its name says.
    """
    longest: dict[str, Job] = {}
    names = {group.name for group in report.groups}
    for one, job in sorted(zip(observed, sweep.jobs, strict=False), key=lambda pair: -pair[0].planned_steps):
        longest.setdefault(one.group if one.group in names else "", job)
    typed = {key_of(text) for text in sweep.overrides}
    added = {key for key in _ADDED if key not in typed and not sweep.varies(key)}
    aside = {PURPOSE_TAG, *([SEED] if sweep.varies(SEED) else []), *added}
    found = {}
    for group in report.groups:
        if math.isnan(group.recommended):
            continue
        own = longest.get(group.name)
        words = own.overrides if own is not None else changed(_unvaried(sweep.jobs[0]), shlex.split(group.name))
        kept = [text for text in words if key_of(text) not in aside]
        found[group.name] = list(changed(kept, [f"{report.key}={number(group.recommended)}"]))
    return found


def _unvaried(job: Job) -> list[str]:
    return [text for text in job.overrides if key_of(text) not in job.varied]


def group_evidence(report: LRReport) -> list[str]:
    """Return what the recommendation of the best group rests on, in sentences."""
    return [headline(report), *group_sentences(report, report.best)]


def tags_of(report: LRReport) -> dict[str, str]:
    """Return what MLflow shows of a report beside its numbers."""
    best = report.best
    found = {f"{LR_TAGS}report": headline(report), f"{LR_TAGS}override": report.override_line()}
    if not math.isnan(best.recommended):
        found[f"{LR_TAGS}recommended"] = number(best.recommended)
        found[f"{LR_TAGS}is_at_edge"] = str(best.advice.is_at_edge).lower()
    if best.interval is not None:
        found[f"{LR_TAGS}interval"] = interval_text(best.interval)
    return {name: value for name, value in found.items() if value}


def metrics_of(report: LRReport) -> dict[str, float]:
    """Return the numbers of the best group that are known, for MLflow."""
    best = report.best
    found = {
        "recommended": best.recommended,
        "expected_loss": best.expected_loss,
        "safety_ratio": best.advice.safety_ratio,
        "seed_noise": best.noise,
        "largest_stable": best.advice.edge.stable,
        "smallest_hopeless": best.advice.edge.hopeless,
        "cost_full_runs": report.cost.full_runs,
        "sensitivity": best.sensitivity if best.sensitivity is not None else math.nan,
        "sensitivity_windowed": best.windowed.value if best.windowed is not None else math.nan,
        "basin_decades": best.basin.decades if best.basin is not None else math.nan,
        "interval_low": best.interval.low if best.interval is not None else math.nan,
        "interval_high": best.interval.high if best.interval is not None else math.nan,
    }
    return {f"{LR_TAGS}{name}": value for name, value in found.items() if math.isfinite(value)}


def safe_end(
    directory: Path,
    sweep: Sweep,
    states: Sequence[JobState],
    *,
    root: Path,
    safety: float,
    quiet: bool = False,
    stand: Stand | None = None,
) -> Told | None:
    """Report a sweep as `end_with_report`; where that cannot be done, say so, for the runs are done and count.

    Raises:
        OSError: the files cannot be written.
    """
    try:
        return end_with_report(directory, sweep, states, root=root, safety=safety, quiet=quiet, stand=stand)
    except (ValueError, ArithmeticError, LookupError) as error:
        print(f"warning lr_report.json: no report ({type(error).__name__}: {error})", file=sys.stderr)
        return None
