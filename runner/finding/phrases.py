"""Phrases that the sentences of a learning-rate report are made of."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from runner.curves import number

if TYPE_CHECKING:
    from runner.finding.basin import Basin
    from runner.finding.group import GroupReport
    from runner.finding.interval import Interval
    from runner.finding.rates import Verified
    from runner.finding.report import LRReport

Where = Literal["low", "high", "between", "instead"]


def interval_text(found: Interval | Basin, *, joined: str = "to") -> str:
    """Return an interval in words; an end beyond which nothing was tried is open."""
    low = f"{number(found.low)}{' or less' if found.is_low_open else ''}"
    return f"{low} {joined} {number(found.high)}{' or more' if found.is_high_open else ''}"


def with_sd(mean: float, sd: float) -> str:
    """Return a mean and, where it is known, its standard deviation."""
    return number(mean) + ("" if math.isnan(sd) else f" ± {number(sd, 2)}")


def count_of(count: int, what: str) -> str:
    """Return a number of things."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def fresh_at(group: GroupReport) -> Verified | None:
    """Return what fresh seeds came to at the recommendation; None where none finished there."""
    found = group.verified
    return found if found is not None and found.lr == group.recommended and not math.isnan(found.mean) else None


def rates_to_try(report: LRReport, lrs: tuple[float, ...], where: Where) -> str:
    """Return what makes more runs, in the words of what made those that there are.

    Args:
        report: says what did.
        lrs: learning rates that are wanted.
        where: beyond an end of those that were tried, between them, or instead of them.
    """
    low, high, all_of_them = number(min(lrs)), number(max(lrs)), ",".join(map(number, lrs))
    section = report.asked.partition(".")[0]
    if report.asked.endswith(".space"):
        return f'{report.key}:"{all_of_them}" in {report.asked}'
    if where == "between":
        return {
            "search": "a larger search.budget",
            "study": "a larger search.n_trials",
            "sweep": f"sweep.space='{{{report.key}:\"{all_of_them}\"}}'",
        }.get(section, f"{report.key}={all_of_them}")
    if section in ("search", "study", "sweep"):
        key = "sweep" if section == "sweep" else "search"
        ends = {"low": f"{key}.low={low}", "high": f"{key}.high={high}"}
        return ends.get(where, " ".join(ends.values()))
    return f"{report.key}={all_of_them}"


def seeds_to_try(report: LRReport) -> str:
    """Return what makes more seeds."""
    section = report.asked.partition(".")[0]
    seeds = {
        "search": "a larger search.budget",
        "study": 'seed:"choice(0,1,2)" in search.space',
        "sweep": "sweep.seeds=3",
    }
    return seeds.get(section, "seed=0,1,2")
