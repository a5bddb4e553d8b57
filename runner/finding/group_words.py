"""What a learning-rate report says of one group, in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from runner.curves import number
from runner.finding.failures import SAFE_RATIO
from runner.finding.fit import ASYMMETRY_DECADES, ENOUGH_POINTS
from runner.finding.phrases import (
    add_rates,
    add_seeds,
    count_of,
    extend,
    fresh_at,
    interval_text,
    loss_told,
    with_sd,
)

if TYPE_CHECKING:
    from runner.finding.group import GroupReport
    from runner.finding.rates import Verified
    from runner.finding.report import LRReport

_NARROW = 0.05  # decades
_ALIKE = 1e-3  # share of a loss that is no difference
_MANY = 10  # times the loss, from which on percent are hard to read
WINDOW = "1.5 decades each side of the best"


def group_sentences(report: LRReport, group: GroupReport) -> list[str]:
    """Return what was found of one group, the most important first."""
    found = [*how_said(report, group), *edge_said(report, group), *verified_said(report, group)]
    found += [*missing_said(report, group), *basin_said(report, group)]
    return [*found, *_noise(group), *_sensitivity(report, group), *left_out_said(group)]


def how_said(report: LRReport, group: GroupReport) -> Iterator[str]:
    """Say where the recommendation comes from."""
    found = group.advice.fit
    if math.isnan(found.lr):
        return
    if not group.has_learned:
        began = f"no {report.loss} ended below where training began, {number(group.initial_loss)}"
        yield f"Nothing was learned: {began}. Train longer, or look at model and data; this is no learning rate to use."
    elif found.is_vertex:
        few = "" if found.points >= ENOUGH_POINTS else "; fewer than five do not tell whether a parabola fits"
        scale = "the logarithm of the loss" if found.is_log else "the loss"
        low, high = map(number, found.window)
        less = f", less {1 - 10**-ASYMMETRY_DECADES:.0%} as losses rise faster above it than below"
        yield (
            f"Found as the lowest point, {number(found.lr)}, of a parabola in ln lr through {scale} at "
            f"{found.points} learning rates from {low} to {high}{'' if group.advice.is_capped else less}{few}."
        )
    else:
        yield f"It is the best that was tried, {number(found.best)}: {found.why_not}."
    if group.runs.curve_steps < group.runs.full_steps:
        short = group.runs.curve_steps / group.runs.full_steps
        yield f"All runs had {short:.0%} of the full length: the best learning rate of full runs may be another."


def edge_said(report: LRReport, group: GroupReport) -> Iterator[str]:
    """Say from where on runs fail, how far that is, and how sure."""
    edge, best = group.advice.edge, group.advice.fit.lr
    if edge.is_known and not math.isnan(best):
        yield from _known_edge(report, group)
    elif not math.isnan(best) and len(group.rates) > 1:
        far = (
            "the best itself" if group.missing.end == "high" else f"{number(group.advice.safety_ratio)} times the best"
        )
        yield f"Edge: not found, no run failed up to {number(edge.stable)}, {far}."
    if group.stuck:
        rates = ", ".join(map(number, group.stuck))
        yield f"At {rates} the {report.loss} ended no lower than it began, which counts as failed."
    if not group.recommended > 0 or fresh_at(group) is not None:
        return
    rate = min(group.rates, key=lambda rate: abs(math.log(rate.lr / group.recommended))).failures
    worst = f"with 95% confidence at most {rate.high:.0%} of runs do"
    yield f"{rate.failed} of {count_of(rate.runs, 'run')} with {report.key}={number(rate.lr)} failed: {worst}."


def _known_edge(report: LRReport, group: GroupReport) -> Iterator[str]:
    edge = group.advice.edge
    upper = number(edge.first_failing)
    if not math.isnan(edge.hopeless):
        upper += ", where all did" if edge.hopeless == edge.first_failing else f"; all did at {number(edge.hopeless)}"
    stable = f"no run failed up to {number(edge.stable)}"
    if math.isnan(edge.stable):
        stable = f"a run failed at {number(edge.first_failing)}, the smallest rate, so that no distance can be kept"
    ratio = group.advice.safety_ratio
    yield f"Edge: {stable}{'' if math.isnan(ratio) else f', {number(ratio)} times the best'}; runs failed from {upper}."
    if edge.is_coarse:
        yield f"Where between these it lies is not known: {add_rates(report, group.missing.edge_next)}."
    if group.advice.is_capped:
        yield from _capped(report, group)


def share_of_edge(group: GroupReport) -> str:
    """Return which share of the largest stable rate is recommended at most, in words before it."""
    return {1.0: "", SAFE_RATIO: "a third of "}.get(group.safety, f"1/{number(group.safety)} of ")


def _capped(report: LRReport, group: GroupReport) -> Iterator[str]:
    """Say that the recommendation keeps away from the edge, and what that costs."""
    advice, edge = group.advice, group.advice.edge
    at_edge = (
        f"{'Maybe at' if edge.is_coarse else 'At'} the edge (less than {SAFE_RATIO:g} times the best): the"
        if advice.is_at_edge
        else "The"
    )
    most = f"{share_of_edge(group)}{number(edge.stable)}"
    yield f"{at_edge} recommendation is {most}, the largest at which no run failed."
    fresh, here = fresh_at(group), loss_told(group)
    if not (advice.uncapped <= edge.stable and here > group.uncapped_loss):
        return
    about = "" if fresh is not None else "about "
    there = f"{number(advice.uncapped)} has about {number(group.uncapped_loss)}"
    costs = f"{report.loss} {about}{number(here)} where {there}"
    yield f"That distance costs: {costs}; with search.safety=1 the latter is recommended."


def verified_said(report: LRReport, group: GroupReport) -> Iterator[str]:
    """Say what fresh seeds came to."""
    found = group.verified
    if found is None:
        return
    loss = "" if math.isnan(found.mean) else f", {report.loss} {with_sd(found.mean, found.sd)}"
    if fresh_at(group) is not None and not math.isnan(group.expected_loss):
        loss += f", where the curve gives {number(group.expected_loss)}{_off(found, group.expected_loss)}"
    yield (
        f"Verified with {count_of(found.runs, 'fresh seed')} at {number(found.lr)}: {found.failed} failed"
        f" (at most {found.most_failing:.0%} do, with 95% confidence){loss}."
    )
    if found.lr != group.recommended and not math.isnan(group.recommended):
        yield f"{number(group.recommended)} itself was not tried with fresh seeds."
    sure = found.mean + 2 * _error(found)
    if (
        group.interval is not None
        and sure < group.best_loss
        and not group.interval.low <= found.lr <= group.interval.high
    ):
        yield "That is lower than at any rate of the curve, so the best may lie nearer to it than the interval says."


def _error(found: Verified) -> float:
    """Return the standard error of the mean over fresh seeds; nan for fewer than two."""
    return found.sd / math.sqrt(len(found.losses)) if found.losses else math.nan


def _off(found: Verified, expected: float) -> str:
    """Say that the curve is wrong where fresh seeds rule it out."""
    if not abs(found.mean - expected) > max(2 * _error(found), _ALIKE * abs(expected)):
        return ""
    return f", too {'little' if found.mean > expected else 'much'}: the former is what to expect"


def missing_said(report: LRReport, group: GroupReport) -> Iterator[str]:
    """Say what further runs would tell more."""
    end, more = group.missing.end, group.missing.try_next
    if more and end:
        far = "smallest" if end == "low" else "largest"
        yield f"The best is the {far} learning rate that was tried: {extend(report, more, end)}."
    elif more and not math.isnan(group.recommended):
        yield f"Fewer than five learning rates lie within a decade of the best: {add_rates(report, more)}."
    if math.isnan(group.noise) and all(math.isnan(rate.sd) for rate in group.rates) and not math.isnan(group.best_loss):
        what = "what is seed noise and what is the learning rate cannot be told apart"
        yield f"One seed: {what}; {add_seeds(report)}."


def basin_said(report: LRReport, group: GroupReport) -> Iterator[str]:
    """Say how wide the good rates are, and what a rate beside the best costs."""
    basin = group.basin
    if basin is None or len(group.rates) == 1:
        return
    is_open = basin.is_low_open or basin.is_high_open
    if basin.decades < _NARROW and is_open:
        yield f"How wide the good rates are is not known: nothing near {number(group.best_lr)} was tried."
        return
    if basin.decades < _NARROW:
        middle = number(math.sqrt(basin.low * basin.high))
        yield f"Near-optimal: nothing far from {middle}, the {report.loss} rises fast beside it."
        return
    width = f"{'at least ' if is_open else ''}{basin.decades:.2g} decades"
    lowest = group.advice.fit.loss
    rise = f"{basin.level / lowest - 1:.1%}" if lowest > 0 else number(basin.level - lowest)
    yield f"Near-optimal from {interval_text(basin)} ({width}): the {report.loss} is at most {rise} above its smallest."
    sides = [
        f"{what} {'makes runs fail' if math.isinf(rise) else _change(rise, group.best_loss)}"
        for what, rise in (("a third of it", group.slopes.lower), ("three times it", group.slopes.higher))
        if not math.isnan(rise)
    ]
    if sides:
        yield f"Beside the best, {number(group.best_lr)}: {', '.join(sides)}."


def _change(rise: float, loss: float) -> str:
    if loss > 0:
        times = 1 + rise / loss
        return (
            f"changes the loss by {times - 1:+.1%}"
            if times < _MANY
            else f"makes the loss {number(times, 2)} times as large"
        )
    return f"changes the loss by {'+' if rise >= 0 else ''}{number(rise)}"


def _noise(group: GroupReport) -> Iterator[str]:
    if not math.isnan(group.noise):
        counts = {rate.lr: len(rate.by_seed) for rate in group.rates if rate.lr == group.best_lr}
        if group.verified is not None:
            counts[group.verified.lr] = counts.get(group.verified.lr, 0) + len(group.verified.losses)
        seeds = " and ".join(f"{count} seeds with {number(lr)}" for lr, count in counts.items() if count > 1)
        yield f"Seed noise: standard deviation {number(group.noise, 2)} over {seeds}."


def _sensitivity(report: LRReport, group: GroupReport) -> Iterator[str]:
    """Give both forms of the LR sensitivity, and say which is which."""
    what = f"mean {report.loss} above the best, a run that failed counting as before training"
    before = "" if math.isnan(group.initial_loss) else f" ({number(group.initial_loss)})"
    if group.sensitivity is not None:
        yield f"LR sensitivity {number(group.sensitivity)} over 3e-4 to 0.3: {what}{before}."
    if group.windowed is not None:
        tried = f"of which {group.windowed.decades:.2g} of 3 decades were tried"
        what = "" if group.sensitivity is not None else f": {what}{before}"
        yield f"LR sensitivity {number(group.windowed.value)} over {WINDOW}, {tried}{what}."


def left_out_said(group: GroupReport) -> Iterator[str]:
    """Say which runs are no points of the curve."""
    if group.runs.short_runs:
        yield f"{count_of(group.runs.short_runs, 'shorter run')} not in the curve; what failed in them counts."
    if group.runs.unfinished:
        words = {"waiting": "not started"}
        counts = ", ".join(f"{count} {words.get(status, status)}" for status, count in group.runs.unfinished.items())
        yield f"Without an end, and left out: {counts}."
