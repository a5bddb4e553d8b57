"""The default search of a learning rate: which run to make next, given what the runs so far came to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from runner.finding.observed import Observed
from runner.finding.points import LRPoint, best_of, points_of

START_POINTS = 4
CLOSE_DECADES = 0.36  # neighbours of the best closer than this are not told apart by one seed: more seeds come next
_DECADES = 1.0  # on each side of the middle of what is typical
_DIGITS = 3


class Limits(NamedTuple):
    """What the search may do.

    Attributes:
        low: smallest learning rate to start with, > 0.
        high: largest, > low.
        may_extend: whether it may leave them when the best lies at an end.
        seed: of all runs but those that verify, which take the next ones.
        budget: updates of all runs but those that verify, in full runs.
        verify: number of fresh seeds at the recommendation.
        full_steps: updates of a full run.
    """

    low: float
    high: float
    may_extend: bool
    seed: int
    budget: float
    verify: int
    full_steps: int


class Ask(NamedTuple):
    """A full run that is wanted.

    Attributes:
        lr: base learning rate, in three digits.
        seed: the run's.
        purpose: grid, refine, seeds or verify.
    """

    lr: float
    seed: int
    purpose: str


def full_runs() -> Callable[[Sequence[Observed], Limits], list[Ask]]:
    """Return the procedure that `sampler=lr` names: `next_asks`."""
    return next_asks


def around(typical: tuple[float, float]) -> tuple[float, float]:
    """Return where to start: a decade on each side of the geometric middle of what is typical."""
    middle = math.sqrt(typical[0] * typical[1])
    return _rounded(middle / 10**_DECADES), _rounded(middle * 10**_DECADES)


def next_asks(seen: Sequence[Observed], limits: Limits) -> list[Ask]:
    """Return the runs to make next, those of a batch together; none when the budget is spent.

    Full runs only, all with one seed: `START_POINTS` over the bracket, evenly on a log scale; then, one by one, beyond
    the end at which the best lies, or half way between the best and its farther neighbour; when both neighbours are
    close, more seeds at the best and its neighbours. A run that breaks down costs what it made and tells where the
    edge is; one that failed otherwise tells nothing, and is not made again. Nothing is remembered but the runs: a
    search that was killed goes on from them.

    Args:
        seen: all runs that ended, those that verify included.
        limits: of the search.
    """
    tried = [one for one in seen if one.purpose != "verify"]
    if not tried:
        return [Ask(lr, limits.seed, "grid") for lr in _start(limits)]
    if spent(tried, limits) + 0.95 > limits.budget:
        return []
    points, made = points_of(tried), {one.lr for one in tried}
    if not points:
        return []
    wanted = _outside(points, limits) or _between(points)
    if wanted is not None and _rounded(wanted) not in made:
        return [Ask(_rounded(wanted), limits.seed, "refine")]
    return _seeds(points, tried, limits)


def verify_asks(seen: Sequence[Observed], lr: float, limits: Limits) -> list[Ask]:
    """Return the runs with fresh seeds at the recommendation that have not been made."""
    made = {one.seed for one in seen if one.purpose == "verify" and one.lr == lr}
    used = max([limits.seed, *(one.seed for one in seen if one.purpose != "verify")])
    return [Ask(lr, seed, "verify") for seed in range(used + 1, used + 1 + limits.verify) if seed not in made]


def spent(runs: Sequence[Observed], limits: Limits) -> float:
    """Return the updates of runs, in full runs."""
    return math.fsum(one.steps for one in runs) / limits.full_steps


def _start(limits: Limits) -> list[float]:
    ratio = limits.high / limits.low
    return [_rounded(limits.low * ratio ** (nth / (START_POINTS - 1))) for nth in range(START_POINTS)]


def _outside(points: Sequence[LRPoint], limits: Limits) -> float | None:
    """Return the next learning rate beyond the end at which the best lies; None where it does not, or may not."""
    best = best_of(points)
    low, high = (0.0, math.inf) if limits.may_extend else (limits.low, limits.high)
    step = (limits.high / limits.low) ** (1 / (START_POINTS - 1))
    if best is None or best.lr == points[0].lr:
        wanted = points[0].lr / step
        return wanted if wanted >= low / 1.01 else None
    if best.lr == points[-1].lr:
        wanted = best.lr * step
        return wanted if wanted <= high * 1.01 else None
    return None


def _between(points: Sequence[LRPoint]) -> float | None:
    """Return the middle of the wider gap beside the best, of two alike the better side; None where both are close."""
    best = best_of(points)
    if best is None:
        return None
    place = points.index(best)
    below = points[place - 1] if place > 0 else None
    above = points[place + 1] if place + 1 < len(points) else None
    gaps = [(math.log10(best.lr / below.lr), -below.mean, below.lr)] if below is not None else []
    gaps += [(math.log10(above.lr / best.lr), -_mean(above), above.lr)] if above is not None else []
    if not gaps:
        return None
    gap, _, other = max(gaps, key=lambda gap: (round(10 * gap[0]), gap[1]))
    return math.sqrt(best.lr * other) if gap > CLOSE_DECADES else None


def _mean(point: LRPoint) -> float:
    return point.mean if point.is_sound else math.inf


def _seeds(points: Sequence[LRPoint], runs: Sequence[Observed], limits: Limits) -> list[Ask]:
    """Return one more seed: at the best or a neighbour, whichever has fewest."""
    best = best_of(points)
    if best is None:
        return []
    place = points.index(best)
    near = [best, *points[place + 1 : place + 2], *points[max(place - 1, 0) : place]]
    chosen = min((point for point in near if point.is_sound), key=lambda point: len(point.losses))
    seeds = [one.seed for one in runs if one.lr == chosen.lr]
    return [
        Ask(chosen.lr, next(s for s in range(limits.seed, limits.seed + len(seeds) + 1) if s not in seeds), "seeds")
    ]


def _rounded(lr: float) -> float:
    return float(f"{lr:.{_DIGITS}g}")
