"""The default search of a learning rate, run by run, and its verification with fresh seeds."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from runner.config import Config
from runner.curves import number
from runner.errors import ConfigError, Problem
from runner.finding.observed import Observed
from runner.finding.points import points_of
from runner.finding.procedure import Ask, Limits, is_begun, next_asks, verify_asks
from runner.finding.recommend import recommend
from runner.rates import steps_of
from runner.search.dimension import Dimension
from runner.search.goals import goals_of
from runner.search.known import Mlflow, find_known, observed_of, sort_out
from runner.sweep_summary import PURPOSE_TAG, SEED
from runner.tracking.sweep_observed import find_known_runs, write_known
from runner.trials.bounds import Bounds

if TYPE_CHECKING:
    from runner.trials.trials import Trials

_VERIFICATIONS = 2  # when fresh seeds break down, the recommendation moves once and is verified again
_KEY = "search.known"


def find_lr(config: Config, bounds: Callable[[], Bounds], evaluate: Trials) -> None:
    """Make the runs of the search, and those that verify what it recommends; a signal ends it.

    Args:
        config: checked.
        bounds: returns where to search; called where not enough is known to go on from.
        evaluate: makes runs.
    Raises:
        ConfigError: the search cannot begin; nothing has started and nothing is written.
    """
    key, steps = config.optimizer.lr_key, steps_of(config)
    seen = _known(config, evaluate, steps)
    limits = _limits(config, None if is_begun(seen) else bounds(), steps)
    if not (asks := next_asks(seen, limits)):
        tried = ", ".join(sorted({number(one.lr) for one in seen}))
        rule = f"must leave something to try, but runs are known to have failed at {tried}"
        raise ConfigError([Problem("search.low", rule, "Lower it")])
    if seen:
        evaluate.open()
        write_known(evaluate.directory, seen)
    while asks:
        seen += evaluate([_point(ask, key) for ask in asks])
        if evaluate.signal is not None:
            return
        asks = next_asks(seen, limits)
    points = points_of(seen)
    for _ in range(_VERIFICATIONS):
        lr = recommend(points, points_of(seen), safety=limits.safety).lr
        if math.isnan(lr):  # some run failed at every rate
            return
        fresh = evaluate([_point(ask, key) for ask in verify_asks(seen, lr, limits)])
        seen += fresh
        if evaluate.signal is not None or not any(one.has_failed for one in fresh):
            return


def _limits(config: Config, bounds: Bounds | None, steps: int) -> Limits:
    """Return where the search begins, what it does not leave, and what it may still cost."""
    search, middle = config.search, bounds.middle if bounds is not None else math.nan
    budget = search.budget - (bounds.cost if bounds is not None else 0.0)
    low, high = search.low or 0.0, search.high or math.inf
    return Limits(middle, low, high, config.seed, budget, search.verify, steps, search.safety)


def _point(ask: Ask, key: str) -> dict[str, str]:
    return {key: number(ask.lr, 7), SEED: str(ask.seed), PURPOSE_TAG: ask.purpose}


def _known(config: Config, evaluate: Trials, steps: int) -> list[Observed]:
    """Return the earlier runs that differ in the learning rate and the seed only, as the search first found them."""
    if not config.search.known:
        return []
    if (written := find_known_runs(evaluate.directory)) is not None:
        return written
    key, [metric] = config.optimizer.lr_key, goals_of(config, [], [], section="search")[0]
    runs = find_known(config.search.known, Mlflow(config.tracking.uri, evaluate.experiment), key=_KEY)
    low, high = config.search.low or sys.float_info.min, config.search.high or sys.float_info.max
    space = {key: Dimension(key, "", f"interval({low},{high})", "float", low, high)}
    known, sentence = sort_out(runs, space, [metric], evaluate.page_of)
    print(sentence, file=sys.stderr)
    return observed_of(known, key, steps=steps)
