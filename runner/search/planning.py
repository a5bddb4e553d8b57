"""What a search is, checked as far as that goes without its study; the same for mode=search and for a multirun."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.config import Config
from runner.config_search import Searching
from runner.errors import ConfigError, Problem
from runner.search.fingerprint import fingerprint
from runner.search.goals import goals_of
from runner.search.judge import read_judge
from runner.search.opening import Extend, Plan
from runner.search.page import page_of_task
from runner.search.parts import is_none, make_pruner, make_sampler
from runner.search.space import Space
from runner.search.storage import absolute_storage

_LENGTH = "train.duration"
_CUSTOM = "custom_search_space"


def make_plan(
    config: Config,
    space: Space,
    extend: Extend | None,
    options: Searching,
    *,
    sampler: Mapping[str, Any],
    pruner: Mapping[str, Any],
    section: str,
) -> Plan:
    """Return what is searched.

    Args:
        config: of the base of the space, checked.
        space: dotted key -> what it may be.
        extend: asks a trial for more.
        options: what it is judged by, and where it is kept.
        sampler, pruner: sections with a `_target_`.
        section: dotted key of the options, for messages.
    Raises:
        ConfigError: with what is wrong with metric, sampler, pruner, or one beside another.
    """
    metrics, directions = goals_of(config, options.metric, options.direction, section=section)
    texts = {key: dimension.meaning for key, dimension in space.items()}
    if options.custom_search_space is not None:
        texts[_CUSTOM] = options.custom_search_space
    tree = page_of_task(config.model_dump(mode="json", by_alias=True))
    plan = Plan(
        space=space,
        extend=extend,
        fingerprint=fingerprint(texts, tree, metrics, directions),
        metrics=metrics,
        directions=directions,
        sampler=sampler,
        storage=absolute_storage(options.storage),
        name=options.study_name or "",
        section=section,
    )
    make_sampler(sampler, space, key=plan.sampler_key)
    make_pruner(pruner, key=plan.pruner_key)
    if problems := [*_beside_pruner(plan, pruner), *_beside_function(plan, options)]:
        raise ConfigError(problems)
    return plan


def named_in(plan: Plan, directory: Path) -> Plan:
    """Return a plan with a name: its own, that of the study which the directory has, or that of the directory."""
    before = read_judge(directory)
    return plan if plan.name else plan.named(before["name"] if before is not None else directory.name)


def _beside_pruner(plan: Plan, pruner: Mapping[str, Any]) -> list[Problem]:
    """Return the problems of a pruner where trials cannot be compared on their way."""
    if is_none(pruner):
        return []
    reasons = {
        "with several metrics": len(plan.metrics) > 1,
        f"where {_LENGTH} varies": _LENGTH in plan.space,
    }
    fix = f"Set {plan.pruner_key.replace('.', '/')}=none"
    target = pruner["_target_"]
    return [
        Problem(plan.pruner_key, f"must be none {reason}, got {target}", fix)
        for reason, holds in reasons.items()
        if holds
    ]


def _beside_function(plan: Plan, options: Searching) -> list[Problem]:
    """Return the problem of known points in a space that a function makes."""
    if plan.extend is None or not options.known:
        return []
    rule = f"must be left out where a function makes the space, got {', '.join(options.known)}"
    return [Problem(f"{plan.section}.known", rule, "Leave it out")]
