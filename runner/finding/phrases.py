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

_GO_ON = {
    "search": "go on with resume.sweep and a larger search.budget",
    "study": "go on with resume.sweep and a larger search.n_trials",
}


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


def loss_told(group: GroupReport) -> float:
    """Return the loss at the recommendation: that of fresh seeds, or else what is expected; nan where not known."""
    fresh = fresh_at(group)
    return fresh.mean if fresh is not None else group.expected_loss


def rates_to_try(report: LRReport, lrs: tuple[float, ...], where: Literal["low", "high", "instead"]) -> str:
    """Return what tries other learning rates, in the words of what made those that there are.

    Args:
        report: says what did.
        lrs: learning rates that are wanted.
        where: beyond an end of those that were tried, or instead of them.
    """
    section = {"search": "search", "study": "search", "sweep": "sweep"}.get(report.asked)
    if section is None:
        return _listed(report, lrs)
    ends = {"low": f"{section}.low={number(min(lrs))}", "high": f"{section}.high={number(max(lrs))}"}
    return ends.get(where, " ".join(ends.values()))


def add_rates(report: LRReport, lrs: tuple[float, ...]) -> str:
    """Return, as what is to be done, how learning rates between those that were tried are added."""
    if report.asked == "sweep":
        listed = ",".join(map(number, lrs))
        return f"add sweep.space='{{{report.key}:\"{listed}\"}}'"
    return _GO_ON.get(report.asked, f"add {_listed(report, lrs)}")


def add_seeds(report: LRReport) -> str:
    """Return, as what is to be done, how seeds are added."""
    section = report.asked.partition(".")[0]
    return _GO_ON.get(report.asked, "add sweep.seeds=3" if section == "sweep" else "add seed=0,1,2")


def _listed(report: LRReport, lrs: tuple[float, ...]) -> str:
    listed = ",".join(map(number, lrs))
    return f"{report.key}={listed}" if report.asked == "multirun" else f'{report.key}:"{listed}" in {report.asked}'
