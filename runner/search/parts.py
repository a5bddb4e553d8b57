"""Samplers and pruners by `_target_`, checked like every part of the page."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from runner.durations import Clock
from runner.errors import ConfigError, Problem
from runner.nodes import Node
from runner.search.space import Space, grid_of
from runner.signatures import locate

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

GRID = "optuna.samplers.GridSampler"


def make_part(key: str, given: Mapping[str, Any], **provided: Any) -> Any:
    """Return what a section with a `_target_` names, made of its other keys and the parts inside it.

    Args:
        key: dotted key of the section.
        given: the section.
        provided: arguments that the runner fills in, where the target takes them (`runner.signatures.PROVIDED`).
    Raises:
        ConfigError: with everything wrong in it.
    """
    from runner.assemble import make
    from runner.checks.nodes import add_invalid, check_node
    from runner.wording import Findings

    found = Findings()
    try:
        node = Node.model_validate(dict(given))
    except ValidationError as error:
        for item in error.errors():
            add_invalid(found, item, (key, *item["loc"]), Node)
        raise ConfigError(found.problems) from None
    check_node(key, node, found)
    if found.problems:
        raise ConfigError(found.problems)
    return make(key, node, Clock(batch_size=1), provided)


def make_sampler(given: Mapping[str, Any], space: Space, *, key: str, seed_offset: int = 0) -> BaseSampler:
    """Return a sampler; that of a grid is told the values.

    Args:
        given: the section; a `seed` of null draws other points every time.
        space: what is searched.
        key: dotted key of the section, for messages.
        seed_offset: trials so far. A seed begins the same points again, so it is moved by them where a search goes on;
            a quasi-random sequence goes on by itself.
    Raises:
        ConfigError: with everything wrong in it.
    """
    from optuna.samplers import BaseSampler, CmaEsSampler, QMCSampler

    arguments, provided = dict(given), dict[str, Any]()
    if arguments.get("_target_") == GRID:
        if not space:
            raise ConfigError(
                [
                    Problem(
                        key, "must not be a grid for a space that a function makes", f"Set {key.replace('.', '/')}=tpe"
                    )
                ]
            )
        provided["search_space"] = grid_of(space, key)
    if seed_offset and isinstance(arguments.get("seed"), int) and not _is_a(arguments.get("_target_"), QMCSampler):
        arguments["seed"] += seed_offset
    if _is_a(arguments.get("_target_"), CmaEsSampler) and find_spec("cmaes") is None:
        fix = "Install it: pip install 'stepsize-runner[cmaes]', or '.[cmaes]' in a checkout"
        raise ConfigError([Problem(key, "must have its package, but cmaes is not installed", fix)])
    sampler: BaseSampler = _checked(key, make_part(key, arguments, **provided), BaseSampler)
    return sampler


def make_pruner(given: Mapping[str, Any], *, key: str) -> BasePruner:
    """Return a pruner. What it counts as steps is percent of the run.

    Raises:
        ConfigError: with everything wrong in it.
    """
    from optuna.pruners import BasePruner

    pruner: BasePruner = _checked(key, make_part(key, given), BasePruner)
    return pruner


def _checked(key: str, made: Any, wanted: type) -> Any:
    if not isinstance(made, wanted):
        name = f"{wanted.__module__.partition('.')[0]}.{wanted.__name__.removeprefix('Base').lower()}"
        rule = f"must be an {name}, got {type(made).__module__}.{type(made).__name__}"
        raise ConfigError([Problem(f"{key}._target_", rule, "Choose another")])
    return made


def _is_a(target: Any, wanted: type) -> bool:
    try:
        found = locate(str(target))
    except (LookupError, TypeError):
        return False  # which is said where it is made
    return isinstance(found, type) and issubclass(found, wanted)


def is_none(given: Mapping[str, Any]) -> bool:
    """Whether a pruner prunes nothing, so that runs need not report."""
    return str(given.get("_target_", "")).endswith(".NopPruner")
