"""What a learning-rate report says: the answer with its doubt first."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from runner.curves import number
from runner.finding.compare import FEWEST_SEEDS, SIGNIFICANT, Comparison
from runner.finding.group_words import (
    basin_said,
    edge_said,
    how_said,
    left_out_said,
    missing_said,
    share_of_edge,
    verified_said,
)
from runner.finding.phrases import count_of, fresh_at, interval_text, loss_told, rates_to_try, with_sd

if TYPE_CHECKING:
    from runner.finding.group import GroupReport
    from runner.finding.report import Cost, LRReport

_MOST_GROUPS, _MOST_MORE = 6, 5  # told on the terminal


def headline(report: LRReport, group: GroupReport | None = None) -> str:
    """Return the recommendation of a group (the best one) with its doubt, or that there is none."""
    group = group or report.best
    if math.isnan(group.recommended):
        more = group.missing.try_next
        lower = f"; try lower ones: {rates_to_try(report, more, 'instead')}" if more else ""
        return f"no recommendation: {group.advice.fit.why_not}{lower}"
    nothing = "" if group.has_learned else "nothing was learned at any rate"
    doubt = "; ".join(text for text in (nothing, _cap(group), _interval(group), _loss(report, group)) if text)
    return f"{report.override_line(group)} ({doubt})"


def answer(report: LRReport) -> str:
    """Return the headline, said to be a recommendation where it is one."""
    if math.isnan(report.best.recommended):
        return headline(report)
    return f"{'recommended' if report.best.has_learned else 'the lowest, but no advice'}: {headline(report)}"


def brief(report: LRReport) -> list[str]:
    """Return the few sentences that the terminal shows."""
    first = answer(report)
    if len(report.groups) > 1 and math.isnan(report.best.recommended):
        return [first, *left_out_said(report.best), cost_sentence(report.cost)]  # no other group has one either
    if len(report.groups) > 1:
        return [first, *_brief_of_others(report), cost_sentence(report.cost)]
    group = report.best
    found = [*how_said(report, group), *edge_said(report, group), *verified_said(report, group)]
    rest = [*missing_said(report, group), *basin_said(report, group), *left_out_said(group)]
    return [first, *found, *rest, cost_sentence(report.cost)]


def _brief_of_others(report: LRReport) -> list[str]:
    best, *others = report.groups
    lines = [
        f"{group.name}: {headline(report, group)}"
        if math.isnan(group.recommended)
        else f"next best: {headline(report, group)}"
        for group in others
    ]
    more = [_comparison(report, comparison) for comparison in report.comparisons]
    edge = edge_said(report, best) if best.advice.is_at_edge else ()
    missing = [f"{best.name}: {text}" for text in (*edge, *missing_said(report, best))]
    ends = [f"{one.name}: {text}" for one in others if one.missing.end for text in missing_said(report, one)]
    return [*lines[: _MOST_GROUPS - 1], *more[:_MOST_MORE], *missing, *ends[:_MOST_MORE]]


def report_sentences(report: LRReport) -> list[str]:
    """Return what is true of all groups together: comparisons, cost, what was not varied, notes."""
    found = [_comparison(report, comparison) for comparison in report.comparisons]
    found.append(cost_sentence(report.cost))
    if report.fixed:
        fixed = ", ".join(f"{key}={value}" for key, value in report.fixed.items())
        found.append(f"Not varied, and the best learning rate depends on them: {fixed}.")
    return [*found, *report.notes]


def cost_sentence(cost: Cost) -> str:
    """Return what was spent."""
    runs = f"{number(cost.full_runs)} full run{'s' if cost.full_runs != 1 else ''}"
    text = f"Cost: {runs} in {count_of(cost.runs, 'run')}"
    if cost.range_test:
        text += f" and a range test ({number(cost.range_test)})"
    if cost.verify_runs:
        text += f", and {number(cost.verify_full_runs)} in {count_of(cost.verify_runs, 'run')} that verified the result"
    return f"{text}."


def _cap(group: GroupReport) -> str:
    """Say that the recommendation keeps its distance from the edge, or lies near it."""
    edge = group.advice.edge
    largest = "largest rate known to be stable" if edge.is_coarse else "largest stable rate"
    if group.advice.is_capped:
        return f"{share_of_edge(group)}{number(edge.stable)}, the {largest}"
    if not group.advice.is_at_edge:
        return ""
    return f"near the {largest}"


def _interval(group: GroupReport) -> str:
    found = group.interval
    if found is None:
        return "no interval"
    if (found.is_low_open or found.is_high_open) and (math.isnan(found.level) or found.low == found.high):
        return "the best lies at an end of what was tried"
    between = interval_text(found, joined="and")
    if math.isnan(found.level):
        return f"best between its neighbours {between}"
    return f"best between {between} with {found.level:.0%} confidence"


def _loss(report: LRReport, group: GroupReport) -> str:
    """Return the loss at the recommendation: that of fresh seeds, or else what is expected."""
    if (found := fresh_at(group)) is not None:
        failed = f", {found.failed} failed" if found.failed else ""
        return f"{report.loss} {with_sd(found.mean, found.sd)} with {count_of(found.runs, 'fresh seed')}{failed}"
    return "" if math.isnan(group.expected_loss) else f"{report.loss} about {number(group.expected_loss)}"


def _comparison(report: LRReport, found: Comparison) -> str:
    """Say whether a difference is there."""
    better, other = (
        f"{name or 'the other'} at {report.key}={number(lr)}"
        for name, lr in zip((found.better, found.other), found.lrs, strict=True)
    )
    seeds = f"{count_of(found.seeds, 'seed')}{' in common' if found.is_paired else ' each, none in common'}"
    difference = f"{better} against {other}: {report.loss} lower by {number(found.difference)}"
    if math.isnan(found.error):
        return f"No difference shown, as one seed shows none: {difference} with {seeds}; {_where(report, found)}."
    error = f"± {number(found.error, 2)} (standard error)"
    sign = f", better with {found.wins} of {found.seeds}" if found.is_paired else ""
    sign += f", sign test p {number(found.p_sign, 2)}" if found.is_paired else ""
    shown = "The difference is there" if found.is_shown else "No difference shown"
    if found.is_shown and found.is_paired and found.p_sign > SIGNIFICANT and found.wins == found.seeds:
        shown += " by its standard error, though for a sign test there are too few seeds"
    if found.is_cut:
        shown += f", as {found.other or 'the other'} may do better beyond what was tried"
    elif found.seeds < FEWEST_SEEDS:
        shown += f", as that takes {FEWEST_SEEDS} seeds"
    return f"{shown}: {difference} {error} over {seeds}{sign}; {_where(report, found)}."


def _where(report: LRReport, found: Comparison) -> str:
    """Say at which of their rates two groups are compared."""
    by_name = {group.name: group for group in report.groups}
    groups = [by_name[name] for name in (found.better, found.other)]
    one, other = (_rate_compared(group) for group in groups)
    if one == other and one.endswith("rate"):
        return f"both {one.replace('its', 'their')}s"
    return ", ".join(f"{group.name or 'the other'} {_rate_compared(group)}" for group in groups)


def _rate_compared(group: GroupReport) -> str:
    if not group.advice.is_capped:
        return "at its best rate"
    if group.is_compared_as_recommended:
        return "at its recommended rate"
    loss = loss_told(group)
    about = "" if math.isnan(loss) else f" and has about {number(loss)}"
    return f"at its best rate and not at {number(group.recommended)}, which is recommended{about}"
