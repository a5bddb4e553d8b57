"""How parameters are named: patterns on their dotted names, and which module is the head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated

from annotated_types import MinLen
from torch import nn

from runner.errors import ConfigError, Problem, nearest
from runner.tasks.described import listed

Pattern = Annotated[str, MinLen(1)]
"""A dotted name of a parameter or of a module above it, with the wildcards *, ? and [...]; * also stands for dots."""

Patterns = Pattern | Annotated[Sequence[Pattern], MinLen(1)]
"""One pattern, or several of which one has to fit."""

SHOWN = 10


def as_list(patterns: str | Sequence[str]) -> list[str]:
    """Return one or several as a list."""
    return [patterns] if isinstance(patterns, str) else list(patterns)


def fits(name: str, patterns: str | Sequence[str]) -> bool:
    """Whether a pattern fits a parameter, or a module that it lies in: "head" and "head.*" both fit "head.weight"."""
    return any(fnmatchcase(name, p) or fnmatchcase(name, f"{p}.*") for p in as_list(patterns))


def fitting(key: str, patterns: str | Sequence[str], model: nn.Module) -> dict[str, nn.Parameter]:
    """Return name -> parameter of what patterns fit.

    Raises:
        ConfigError: one of them fits nothing; `key` is where it is written.
    """
    parameters = dict(model.named_parameters())
    if problems := [nothing(key, p, parameters) for p in as_list(patterns) if not any(fits(n, p) for n in parameters)]:
        raise ConfigError(problems)
    return {name: parameter for name, parameter in parameters.items() if fits(name, patterns)}


def nothing(key: str, pattern: str, parameters: Mapping[str, nn.Parameter]) -> Problem:
    """Return the problem of a pattern that fits no parameter."""
    modules = dict.fromkeys(".".join(n.split(".")[:i]) for n in parameters for i in range(1, n.count(".") + 1))
    close = nearest(pattern.rstrip("*").rstrip("."), [*modules, *parameters])
    fix = f"Did you mean {close}" if close else f"There are {listed(parameters, most=SHOWN)}"
    return Problem(key, f"must fit a parameter of the model, got {pattern!r}, which fits none", fix)


def head_of(key: str, model: nn.Module) -> dict[str, nn.Parameter]:
    """Return name -> parameter of the head: the last module that has a matrix or a kernel of its own.

    Raises:
        ConfigError: there is none; `key` is where it could be named.
    """
    owners = [name.rpartition(".")[0] for name, parameter in model.named_parameters() if parameter.ndim > 1]
    if not owners:
        rule = "must be given for a model without a matrix, got null"
        raise ConfigError([Problem(key, rule, f"Give a pattern for one of {listed(dict(model.named_parameters()))}")])
    return {n: parameter for n, parameter in model.named_parameters() if n.rpartition(".")[0] == owners[-1]}
