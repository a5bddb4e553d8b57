"""The default search of a learning rate, run by run, and its verification with fresh seeds."""

from __future__ import annotations

from runner.config import Config
from runner.config_search import SearchSection
from runner.curves import number
from runner.errors import ConfigError, Problem
from runner.finding.observed import Observed
from runner.finding.points import points_of
from runner.finding.procedure import Ask, Limits, around, next_asks, verify_asks
from runner.finding.recommend import recommend
from runner.rates import plan_of
from runner.trials.point import Point
from runner.trials.trials import Trials

LR, D_COEF = "optimizer.lr", "optimizer.d_coef"
_VERIFICATIONS = 2  # when fresh seeds break down, the recommendation moves once and is verified again


def limits_of(config: Config) -> Limits:
    """Return where the search begins and what it may cost.

    `search.low` and `search.high` bound it; where one is null, what is typical for the optimizer says where to begin.

    Raises:
        ConfigError: the bounds cross, or nothing says where to begin.
    """
    search, typical = config.search, config.optimizer.typical
    low, high = around(getattr(typical, config.task.regime)) if typical is not None else (None, None)
    low, high = search.low or low, search.high or high
    if low is None or high is None:
        name = "low" if low is None else "high"
        rule = f"must be given for an optimizer without typical learning rates, got null with {config.optimizer.target}"
        raise ConfigError([Problem(f"search.{name}", rule, "Run mode=range_test for a bracket")])
    if low >= high:
        raise ConfigError([_crossed(search, low, high)])
    is_bound = search.low is not None and search.high is not None
    steps = plan_of(config).steps
    return Limits(low, high, not is_bound, config.seed, search.budget, search.verify, steps)


def _crossed(search: SearchSection, low: float, high: float) -> Problem:
    name, other = ("low", "high") if search.low is not None else ("high", "low")
    side, bound = ("below", high) if name == "low" else ("above", low)
    where = "" if getattr(search, other) is not None else ", which is typical for the optimizer"
    rule = f"must be {side} search.{other}={number(bound)}{where}, got {number(getattr(search, name))}"
    return Problem(f"search.{name}", rule, "Set search.low and search.high")


def find_lr(config: Config, limits: Limits, evaluate: Trials) -> None:
    """Make the runs of the search, and those that verify what it recommends; a signal ends it."""
    key = LR if config.optimizer.d_coef is None else D_COEF
    seen: list[Observed] = []
    while asks := next_asks(seen, limits):
        seen += evaluate([_point(ask, key) for ask in asks])
        if evaluate.signal is not None:
            return
    points = points_of(seen)
    for _ in range(_VERIFICATIONS if any(point.losses for point in points) else 0):
        lr = recommend(points, points_of(seen)).lr
        fresh = evaluate([_point(ask, key) for ask in verify_asks(seen, lr, limits)])
        seen += fresh
        if evaluate.signal is not None or not any(one.has_failed for one in fresh):
            return


def _point(ask: Ask, key: str) -> Point:
    return Point({key: number(ask.lr), "seed": str(ask.seed), "tags.purpose": ask.purpose})
