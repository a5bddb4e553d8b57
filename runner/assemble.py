"""A node of the configuration -> the object that it names, its own parts first."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from runner.durations import Clock, to_steps
from runner.errors import AGAINST_EXIT, ConfigError, FactoryError, Problem, RunnerError, TaskError, with_place
from runner.nodes import Node, is_node
from runner.signatures import (
    PROVIDED,
    filled_in,
    form,
    hint_at,
    hints_of,
    is_bound_later,
    is_duration,
    locate,
    parameters_of,
)


def make(key: str, node: Node, clock: Clock, provided: Mapping[str, Any]) -> Any:
    """Call a node's target with its arguments, durations in steps, and what it asks for of the run.

    Args:
        key: dotted key of the node, for messages.
        node: checked.
        clock: turns durations into steps.
        provided: what else the runner fills in, by name.
    Raises:
        ConfigError: the target, or that of a part, refuses its arguments.
    """
    wanted = parameters_of(locate(node.target)).keys() & PROVIDED.get(key, frozenset())
    named = {name: value for name, value in provided.items() if name in wanted}
    return _Assembly(clock, provided).called(key, node, named)


class _Assembly(NamedTuple):
    """Makes a node and its parts.

    Attributes:
        clock: of the run, or of the stretch of it that the parts are made for.
        provided: what else the runner fills in, by name.
    """

    clock: Clock
    provided: Mapping[str, Any]

    def called(self, key: str, node: Node, named: Mapping[str, Any], *, hint: Any = None) -> Any:
        """Return what a node's target returns, or the target with its arguments bound where that is wanted."""
        target = locate(node.target)
        hints = hints_of(target)
        arguments = _all_made({n: (f"{key}.{n}", value, hints, n) for n, value in node.arguments.items()}, self.value)
        places: dict[Any, tuple[Any, ...]] = {
            i: (f"{key}._args_.{i}", value, {}, "") for i, value in enumerate(node.positional)
        }
        positional = list(_all_made(places, self.value).values())
        if hint is not None and is_bound_later(target, hint, partial=node.partial):
            return functools.partial(target, *positional, **arguments)
        try:
            filled = {name: self.of_run(what) for name, what in filled_in(target).items()}
            return target(*positional, **arguments, **named, **filled)
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:
            raise ConfigError(refusals(key, node, error)) from error

    def of_run(self, what: str) -> Any:
        """Return what an argument annotated with `FromRun` asks for."""
        if what == "clock":
            return self.clock
        return self.provided[what] if what in self.provided else getattr(self.clock, what)

    def value(self, key: str, value: Any, hints: Mapping[str, Any], path: str) -> Any:
        """Return an argument with every part inside it made, or made ready to be made."""
        hint = hint_at(hints, path)
        if is_node(value):
            node = Node.model_validate(value)
            if form(hint) == "factory":
                return functools.partial(self.called, key, node, {})
            if form(hint) == "timed":
                return lambda clock: self._replace(clock=clock).called(key, node, {})
            return self.called(key, node, {}, hint=hint)
        if isinstance(value, Mapping):
            return _all_made(
                {name: (f"{key}.{name}", item, hints, f"{path}.{name}") for name, item in value.items()}, self.value
            )
        if isinstance(value, list):
            places = {i: (f"{key}.{i}", item, hints, f"{path}.{i}") for i, item in enumerate(value)}
            return list(_all_made(places, self.value).values())
        return to_steps(value, self.clock) if is_duration(hint) and value is not None else value


def _all_made(places: Mapping[Any, tuple[Any, ...]], value: Callable[..., Any]) -> dict[Any, Any]:
    """Return the value of every place; where some are refused, with the problems of all of them."""
    made: dict[Any, Any] = {}
    problems: list[Problem] = []
    for name, place in places.items():
        try:
            made[name] = value(*place)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return made


def refusals(key: str, node: Node, error: BaseException) -> list[Problem]:
    """Say under which dotted keys a factory refused: its messages begin with the argument's name."""
    if isinstance(error, FactoryError):
        return error.problems(key)
    return [_refusal(key, node, error)]


def _refusal(key: str, node: Node, error: BaseException) -> Problem:
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
