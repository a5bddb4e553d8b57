"""The search space: dotted keys with Hydra's own words for what they may be, as dimensions.

`interval(1e-5,1)`, `tag(linear,interval(0,1))`, `int(interval(1,8))`, `tag(int,log,interval(16,512))`, `range(1,4)`
(1, 2, 3: as everywhere in Hydra the end is left out), `choice(sgd,adamw)`, `a,b,c`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep

from runner.errors import ConfigError, Problem
from runner.search.dimension import Dimension, is_on_log_scale
from runner.search.overrides import read_overrides

_TAGS = ("float", "int", "linear", "log")
_EXAMPLE = "interval(1e-5,1)"


Space = Mapping[str, Dimension]


def read_space(overrides: Iterable[str], *, config_loader: ConfigLoader | None = None) -> dict[str, Dimension]:
    """Return the dimensions of overrides such as "optimizer.lr=interval(1e-5,1)", by key; the last of a key counts.

    Raises:
        ConfigError: with everything wrong in them.
    """
    found: dict[str, Dimension] = {}
    given, problems = read_overrides(overrides, _unreadable, config_loader=config_loader)
    for one in given:
        try:
            found[one.key] = _dimension(one.key, one.value, one.override)
        except _WrongError as wrong:
            rule, fix = wrong.args
            problems.append(Problem(one.key, f"{rule}, got {one.value or 'nothing'}", fix))
    if problems:
        raise ConfigError(problems)
    return found


def _unreadable(key: str, given: str) -> Problem:
    rule = f"must be {_EXAMPLE}, choice(a,b), range(1,4) or a list, got {given}"
    return Problem(key, rule, f"Write it as {_EXAMPLE}")


def space_of(given: Mapping[str, Any]) -> list[str]:
    """Return `search.space` as overrides; a list of YAML is a choice."""
    texts = {key: ",".join(map(str, value)) if isinstance(value, list) else value for key, value in given.items()}
    return [f"{key}={value}" for key, value in texts.items()]


def corners(space: Space) -> list[dict[str, str]]:
    """Return the points that tell whether a space is sound: its base, and each other end with the rest at the base.

    Returns:
        key -> value as on the command line; the base, the first end of every dimension, comes first.
    """
    base = {key: dimension.ends[0] for key, dimension in space.items()}
    return [base, *({**base, key: end} for key, dimension in space.items() for end in dimension.ends[1:])]


def grid_of(space: Space, key: str) -> dict[str, list[Any]]:
    """Return all values of every dimension.

    Args:
        key: dotted key of the sampler, for messages.
    Raises:
        ConfigError: a dimension has no list of values.
    """
    uncounted = [dimension for dimension in space.values() if dimension.values is None]
    if uncounted:
        rule = "must be a list or a range for sampler=grid"
        problems = [
            Problem(one.key, f"{rule}, got {one.text}", f"Give values, or set {key.replace('.', '/')}=tpe")
            for one in uncounted
        ]
        raise ConfigError(problems)
    return {key: dimension.values or [] for key, dimension in space.items()}


class _WrongError(Exception):
    """What is wrong with one dimension: the rule, and the fix."""


def _dimension(key: str, given: str, override: Override) -> Dimension:
    value, prefix = override.value(), override.input_line or ""
    prefix = prefix[: len(prefix) - len(prefix.lstrip("+"))]
    if not override.is_sweep_override():
        raise _WrongError(
            f"must be what may vary, such as {_EXAMPLE}, choice(a,b) or range(1,4)", f"Give {key} a range"
        )
    if isinstance(value, IntervalSweep | RangeSweep):
        _check_tags(value.tags)
    if isinstance(value, IntervalSweep):
        return _interval(key, prefix, given, value)
    if isinstance(value, RangeSweep) and not value.shuffle:
        return _range(key, prefix, given, value)
    choices = tuple(dict.fromkeys(override.sweep_string_iterator()))
    if len(choices) < 2:
        wants = "must have at least two values"
        raise _WrongError(wants, "Give more, or leave the key out of what varies: one value is given without choice()")
    if isinstance(value, ChoiceSweep) and (
        wrong := [text for text in choices if text.lower() in ("nan", "inf", "-inf")]
    ):
        raise _WrongError("must hold finite numbers", f"Leave {wrong[0]} out")
    return Dimension(key, prefix, given, "choice", choices=choices)


def _check_tags(tags: Iterable[str]) -> None:
    unknown = sorted(set(tags) - set(_TAGS))
    if unknown or {"log", "linear"} <= set(tags):
        raise _WrongError("must have tags of log or linear, int or float", "Write it as tag(log,interval(1e-5,1))")


def _interval(key: str, prefix: str, given: str, value: IntervalSweep) -> Dimension:
    low, high = value.start, value.end
    assert low is not None
    assert high is not None
    if not (math.isfinite(low) and math.isfinite(high)):
        raise _WrongError("must have finite bounds", f"Write it as {_EXAMPLE}")
    if not low < high:
        swapped = f"interval({high:g},{low:g})"
        raise _WrongError(
            "must have its low bound below its high one", f"Write {swapped}" if high < low else "Widen it"
        )
    is_int = "int" in value.tags or type(low) is int
    if is_int and (low != int(low) or high != int(high)):
        raise _WrongError("must have whole numbers for bounds", f"Write tag(int,interval({low:.0f},{high:.0f}))")
    is_log = "log" in value.tags or ("linear" not in value.tags and is_on_log_scale(key))
    if is_log and low <= 0:
        fix = f"Raise the low bound, or write tag(linear,interval({low:g},{high:g}))"
        raise _WrongError("must have bounds > 0 on a log scale", fix)
    return Dimension(key, prefix, given, "int" if is_int else "float", low, high, is_log=is_log)


def _range(key: str, prefix: str, given: str, value: RangeSweep) -> Dimension:
    start, stop, step = value.start, value.stop, value.step
    assert start is not None
    assert stop is not None
    if not all(map(math.isfinite, (start, stop, step))):
        raise _WrongError("must have finite bounds and step", "Write it as range(1,4)")
    count = math.ceil((stop - start) / step - 1e-9) if step else 0
    if count < 2:
        raise _WrongError("must have at least two values, its end is left out", "Widen it")
    if "log" in value.tags:
        raise _WrongError("must be linear, for its steps are equal", "Leave the tag out, or list the values")
    low, high = sorted((start, start + (count - 1) * step))
    is_int = all(type(number) is int for number in (start, stop, step)) and "float" not in value.tags
    return Dimension(key, prefix, given, "int" if is_int else "float", low, high, step=abs(step))


def varied_texts(space: Space, params: Mapping[str, Any]) -> dict[str, str]:
    """Return parameters of a trial as on the command line; those of a search-space function of the user's too."""
    return {key: space[key].written(value) if key in space else _plain(value) for key, value in params.items()}


def _plain(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def split_overrides(arguments: Sequence[str], *, config_loader: ConfigLoader) -> tuple[list[str], list[str]]:
    """Return the overrides that are fixed and those that vary; the last of a key counts.

    Raises:
        ConfigError: some cannot be read.
    """
    from runner.compose import not_an_override  # a long way, that only this takes

    given, problems = read_overrides(arguments, not_an_override, config_loader=config_loader)
    if problems:
        raise ConfigError(problems)
    last = {one.override.get_key_element().lstrip("+"): one for one in given}.values()
    fixed = [one.text for one in last if not one.override.is_sweep_override()]
    return fixed, [one.text for one in last if one.override.is_sweep_override()]
