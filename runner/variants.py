"""One page with several schedules in turn: each composed with what the schedule brings of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runner.compose import compose_leniently, page_of
from runner.config import Config, Invocation
from runner.continue_run import with_saved
from runner.errors import ConfigError, Problem
from runner.facts import Facts

_KEY = "preview.schedules"


def find_facts(*arguments: Any) -> Facts:
    """Return what only the data and this machine can tell; torch is imported when it is called."""
    from runner.build import find_facts

    return find_facts(*arguments)


def wrong_schedules(tree: Mapping[str, Any], arguments: list[str]) -> tuple[Problem, ...]:
    """Return the problems of `preview.schedules`: names that are none.

    Args:
        tree: the composed configuration.
        arguments: the command line without the program.
    """
    section = tree.get("preview")
    names = section.get("schedules") if isinstance(section, Mapping) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        return ()  # nothing to say, or `check` says it
    _, problems, _ = compose_leniently([*page_of(arguments), f"schedule=[{','.join(dict.fromkeys(names))}]"])
    wrong = [problem for problem in problems if problem.key == "schedule"]
    known = [name for name in names if not any(f"got {name!r}" in problem.rule for problem in wrong)]
    return tuple(Problem(_KEY, problem.rule, _fix(problem, known)) for problem in wrong)


def _fix(problem: Problem, known: list[str]) -> str:
    """Return the fix of a name with the names beside it that are known."""
    fix = re.sub(r"^Set schedule=(\w+).*", lambda found: f"Set {_KEY}=[{','.join(known) or found[1]}]", problem.fix)
    return fix.replace(" schedule=", " ")


def with_schedules(invocation: Invocation, names: Sequence[str], *, check: Callable[..., Config]) -> dict[str, Config]:
    """Return name -> the checked page with that schedule in place of its own.

    Args:
        invocation: how the program was called.
        names: of the schedules.
        check: tree, find_facts and earlier problems -> checked configuration.
    Raises:
        ConfigError: with all problems of all of them; each says which schedules have it.
    """
    kept = [text for text in invocation.overrides if text.partition("=")[0].lstrip("+~") != "schedule"]
    configs: dict[str, Config] = {}
    found: dict[Problem, list[str]] = {}
    for name in dict.fromkeys(names):
        overrides = [*kept, f"schedule={name}"]
        try:
            tree, problems, _ = compose_leniently([*invocation.page, *overrides])
            tree, _ = with_saved(tree, overrides, {}, page=invocation.page)
            configs[name] = check(tree, find_facts=find_facts, problems=problems)
        except ConfigError as error:
            for problem in error.problems:
                found.setdefault(problem, []).append(name)
    if found:
        places = {problem: f"with {', '.join(those)}" for problem, those in found.items()}
        raise ConfigError(found, places=places)
    return configs
