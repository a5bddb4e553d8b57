"""The points of mode=sweep: the grid of `sweep.space`, or one of learning rates around where the best is expected."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from runner.config_search import SweepSection
from runner.curves import number
from runner.errors import ConfigError, Problem
from runner.search.dimension import Dimension
from runner.search.space import read_space, space_of
from runner.sweep_summary import SEED
from runner.trials.bounds import Bounds

_PER_DECADE = 2


def grid(sweep: SweepSection, lr_key: str, ends: Callable[[], Bounds], *, seed: int) -> list[dict[str, str]]:
    """Return the points as dotted keys and values, the last key varying fastest, and the seed faster than that.

    Args:
        sweep: its section.
        lr_key: dotted key of the learning rate.
        ends: returns between which learning rates the grid lies; called where there is no space, and nothing is wrong.
        seed: the first one.
    Raises:
        ConfigError: with all that is wrong with them.
    """
    problems = list[Problem]()
    values: dict[str, Sequence[str]] = {}
    if sweep.space:
        for text in space_of(sweep.space):
            try:
                values |= {key: _listed(dimension, problems) for key, dimension in read_space([text]).items()}
            except ConfigError as error:
                problems += error.problems
    if sweep.seeds > 1 and SEED in values:
        rule = f"must be 1 where sweep.space varies the seed, got {sweep.seeds}"
        problems.append(Problem("sweep.seeds", rule, "Leave one of them out"))
    if problems:
        raise ConfigError(problems)
    if not sweep.space:
        values[lr_key] = _rates(ends(), sweep.points)
    if sweep.seeds > 1:
        values[SEED] = [str(seed + nth) for nth in range(sweep.seeds)]
    return [dict(zip(values, texts, strict=True)) for texts in itertools.product(*values.values())]


def _listed(dimension: Dimension, problems: list[Problem]) -> list[str]:
    values = dimension.values
    if values is None:
        rule = f"must be a list or a range in mode=sweep, got {dimension.text}"
        problems.append(Problem(dimension.key, rule, "Give its values, or set mode=search"))
        return []
    return [dimension.written(value) for value in values]


def _rates(ends: Bounds, points: int | None) -> list[str]:
    """Return learning rates, evenly on a log scale, as on the command line."""
    return spaced(ends.low, ends.high, points or max(2, round(_PER_DECADE * math.log10(ends.high / ends.low)) + 1))


def spaced(low: float, high: float, points: int) -> list[str]:
    """Return numbers evenly on a log scale, both ends included, as short as they can be told apart.

    value(i) = low * (high / low) ** (i / (points - 1))
    """
    values = [low * (high / low) ** (nth / (points - 1)) for nth in range(points)]
    texts = list[str]()
    for digits in (3, 6, 17):
        texts = [number(value, digits) for value in values]
        if len({float(text) for text in texts}) == points:
            break
    return texts
