"""How parameters are named: patterns on their dotted names, and which module is the head."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated

from annotated_types import MinLen
from pydantic import BeforeValidator
from torch import nn

from runner.errors import ConfigError, Problem, nearest
from runner.tasks.described import listed


def _as_text(pattern: object) -> object:
    return str(pattern) if isinstance(pattern, int) and not isinstance(pattern, bool) else pattern


Pattern = Annotated[str, MinLen(1), BeforeValidator(_as_text)]
"""A dotted name of a parameter or of a module above it, with the wildcards *, ? and [...]; * also stands for dots."""

Patterns = Pattern | Annotated[Sequence[Pattern], MinLen(1)]
"""One pattern, or several of which one has to fit."""

SHOWN = 10
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


def as_list(patterns: str | Sequence[str]) -> list[str]:
    """Return one or several as a list; YAML reads the name of a layer such as 4 as a number."""
    return [str(pattern) for pattern in ([patterns] if isinstance(patterns, str | int) else patterns)]


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


def covering(names: Iterable[str], model: nn.Module) -> list[str]:
    """Return what parameters make up, in few words.

    These are modules all of whose parameters are among them, otherwise names of parameters; where all that differ in
    their numbers only are among them, one stands for all: "blocks.*.norm".
    """
    chosen, parameters = set(names), [name for name, _ in model.named_parameters()]
    whole: dict[str, bool] = {}  # path of a module or parameter -> whether all of it is chosen
    for name in parameters:
        for path in _paths(name):
            whole[path] = whole.get(path, True) and name in chosen
    found = dict.fromkeys(next(path for path in _paths(n) if whole[path]) for n in parameters if n in chosen)
    partly = {_NUMBER.sub("*", path) for path, is_whole in whole.items() if not is_whole}
    twice = Counter(_NUMBER.sub("*", path) for path in found)
    starred = {path: _NUMBER.sub("*", path) for path in found}
    return list(dict.fromkeys(s if twice[s] > 1 and s not in partly else path for path, s in starred.items()))


def _paths(name: str) -> list[str]:
    """Return the modules that a parameter lies in, the outermost first, and its name."""
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]


def nothing(key: str, pattern: str, parameters: Mapping[str, nn.Parameter]) -> Problem:
    """Return the problem of a pattern that fits no parameter."""
    paths = dict.fromkeys(path for name in parameters for path in _paths(name))
    close = nearest(pattern.rstrip("*").rstrip("."), list(paths))
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
