"""A node of the configuration -> the object that it names, its own parts first."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from runner.config import Node, is_node
from runner.durations import Clock, to_steps
from runner.errors import AGAINST_EXIT, ConfigError, Problem, RunnerError, TaskError, with_place
from runner.signatures import (
    PROVIDED,
    duration_arguments,
    form,
    hint_at,
    hints_of,
    is_bound_later,
    locate,
    parameters_of,
)


def make(key: str, node: Node, clock: Clock, provided: Mapping[str, Any]) -> Any:
    """Call a node's target with its arguments, durations in steps, and what it asks for of `provided`.

    Args:
        key: dotted key of the node, for messages.
        node: checked.
        clock: turns durations into steps.
        provided: what the runner fills in, by argument.
    Raises:
        ConfigError: the target, or that of a part, refuses its arguments.
    """
    wanted = parameters_of(locate(node.target)).keys() & PROVIDED.get(key, frozenset())
    return _called(key, node, clock, {name: value for name, value in provided.items() if name in wanted})


def _called(key: str, node: Node, clock: Clock, provided: Mapping[str, Any], *, hint: Any = None) -> Any:
    target = locate(node.target)
    hints = hints_of(target)
    durations = {name: to_steps(duration, clock) for name, duration in duration_arguments(node).items()}
    written = {**node.arguments, **durations}
    arguments = {name: _value(f"{key}.{name}", value, clock, hints, name) for name, value in written.items()}
    positional = [_value(f"{key}._args_.{i}", value, clock, {}, "") for i, value in enumerate(node.positional)]
    if hint is not None and is_bound_later(target, hint, partial=node.partial):
        return functools.partial(target, *positional, **arguments)
    try:
        return target(*positional, **arguments, **provided)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError([refusal(key, node, error)]) from error


def _value(key: str, value: Any, clock: Clock, hints: Mapping[str, Any], path: str) -> Any:
    """Return an argument with every part inside it made, or made ready to be made."""
    if is_node(value):
        node, hint = Node.model_validate(value), hint_at(hints, path)
        if form(hint) == "factory":
            return functools.partial(_called, key, node, clock, {})
        return _called(key, node, clock, {}, hint=hint)
    if isinstance(value, Mapping):
        return {name: _value(f"{key}.{name}", item, clock, hints, f"{path}.{name}") for name, item in value.items()}
    if isinstance(value, list):
        return [_value(f"{key}.{i}", item, clock, hints, f"{path}.{i}") for i, item in enumerate(value)]
    return value


def refusal(key: str, node: Node, error: BaseException) -> Problem:
    """Say under which dotted key a factory refused: its messages begin with the argument's name."""
    if isinstance(error, TaskError) and error.problem is not None:
        return error.problem
    if isinstance(error, RunnerError):
        return Problem(key, str(error).removeprefix(f"{key}: ").rstrip("."), "")
    if isinstance(error, SystemExit):
        rule = f"must be accepted by {node.target}, which ends the program: {with_place(error)}"
        return Problem(key, rule, AGAINST_EXIT)
    name, separator, rule = str(error).partition(": ")
    if separator and name in node.arguments:
        return Problem(f"{key}.{name}", rule.rstrip("."), f"Change {key}.{name}")
    return Problem(key, f"must be accepted by {node.target}, which says: {str(error).rstrip('.')}", f"Change {key}")
