"""The default search of a learning rate, run by run, and its verification with fresh seeds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from runner.config import Config
from runner.curves import number
from runner.errors import ConfigError, Problem
from runner.finding.observed import Observed
from runner.finding.points import points_of
from runner.finding.procedure import Ask, Limits, middle_of, next_asks, verify_asks
from runner.finding.recommend import recommend
from runner.rates import plan_of
from runner.trials.point import Point

if TYPE_CHECKING:
    from runner.trials.trials import Trials

_VERIFICATIONS = 2  # when fresh seeds break down, the recommendation moves once and is verified again


def bounds_of(config: Config) -> tuple[float, float]:
    """Return the learning rates to search between: as given, or a decade beyond what is typical.

    Raises:
        ConfigError: the bounds cross, or nothing says where they are.
    """
    search, typical = config.search, _typical(config)
    low, high = search.low, search.high
    if low is not None and high is not None and low >= high:
        rule = f"must be below search.high={number(high)}, got {number(low)}"
        raise ConfigError([Problem("search.low", rule, "Change one of them")])
    if typical is None and (low is None or high is None):
        name = "low" if low is None else "high"
        rule = f"must be given for an optimizer without typical learning rates, got null with {config.optimizer.target}"
        raise ConfigError([Problem(f"search.{name}", rule, "Run mode=range_test for a bracket")])
    lowest = low or min(typical[0] if typical else math.inf, high or math.inf) / 10
    highest = high or max(typical[1] if typical else 0.0, low or 0.0) * 10
    return lowest, highest


def limits_of(config: Config) -> Limits:
    """Return where the default procedure begins, what it does not leave, and what it may cost.

    Raises:
        ConfigError: the bounds cross, or nothing says where to begin.
    """
    search, middle = config.search, middle_of(*bounds_of(config), _typical(config))
    low, high, steps = search.low or 0.0, search.high or math.inf, plan_of(config).steps
    return Limits(middle, low, high, config.seed, search.budget, search.verify, steps, search.safety)


def _typical(config: Config) -> tuple[float, float] | None:
    known = config.optimizer.typical
    found: tuple[float, float] | None = getattr(known, config.task.regime) if known is not None else None
    return found


def find_lr(config: Config, limits: Limits, evaluate: Trials) -> None:
    """Make the runs of the search, and those that verify what it recommends; a signal ends it."""
    key = config.optimizer.lr_key
    seen: list[Observed] = []
    while asks := next_asks(seen, limits):
        seen += evaluate([_point(ask, key) for ask in asks])
        if evaluate.signal is not None:
            return
    points = points_of(seen)
    for _ in range(_VERIFICATIONS if any(point.losses for point in points) else 0):
        lr = recommend(points, points_of(seen), safety=limits.safety).lr
        fresh = evaluate([_point(ask, key) for ask in verify_asks(seen, lr, limits)])
        seen += fresh
        if evaluate.signal is not None or not any(one.has_failed for one in fresh):
            return


def _point(ask: Ask, key: str) -> Point:
    return Point({key: number(ask.lr), "seed": str(ask.seed), "tags.purpose": ask.purpose})
