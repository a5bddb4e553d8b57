"""The points of mode=sweep: the grid of `sweep.space`, or one of learning rates around what is typical."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from runner.config import OptimizerNode
from runner.config_search import SweepSection
from runner.curves import number
from runner.errors import ConfigError, Problem
from runner.search.space import Dimension, read_space, space_of
from runner.sweep_summary import SEED
from runner.trials.point import Point

_DECADES_BEYOND = 1.0  # on each side of what is typical
_PER_DECADE = 2
_BOUNDS = ("low", "high", "points")


def grid(sweep: SweepSection, optimizer: OptimizerNode, *, regime: str, seed: int) -> list[Point]:
    """Return the points, the last key varying fastest, and the seed faster than that.

    Args:
        sweep: its section.
        optimizer: whose learning rates are meant.
        regime: from_scratch or fine_tune, which typical rates apply.
        seed: the first one.
    Raises:
        ConfigError: with all that is wrong with them.
    """
    problems = list[Problem]()
    values: dict[str, Sequence[str]] = {}
    if sweep.space:
        problems += [_beside_space(name, sweep) for name in _BOUNDS if getattr(sweep, name) is not None]
        for text in space_of(sweep.space):
            try:
                values |= {key: _listed(dimension, problems) for key, dimension in read_space([text]).items()}
            except ConfigError as error:
                problems += error.problems
    else:
        values[optimizer.lr_key] = _rates(sweep, optimizer, regime, problems)
    if sweep.seeds > 1 and SEED in values:
        rule = f"must be 1 where sweep.space varies the seed, got {sweep.seeds}"
        problems.append(Problem("sweep.seeds", rule, "Leave one of them out"))
    if problems:
        raise ConfigError(problems)
    if sweep.seeds > 1:
        values[SEED] = [str(seed + nth) for nth in range(sweep.seeds)]
    return [Point(dict(zip(values, texts, strict=True))) for texts in itertools.product(*values.values())]


def _listed(dimension: Dimension, problems: list[Problem]) -> list[str]:
    values = dimension.values
    if values is None:
        rule = f"must be a list or a range in mode=sweep, got {dimension.text}"
        problems.append(Problem(dimension.key, rule, "Give its values, or set mode=search"))
        return []
    return [dimension.written(value) for value in values]


def _beside_space(name: str, sweep: SweepSection) -> Problem:
    rule = f"must be null with sweep.space, got {getattr(sweep, name):g}"
    return Problem(f"sweep.{name}", rule, "Give the values there, or leave sweep.space out")


def _rates(sweep: SweepSection, optimizer: OptimizerNode, regime: str, problems: list[Problem]) -> list[str]:
    """Return learning rates, evenly on a log scale, as on the command line."""
    low, high = _ends(sweep, optimizer, regime)
    for name, value in (("low", low), ("high", high)):
        if value is None:
            rule = f"must be given for an optimizer without typical learning rates, got null with {optimizer.target}"
            problems.append(Problem(f"sweep.{name}", rule, f"Set sweep.{name}={'1e-4' if name == 'low' else '1'}"))
    if low is None or high is None:
        return []
    if not low < high:
        name, other = ("low", "high") if sweep.low is not None else ("high", "low")
        side, bound = ("below", high) if name == "low" else ("above", low)
        where = "" if getattr(sweep, other) is not None else ", which goes with what is typical for the optimizer"
        rule = f"must be {side} sweep.{other}={number(bound)}{where}, got {getattr(sweep, name):g}"
        problems.append(Problem(f"sweep.{name}", rule, f"Set sweep.{name} and sweep.{other}"))
        return []
    points = sweep.points or max(2, round(_PER_DECADE * math.log10(high / low)) + 1)
    return spaced(low, high, points)


def _ends(sweep: SweepSection, optimizer: OptimizerNode, regime: str) -> tuple[float | None, float | None]:
    low, high = sweep.low, sweep.high
    if optimizer.typical is not None:
        usual = getattr(optimizer.typical, regime)
        low = low if low is not None else _half_decade(math.log10(usual[0]) - _DECADES_BEYOND)
        high = high if high is not None else _half_decade(math.log10(usual[1]) + _DECADES_BEYOND)
    return low, high


def _half_decade(exponent: float) -> float:
    """Return the nearest of 0.1, 0.316, 1, 3.16 ..."""
    return float(10 ** (round(2 * exponent) / 2))


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
