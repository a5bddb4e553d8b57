"""The default search of a learning rate: which run to make next, given what the runs so far came to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from runner.finding.failures import SAFE_RATIO
from runner.finding.observed import KNOWN, SEEDS, START, STEP, VERIFY, Observed
from runner.finding.points import LRPoint, best_of, points_of
from runner.finding.recommend import recommend, rounded

STEP_DECADES = 0.5  # between neighbours; closer ones are not told apart by one seed
_LEAP_DECADES = 1.0  # where nothing is learned yet, or nothing but broke down
_MOST_DECADES = 6.0  # that are tried where all broke down
_ROOM = 1.2  # of a step: a gap is no wider than that, give or take the rounding of its ends
_EDGE_DECADES = 0.35  # between the largest stable rate and the smallest failing one, where these bound the answer
_LEARNED = 0.1  # share of the first loss that is gained before steps are small


class Limits(NamedTuple):
    """What the search may do.

    Attributes:
        middle: learning rate to start around, > 0.
        low, high: learning rates that it does not leave; 0 and inf do not bound it.
        seed: of all runs but those that verify, which take the next ones.
        budget: updates of all runs but those that verify, in full runs.
        verify: number of fresh seeds at the recommendation.
        full_steps: updates of a full run.
        safety: distance of the recommendation from where runs fail, >= 1.
    """

    middle: float
    low: float
    high: float
    seed: int
    budget: float
    verify: int
    full_steps: int
    safety: float = SAFE_RATIO


class Ask(NamedTuple):
    """A full run that is wanted.

    Attributes:
        lr: base learning rate, in three digits, or a bound.
        seed: the run's.
        purpose: start, step, seeds or verify.
    """

    lr: float
    seed: int
    purpose: str


def full_runs() -> Callable[[Sequence[Observed], Limits], list[Ask]]:
    """Return the procedure that `sampler=lr` names: `next_asks`."""
    return next_asks


def next_asks(seen: Sequence[Observed], limits: Limits) -> list[Ask]:
    """Return the runs to make next, those of a batch together; none when the budget is spent.

    Full runs only. Two begin, half a decade apart around the middle; then, one by one, the next half decade beyond the
    end at which the best lies, until it has a worse neighbour on each side; then, where the largest stable rate bounds
    the recommendation, the middle between it and the smallest failing one, until they are 0.35 decades apart; then one
    more seed at the best or a neighbour, whichever has fewest, or the middle of a gap where seeds make no difference.
    While nothing has learned, or everything broke down, a step is a decade, and the gap is halved later. A run that
    breaks down costs what it made and tells where the edge is; one that failed otherwise tells nothing, and is not made
    again. Where every run breaks down it ends within six decades, or at once where they do so before
    their first update, which no learning rate causes. Nothing is remembered but the runs: a search that was killed goes
    on from them.

    Args:
        seen: all runs that ended, those that verify and those that were known before included.
        limits: of the search.
    """
    tried = [one for one in seen if one.purpose != VERIFY]
    if not is_begun(tried):
        had = {(one.lr, one.seed) for one in tried}
        return [Ask(lr, limits.seed, START) for lr in _start(limits) if (lr, limits.seed) not in had]
    if spent(tried, limits) + 0.95 > limits.budget:
        return []
    points, made = points_of(tried), {one.lr for one in tried}
    if not points or is_hopeless(tried):
        return []
    wanted = _outside(points, tried, limits) or _between(points) or _at_edge(points, limits.safety)
    if wanted is not None and (lr := _inside(wanted, limits)) not in made:
        return [Ask(lr, limits.seed, STEP)]
    return _seeds(points, tried, limits)


def is_begun(seen: Sequence[Observed]) -> bool:
    """Whether there is something to go on from: a run of this search, or two learning rates known from earlier ones."""
    return any(one.purpose != KNOWN for one in seen) or len({one.lr for one in seen}) > 1


def is_hopeless(runs: Sequence[Observed]) -> bool:
    """Whether all runs that ended broke down before their first update."""
    ended = [one for one in runs if one.status == "finished" or one.has_failed]
    return bool(ended) and all(one.has_failed and one.steps == 0 < one.planned_steps for one in ended)


def verify_asks(seen: Sequence[Observed], lr: float, limits: Limits) -> list[Ask]:
    """Return the runs with fresh seeds at the recommendation that have not been made."""
    made = {one.seed for one in seen if one.purpose == VERIFY and one.lr == lr}
    used = max([limits.seed, *(one.seed for one in seen if one.purpose != VERIFY)])
    return [Ask(lr, seed, VERIFY) for seed in range(used + 1, used + 1 + limits.verify) if seed not in made]


def spent(runs: Sequence[Observed], limits: Limits) -> float:
    """Return the updates of the runs that were made, in full runs.

    One that failed otherwise than by diverging counts as a whole one: where nothing can be trained there is an end.
    """
    whole = limits.full_steps
    made = (whole if one.status == "failed" else one.steps for one in runs if one.purpose != KNOWN)
    return math.fsum(made) / whole


def _start(limits: Limits) -> list[float]:
    half = 10 ** (STEP_DECADES / 2)
    ends = max(limits.middle / half, limits.low), min(limits.middle * half, limits.high)
    return list(dict.fromkeys(_inside(lr, limits) for lr in ends))


def _inside(lr: float, limits: Limits) -> float:
    """Return a rate in three digits, or the bound that it would leave by that."""
    return min(max(rounded(lr), limits.low), limits.high)


def _outside(points: Sequence[LRPoint], runs: Sequence[Observed], limits: Limits) -> float | None:
    """Return the next learning rate beyond the end at which the best lies; None where it does not, or may not."""
    best = best_of(points)
    if best is None:
        wanted = points[0].lr / 10**_LEAP_DECADES
        if wanted * 10**_MOST_DECADES < points[-1].lr:
            return None
    elif best.lr == points[0].lr and (len(points) > 1 or best.lr > limits.low):
        wanted = best.lr / 10**STEP_DECADES
    elif best.lr == points[-1].lr:
        first = max((one.first_loss for one in runs if math.isfinite(one.first_loss)), default=math.inf)
        lowest = min([best.mean, *(o.best_loss for o in runs if o.lr == best.lr and math.isfinite(o.best_loss))])
        is_learning = lowest < (1 - _LEARNED) * first
        wanted = best.lr * 10 ** (STEP_DECADES if is_learning else _LEAP_DECADES)
    else:
        return None
    bounded = min(max(wanted, limits.low), limits.high)
    return None if points[0].lr <= bounded <= points[-1].lr else bounded


def _between(points: Sequence[LRPoint]) -> float | None:
    """Return the middle of the wider gap beside the best, where it is wider than a step or seeds make no difference."""
    best = best_of(points)
    if best is None:
        return None
    place = points.index(best)
    beside = [*points[max(place - 1, 0) : place], *points[place + 1 : place + 2]]
    other = max(beside, key=lambda point: abs(math.log(point.lr / best.lr)), default=best)
    is_wide = abs(math.log10(other.lr / best.lr)) > _ROOM * STEP_DECADES
    are_alike = len(best.losses) > 1 and len(set(best.losses)) == 1
    return math.sqrt(best.lr * other.lr) if is_wide or are_alike else None


def _at_edge(points: Sequence[LRPoint], safety: float) -> float | None:
    """Return the middle of the gap between stable and failing rates, where it bounds the recommendation and is wide."""
    advice = recommend(points, points, safety=safety)
    edge = advice.edge
    is_wide = advice.is_capped and math.log10(edge.first_failing / edge.stable) > _EDGE_DECADES
    return math.sqrt(edge.stable * edge.first_failing) if is_wide else None


def _seeds(points: Sequence[LRPoint], runs: Sequence[Observed], limits: Limits) -> list[Ask]:
    """Return one more seed: at the best or a neighbour, whichever has fewest."""
    best = best_of(points)
    if best is None:
        return []
    place = points.index(best)
    near = [best, *points[place + 1 : place + 2], *points[max(place - 1, 0) : place]]
    chosen = min((point for point in near if point.is_sound), key=lambda point: len(point.losses))
    seeds = [one.seed for one in runs if one.lr == chosen.lr]
    return [Ask(chosen.lr, next(s for s in range(limits.seed, limits.seed + len(seeds) + 1) if s not in seeds), SEEDS)]
