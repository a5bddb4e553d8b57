"""The tables of the page, in Markdown, from one row a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from replay import EVIDENCE
from scipy import stats

from runner.diagnosis.verdict import CAUSES

if TYPE_CHECKING:
    from score import Row

OF_THE_STEPS = ("lr_too_high", "unstable_early", "gradient_explosion", "lr_too_high_at_end", "stuck")
BINS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def tables(rows: Sequence[Row]) -> str:
    """Return every table."""
    kept = [row for row in rows if row.cause != "dropped"]
    parts = [_counts(rows), _accuracy(kept), _by_cause(kept), _rules(kept), _false_alarms(kept), _reliability(kept)]
    return "\n".join(parts)


def sick(rows: Iterable[Row]) -> list[Row]:
    """Return the runs with a failure."""
    return [row for row in rows if row.cause not in ("healthy", "dropped")]


def healthy(rows: Iterable[Row]) -> list[Row]:
    """Return the runs without one."""
    return [row for row in rows if row.cause == "healthy"]


def interval(count: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share by Clopper and Pearson."""
    if total == 0:
        return 0.0, 1.0
    found = stats.binomtest(count, total).proportion_ci(0.95, method="exact")
    return float(found.low), float(found.high)


def _counts(rows: Sequence[Row]) -> str:
    counts = Counter((row.cause, row.silent) for row in rows)
    lines = ["| label | runs |", "|---|---|"]
    for (cause, silent), count in sorted(counts.items(), key=lambda item: -item[1]):
        lines.append(f"| {cause}{' (silent)' if silent else ''} | {count} |")
    return "\n".join([*lines, f"| all | {len(rows)} |", ""])


def _accuracy(rows: Sequence[Row]) -> str:
    groups = {
        "sick, observable": [row for row in sick(rows) if not row.silent],
        "sick, silent": [row for row in sick(rows) if row.silent],
        "sick, all": sick(rows),
        "healthy": healthy(rows),
    }
    lines = [
        "| runs | what is known | number | cause right, first | 95 % interval | right or near | among those named |"
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, group in groups.items():
        for evidence in EVIDENCE:
            said = [(row, row.verdicts[evidence]) for row in group]
            right = sum(row.is_right(verdict.cause) for row, verdict in said)
            near = sum(row.is_right(verdict.cause) or verdict.cause in row.near for row, verdict in said)
            named = sum(any(map(row.is_right, (verdict.cause, *verdict.alternatives))) for row, verdict in said)
            low, high = interval(right, len(group))
            shares = [share(count, len(group)) for count in (right, near, named)]
            cells = [name, evidence, str(len(group)), shares[0], f"{low:.1%} to {high:.1%}", *shares[1:]]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _by_cause(rows: Sequence[Row]) -> str:
    lines = ["| cause | runs | right, first | most often else | alarmed, all detectors |", "|---|---|---|---|---|"]
    for cause in CAUSES:
        for silent in (False, True):
            group = [row for row in rows if row.cause == cause and row.silent is silent]
            if group:
                wrong = [row for row in group if not row.is_right(row.verdicts[EVIDENCE[0]].cause)]
                said, right = Counter(row.verdicts[EVIDENCE[0]].cause for row in wrong), len(group) - len(wrong)
                others = ", ".join(f"{other} {count}" for other, count in said.most_common(3)) or "-"
                rung = sum(row.rung["all detectors"] is not None for row in group)
                name = f"{cause}{' (silent)' if silent else ''}"
                lines.append(
                    f"| {name} | {len(group)} | {share(right, len(group))} | {others} | {share(rung, len(group))} |"
                )
    return "\n".join([*lines, ""])


def _rules(rows: Sequence[Row]) -> str:
    observable, silent = ([row for row in sick(rows) if row.silent is wanted] for wanted in (False, True))
    broken = [row for row in observable if row.cause in OF_THE_STEPS and row.non_finite is not None]
    gradual = [row for row in broken if row.gradual]
    fine = healthy(rows)
    lines = ["| rule | observable failures alarmed | 95 % interval | silent ones | healthy runs alarmed, per 1,000 "]
    lines[0] += f"| at most (95 %) | median lead before the first NaN, {len(gradual)} gradual runs "
    lines[0] += f"| all {len(broken)} |"
    lines += ["|---|---|---|---|---|---|---|---|"]
    for rule in rows[0].rung if rows else ():
        rung = [sum(row.rung[rule] is not None for row in group) for group in (observable, silent, fine)]
        low, high = interval(rung[0], len(observable))
        most = stats.beta.ppf(0.95, rung[2] + 1, len(fine) - rung[2]) if rung[2] < len(fine) else 1.0
        leads = [_lead(group, rule) for group in (gradual, broken)]
        lines.append(
            f"| {rule} | {share(rung[0], len(observable))} | {low:.1%} to {high:.1%} | {share(rung[1], len(silent))} "
            f"| {1000 * rung[2] / max(1, len(fine)):.1f} of {len(fine)} | {1000 * most:.1f} | {leads[0]} | {leads[1]} |"
        )
    return "\n".join([*lines, ""])


def _lead(rows: Sequence[Row], rule: str) -> str:
    """Return the median number of steps from a rule's first alarm to the first NaN, 0 without an alarm."""
    leads = [max(0, (row.non_finite or 0) - step) if (step := row.rung[rule]) is not None else 0 for row in rows]
    return f"{median(leads):g} steps" if leads else "-"


def _false_alarms(rows: Sequence[Row]) -> str:
    fine, observable = healthy(rows), [row for row in sick(rows) if not row.silent]
    names = sorted({name for row in rows for name in row.detectors})
    lines = ["| detector | healthy runs with a warning | observable failures with one |", "|---|---|---|"]
    for name in names:
        counts = [sum(name in row.detectors for row in group) for group in (fine, observable)]
        lines.append(f"| {name} | {counts[0]} of {len(fine)} | {counts[1]} of {len(observable)} |")
    return "\n".join([*lines, ""])


def _reliability(rows: Sequence[Row]) -> str:
    """Return how often verdicts were right by their confidence; "cannot tell" names no cause that could be right."""
    lines = ["| what is known | confidence stated | runs | mean confidence | right |", "|---|---|---|---|---|"]
    for evidence in EVIDENCE:
        said = [(row, found) for row in rows if (found := row.verdicts[evidence]).cause != "cannot_tell"]
        for low, high in pairwise(BINS):
            group = [(row, verdict) for row, verdict in said if low < verdict.confidence <= high]
            if group:
                mean = sum(verdict.confidence for _, verdict in group) / len(group)
                right = share(sum(row.is_right(verdict.cause) for row, verdict in group), len(group))
                lines.append(f"| {evidence} | {low:g} to {high:g} | {len(group)} | {mean:.2f} | {right} |")
    return "\n".join([*lines, ""])


def share(count: int, total: int) -> str:
    """Return a share in words of numbers."""
    return f"{count / total:.1%} ({count} of {total})" if total else "-"
