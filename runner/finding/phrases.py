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

_SEARCHED = ("search.space", "search.choice")
_ON = "go on with resume.sweep and a larger search"
_GO_ON = {"search": f"{_ON}.budget", "study": f"{_ON}.n_trials", "search.space": f"{_ON}.n_trials"}
_KNOWN = "and search.known=<this directory>"


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
    if report.asked in _SEARCHED:
        return _listed(report, lrs) if where == "instead" else _searched_anew(report, lrs)
    section = {"search": "search", "study": "search", "sweep": "sweep"}.get(report.asked)
    if section is None:
        return _listed(report, lrs)
    ends = {"low": f"{section}.low={number(min(lrs))}", "high": f"{section}.high={number(max(lrs))}"}
    anew = f" {_KNOWN}" if report.asked == "study" and where in ends else ""
    return ends.get(where, " ".join(ends.values())) + anew


def extend(report: LRReport, lrs: tuple[float, ...], end: Literal["low", "high"]) -> str:
    """Return, as what is to be done, how learning rates beyond an end of those that were tried are added."""
    far = rates_to_try(report, lrs, end)
    if report.asked == "search.choice":
        return f"search anew with {far}"
    if report.asked not in _GO_ON:
        return f"extend the range with {far}"
    # a search leaves what is typical by itself; what a sampler tried last need not be where its space ends
    where = "where a bound is set" if report.asked == "search" else "where it lies at a bound"
    return f"{add_rates(report, lrs)}, or search anew with {far} {where}"


def add_rates(report: LRReport, lrs: tuple[float, ...]) -> str:
    """Return, as what is to be done, how learning rates between those that were tried are added."""
    if report.asked == "search.choice":
        return f"search anew with {_searched_anew(report, lrs)}"
    if report.asked == "sweep":
        space = f"sweep.space='{{{report.key}:\"{_at_least_two(report, lrs)}\"}}'"
        return f"add {space} in the place of sweep.low, sweep.high and sweep.points"
    return _GO_ON.get(report.asked, f"add {_listed(report, lrs)}")


def add_seeds(report: LRReport) -> str:
    """Return, as what is to be done, how seeds are added."""
    if report.asked == "search":
        return _GO_ON["search"]
    if report.asked in ("study", *_SEARCHED):  # whose trials differ in the learning rate, not in the seed alone
        return "add -m and seed=0,1,2 to the line that uses it"
    if report.asked == "multirun":
        return "add seed=0,1,2"
    is_varied = len({one.seed for one in report.runs}) > 1
    return "add values of seed in sweep.space" if is_varied else "add sweep.seeds=3"


def _listed(report: LRReport, lrs: tuple[float, ...]) -> str:
    if report.asked == "multirun":
        return f"{report.key}={_at_least_two(report, lrs)}"
    is_interval = report.asked == "search.space"
    text = f"interval({number(min(lrs))},{number(max(lrs))})" if is_interval else _at_least_two(report, lrs)
    return f'{report.key}:"{text}" in {"search" if report.asked in _SEARCHED else "sweep"}.space'


def _searched_anew(report: LRReport, lrs: tuple[float, ...]) -> str:
    """Return a space with learning rates beside those that were tried, which a new search is given as known."""
    rates = sorted({*lrs, *(one.lr for one in report.runs)})
    texts = list(dict.fromkeys(number(lr, 6) for lr in rates))  # as the trials were written
    text = f"interval({texts[0]},{texts[-1]})" if report.asked == "search.space" else ",".join(texts)
    return f'{report.key}:"{text}" in search.space {_KNOWN}'


def _at_least_two(report: LRReport, lrs: tuple[float, ...]) -> str:
    """Return a list of learning rates, one that was tried beside a single one: what varies has two values."""
    tried = {one.lr for one in report.runs} - {*lrs}
    if len(lrs) == 1 and tried:
        lrs = tuple(sorted((*lrs, min(tried, key=lambda lr: abs(math.log(lr / lrs[0]))))))
    return ",".join(map(number, lrs))
