"""The tables of the branch probe, in Markdown, from one row a probe."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from tables import interval, share

if TYPE_CHECKING:
    from probe import Row

WAY = {"lr_too_high": -1, "unstable_early": -1, "lr_too_low": 1, "plateau": 1}
"""silent cause -> whether a lower or a higher rate is right"""
CANDIDATES: dict[str, tuple[Callable[[Row], float], Callable[[Row], float]]] = {
    "lower and higher": (lambda row: row.factor, lambda row: row.compute),
    "lower alone, as heal": (lambda row: row.lower, lambda row: row.lower_compute),
}
"""candidates -> the rate that is gone on with, the compute of the probe"""
WHEN = {"start": "the start", "quarter": "25 %, 10 x as fast", "slow_quarter": "25 %, as fast as the run"}
BANDS = ((0.0, 0.01), (0.01, 0.1), (0.1, 0.4), (0.4, 0.8), (0.8, 1.2), (1.2, 4.0), (4.0, math.inf))


def tables(rows: Sequence[Row]) -> str:
    """Return every table, and whether the runs are those that were labelled."""
    other = sum(not row.same for row in rows)
    note = f"{len({row.name for row in rows})} runs, {len(rows)} probes; {other} of them on a run that began otherwise."
    return "\n".join([note, "", _silent(rows), _healthy(rows), _by_multiple(rows), _by_task(rows)])


def is_found(row: Row, factor: float) -> bool:
    """Return whether a factor moves a sick run the right way."""
    return WAY[row.cause] * (factor - 1.0) > 0


def _silent(rows: Sequence[Row]) -> str:
    lines = [
        "| silent failure | asked at | runs | found | 95 % interval | moved the wrong way "
        "| stays, the best branch is right but not clearly | ended as good as tuned | compute of the probe |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for cause in sorted({row.cause for row in rows if row.silent}):  # not all together: they are drawn by cause
        for asked, where in WHEN.items():
            group = [row for row in rows if row.silent and row.cause == cause and row.asked == asked]
            if not group:
                continue
            found = [row for row in group if is_found(row, row.factor)]
            wrong = sum(row.factor != 1.0 for row in group) - len(found)
            leaning = sum(row.factor == 1.0 and is_found(row, _best(row)) for row in group)
            low, high = interval(len(found), len(group))
            cells = [
                cause, where, str(len(group)), share(len(found), len(group)), f"{low:.1%} to {high:.1%}", str(wrong),
                str(leaning), str(sum(row.good for row in found)), f"{fmean(row.compute for row in group):.2f}",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _healthy(rows: Sequence[Row]) -> str:
    lines = [
        "| candidates | asked at | healthy runs | moved | 95 % interval | lowered | raised | running branch lost "
        "| moved, ended worse | no longer as good as tuned | too high ones found | compute of the probe |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, (factor_of, compute_of) in CANDIDATES.items():
        for asked, where in WHEN.items():
            here = [row for row in rows if row.asked == asked]
            group = [row for row in here if not row.silent]
            if not group:
                continue
            too_high = [row for row in here if row.silent and WAY[row.cause] < 0]
            moved = [row for row in group if factor_of(row) != 1.0]
            raised = sum(factor_of(row) > 1.0 for row in moved)
            lost = sum(not all(map(math.isfinite, row.losses["1"])) for row in moved)
            ended = [row for row in moved if factor_of(row) == row.factor]  # of another rate the end is not known
            low, high = interval(len(moved), len(group))
            cells = [
                name, where, str(len(group)), share(len(moved), len(group)), f"{low:.1%} to {high:.1%}",
                str(len(moved) - raised), str(raised), str(lost),
                f"{sum(not row.harmless for row in ended)} of {len(ended)}",
                str(sum(not row.good for row in ended)),
                share(sum(is_found(row, factor_of(row)) for row in too_high), len(too_high)),
                f"{fmean(map(compute_of, here)):.2f}",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _by_task(rows: Sequence[Row]) -> str:
    """Return where healthy runs were moved."""
    lines = [f"| task, optimizer | healthy runs | moved: {' | '.join(WHEN.values())} |", "|---" * 5 + "|"]
    healthy = [row for row in rows if not row.silent]
    for pair in sorted({(row.task, row.optimizer) for row in healthy}):
        group = [row for row in healthy if (row.task, row.optimizer) == pair]
        counts = [sum(row.factor != 1.0 for row in group if row.asked == asked) for asked in WHEN]
        if any(counts):
            number = len({row.name for row in group})
            lines.append(f"| {', '.join(pair)} | {number} | {' | '.join(map(str, counts))} |")
    return "\n".join([*lines, ""])


def _by_multiple(rows: Sequence[Row]) -> str:
    """Return which way runs with a rate all the way were moved, by the multiple of the best rate."""
    lines = [
        "| multiple of the best rate | asked at | runs | of them healthy | lowered | stay | raised |",
        "|---|---|---|---|---|---|---|",
    ]
    for low, high in BANDS:
        for asked, where in WHEN.items():
            group = [r for r in rows if r.asked == asked and low <= r.multiple < high and r.cause != "plateau"]
            if not group:
                continue
            span = (
                f"below {high:g}" if low == 0.0 else f"{low:g} and more" if high == math.inf else f"{low:g} to {high:g}"
            )
            ways = Counter((row.factor > 1.0) - (row.factor < 1.0) for row in group)
            counts = [len(group), sum(not row.silent for row in group), ways[-1], ways[0], ways[1]]
            lines.append(f"| {span} | {where} | {' | '.join(map(str, counts))} |")
    return "\n".join([*lines, ""])


def _best(row: Row) -> float:
    """Return the factor whose branches did best on the mean; 1 where none got to its end."""
    means = {float(factor): fmean(found) for factor, found in row.losses.items() if all(map(math.isfinite, found))}
    return min(means, key=lambda factor: means[factor]) if means else 1.0
