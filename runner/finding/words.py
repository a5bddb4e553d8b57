"""A report of a learning rate in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from runner.curves import number
from runner.finding.compare import SIGNIFICANT, Comparison
from runner.finding.failures import SAFE_RATIO
from runner.finding.fit import ENOUGH_POINTS

if TYPE_CHECKING:
    from runner.finding.basin import Basin
    from runner.finding.group import GroupReport, Verified
    from runner.finding.interval import Interval
    from runner.finding.report import Cost, LRReport

_NARROW = 0.05  # decades
_MANY = 10  # times the loss, from which on percent are hard to read
WINDOW = "1.5 decades each side of the best"


def headline(report: LRReport, group: GroupReport | None = None) -> str:
    """Return the recommendation of a group (the best one) with its interval, or that there is none."""
    group = group or report.best
    if math.isnan(group.recommended):
        why = group.fit.why_not
        lower = f"; try lower ones: {_override(report.key, group.try_next)}" if group.try_next else ""
        return f"no recommendation: {why}{lower}"
    near = "near the largest rate known to be stable" if group.edge.is_coarse else "at the edge of what is stable"
    edge = f", {near}" if group.is_at_edge else ""
    return f"{report.override_line(group)} ({_interval(group)}{_loss(report, group)}{edge})"


def interval_text(found: Interval | Basin, *, joined: str = "to") -> str:
    """Return an interval in words; an end beyond which nothing was tried is open."""
    low = f"{number(found.low)}{' or less' if found.is_low_open else ''}"
    return f"{low} {joined} {number(found.high)}{' or more' if found.is_high_open else ''}"


def group_sentences(report: LRReport, group: GroupReport) -> list[str]:
    """Return what was found of one group, the most important first."""
    found = [*_how(group), *_edge(report, group), *_verified(report, group), *_missing(report, group)]
    return [*found, *_basin(report, group), *_noise(group), *_sensitivity(report, group), *_left_out(group)]


def brief(report: LRReport) -> list[str]:
    """Return the few sentences that the terminal shows."""
    if len(report.groups) > 1:
        lines = [
            f"recommended: {headline(report, group)}" for group in report.groups if not math.isnan(group.best_loss)
        ]
        lines = lines or [headline(report)]
        more = [_comparison(report, comparison) for comparison in report.comparisons]
        several = [*lines[:6], *more[:5]]
        edge = _edge(report, report.best) if report.best.is_at_edge else ()
        missing = [f"{report.best.name}: {text}" for text in (*edge, *_missing(report, report.best))]
        missing += [f"{one.name}: {text}" for one in report.groups[1:] if one.end for text in _missing(report, one)][:5]
        return [*several, *missing, cost_sentence(report.cost)]
    group = report.best
    first = headline(report) if math.isnan(group.recommended) else f"recommended: {headline(report)}"
    found = [*_how(group), *_edge(report, group), *_verified(report, group), *_missing(report, group)]
    return [first, *found, *_basin(report, group), *_left_out(group), cost_sentence(report.cost)]


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
    text = f"Cost: {number(cost.full_runs)} full run{'s' if cost.full_runs != 1 else ''} in {_count(cost.runs, 'run')}"
    if cost.range_test:
        text += f" and a range test ({number(cost.range_test)})"
    if cost.verify_runs:
        text += f", and {number(cost.verify_full_runs)} in {_count(cost.verify_runs, 'run')} that verified the result"
    return f"{text}."


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
    if (found := _fresh(group)) is not None:
        return f", {report.loss} {_mean(found)} with {_count(found.runs - found.failed, 'fresh seed')}"
    return "" if math.isnan(group.expected_loss) else f", {report.loss} about {number(group.expected_loss)}"


def _fresh(group: GroupReport) -> Verified | None:
    """Return what fresh seeds came to at the recommendation; None where none finished there."""
    found = group.verified
    return found if found is not None and found.lr == group.recommended and not math.isnan(found.mean) else None


def _mean(found: Verified) -> str:
    return number(found.mean) + (f" ± {number(found.sd)}" if found.runs - found.failed > 1 else "")


def _how(group: GroupReport) -> Iterator[str]:
    """Say where the recommendation comes from."""
    found = group.fit
    if math.isnan(found.lr):
        return
    if found.is_vertex:
        few = "" if found.points >= ENOUGH_POINTS else "; fewer than five do not tell whether a parabola fits"
        scale = "the logarithm of the loss" if found.is_log else "the loss"
        low, high = map(number, found.window)
        yield (
            f"Found as the lowest point, {number(found.lr)}, of a parabola in ln lr through {scale} at "
            f"{found.points} learning rates from {low} to {high}{few}."
        )
    else:
        yield f"It is the best that was tried, {number(found.best)}: {found.why_not}."
    if group.curve_steps < group.full_steps:
        short = group.curve_steps / group.full_steps
        yield f"All runs had {short:.0%} of the full length: the best learning rate of full runs may be another."


def _edge(report: LRReport, group: GroupReport) -> Iterator[str]:
    """Say from where on runs fail, how far that is, and how sure."""
    edge, best = group.edge, group.fit.lr
    if edge.is_known and not math.isnan(best):
        upper = number(edge.first_failing)
        if not math.isnan(edge.hopeless):
            upper += (
                ", where all did" if edge.hopeless == edge.first_failing else f"; all did at {number(edge.hopeless)}"
            )
        stable = f"no run failed up to {number(edge.stable)}"
        if math.isnan(edge.stable):
            stable = f"a run failed at {number(edge.first_failing)}, the smallest rate, so that no distance can be kept"
        ratio = "" if math.isnan(group.safety_ratio) else f", {number(group.safety_ratio)} times the best"
        yield f"Edge: {stable}{ratio}; runs failed from {upper}."
        if edge.is_coarse:
            yield f"Where between these it lies is not known: add {_override(report.key, group.edge_next)}."
        if group.is_capped:
            yield from _capped(report, group)
    elif not math.isnan(best) and len(group.rates) > 1:
        far = "the best itself" if group.end == "high" else f"{number(group.safety_ratio)} times the best"
        yield f"Edge: not found, no run failed up to {number(edge.stable)}, {far}."
    if group.stuck:
        rates = ", ".join(map(number, group.stuck))
        yield f"At {rates} the {report.loss} ended no lower than it began, which counts as failed."
    nearest = min(group.rates, key=lambda rate: abs(math.log(rate.lr / best)), default=None) if best > 0 else None
    if nearest is not None:
        rate = nearest.failures
        worst = f"with 95% confidence at most {rate.high:.0%} of runs do"
        yield f"{rate.failed} of {_count(rate.runs, 'run')} with {report.key}={number(rate.lr)} failed: {worst}."


def _capped(report: LRReport, group: GroupReport) -> Iterator[str]:
    """Say that the recommendation keeps away from the edge, and what that costs."""
    share = {1.0: "", SAFE_RATIO: "a third of "}.get(group.safety, f"1/{number(group.safety)} of ")
    at_edge = (
        f"{'Maybe at' if group.edge.is_coarse else 'At'} the edge (less than {SAFE_RATIO:g} times the best): the"
        if group.is_at_edge
        else "The"
    )
    yield f"{at_edge} recommendation is {share}{number(group.edge.stable)}, the largest at which no run failed."
    fresh = _fresh(group)
    here = fresh.mean if fresh is not None else group.expected_loss
    if not (group.uncapped <= group.edge.stable and here > group.uncapped_loss):
        return
    about = "" if fresh is not None else "about "
    costs = (
        f"{report.loss} {about}{number(here)} where {number(group.uncapped)} has about {number(group.uncapped_loss)}"
    )
    yield f"That distance costs: {costs}; with search.safety=1 the latter is recommended."


def _verified(report: LRReport, group: GroupReport) -> Iterator[str]:
    found = group.verified
    if found is None:
        return
    loss = "" if math.isnan(found.mean) else f", {report.loss} {_mean(found)}"
    if _fresh(group) is not None and not math.isnan(group.expected_loss):
        loss += f", where the curve gives {number(group.expected_loss)}"
    yield (
        f"Verified with {_count(found.runs, 'fresh seed')} at {number(found.lr)}: {found.failed} failed"
        f" (at most {found.most_failing:.0%} do, with 95% confidence){loss}."
    )


def _missing(report: LRReport, group: GroupReport) -> Iterator[str]:
    """Say what further runs would tell more."""
    if group.try_next and not math.isnan(group.recommended):
        why = {
            "low": "The best is the smallest learning rate that was tried, or allowed: extend the range with",
            "high": "The best is the largest learning rate that was tried, or allowed: extend the range with",
        }.get(group.end, "Fewer than five learning rates lie within a decade of the best: add")
        yield f"{why} {_override(report.key, group.try_next)}."
    if math.isnan(group.noise) and not math.isnan(group.best_loss):
        yield "One seed: what is seed noise and what is the learning rate cannot be told apart; add seed=0,1,2."


def _basin(report: LRReport, group: GroupReport) -> Iterator[str]:
    basin, slopes = group.basin, group.slopes
    if basin is None or len(group.rates) == 1:
        return
    if basin.decades < _NARROW and not (basin.is_low_open or basin.is_high_open):
        yield f"Near-optimal: none but {number(group.best_lr)} of those tried, the {report.loss} rises fast beside it."
        return
    least = "at least " if basin.is_low_open or basin.is_high_open else ""
    width = f"{least}{basin.decades:.2g} decades"
    level = f"the {report.loss} is at most {number(basin.level)} there"
    yield f"Near-optimal from {interval_text(basin)} ({width}): {level}."
    sides = [
        f"{what} {'makes runs fail' if math.isinf(rise) else _change(rise, group.best_loss)}"
        for what, rise in (("a third of it", slopes.lower), ("three times it", slopes.higher))
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
        rate = next(rate for rate in group.rates if rate.lr == group.best_lr)
        seeds = f"{len(rate.by_seed)} seeds with {number(rate.lr)}"
        yield f"Seed noise: standard deviation {number(group.noise)} over {seeds}."


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


def _left_out(group: GroupReport) -> Iterator[str]:
    if group.short_runs:
        yield f"{_count(group.short_runs, 'shorter run')} not in the curve; what failed in them counts."
    if group.unfinished:
        words = {"waiting": "not started"}
        counts = ", ".join(f"{count} {words.get(status, status)}" for status, count in group.unfinished.items())
        yield f"Without an end, and left out: {counts}."


def _comparison(report: LRReport, found: Comparison) -> str:
    """Say whether a difference is there."""
    better, other = (
        f"{name or 'the other'} at {report.key}={number(lr)}"
        for name, lr in zip((found.better, found.other), found.lrs, strict=True)
    )
    seeds = f"{_count(found.seeds, 'seed')}{' in common' if found.is_paired else ' each, none in common'}"
    difference = f"{report.loss} lower by {number(found.difference)}"
    if math.isnan(found.error):
        return f"{better} against {other}: {difference} with {seeds}, which shows no difference: add seeds."
    error = f"± {number(found.error)} (standard error)"
    sign = f", better with {found.wins} of {found.seeds}" if found.is_paired else ""
    sign += f", sign test p {number(found.p_sign, 2)}" if found.is_paired else ""
    shown = "the difference is there" if found.is_shown else "no difference shown"
    if found.is_shown and found.is_paired and found.p_sign > SIGNIFICANT and found.wins == found.seeds:
        shown += " by its standard error; for a sign test there are too few seeds"
    if found.is_cut:
        shown += f", as {found.other or 'the other'} may do better beyond what was tried"
    return f"{better} against {other}: {difference} {error} over {seeds}{sign}: {shown}."


def _override(key: str, lrs: tuple[float, ...]) -> str:
    return f"{key}={','.join(number(lr) for lr in lrs)}"


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
