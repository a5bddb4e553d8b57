"""A run that goes on: its saved configuration, with what the command line says now on top."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from yaml import YAMLError

from runner.compose import choices_of, compose_leniently, to_tree
from runner.config import Config
from runner.config_source import source_section
from runner.errors import ConfigError, Problem
from runner.tracking.directory import CONFIG
from runner.tracking.jsonl import find_result

_ABSENT = object()
_PACKAGES = {"detector": "detectors", "overlay": "overlays", "remedy": "remedies"}
_OTHER_MODES = ("mode", "resume", "source", "preview", "sweep", "search", "sampler", "pruner")
ASIDE = frozenset({*_OTHER_MODES, "tracking", "notify", "quiet"})
"""sections that say nothing of what is trained"""


def saved_tree(directory: Path, *, key: str = "resume.from") -> dict[str, Any] | None:
    """Return the configuration of a run directory, None when there is none.

    Raises:
        ConfigError: it cannot be read; `key` is what named the directory.
    """
    path = directory / CONFIG
    if not path.is_file():
        return None
    try:
        loaded = OmegaConf.load(path)
        tree = to_tree(loaded) if isinstance(loaded, DictConfig) else {}
        damage = "" if {"task", "train"} <= tree.keys() else "it has no task and train"
    except (YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        damage = " ".join(str(error).split())
    if damage:
        rule = f"must be a run directory with a readable {CONFIG}, got {str(directory)!r} ({damage})"
        raise ConfigError([Problem(key, rule, "Restore the file or start afresh")])
    return tree


def with_saved(
    tree: dict[str, Any], overrides: Iterable[str], choices: Mapping[str, str], *, page: Sequence[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return configuration and options; those of the run that is named, if one is, below the command line.

    A run is named by `resume.from`, or by `source` in a mode that rebuilds it.

    Args:
        tree: what the command line composes on its own.
        overrides: the command line.
        choices: config group -> option.
        page: `--config-dir` and `--config-name` as given.
    """
    key, source = "resume.from", _at(tree, "resume", "from")
    if _at(tree, "mode", "rebuilds") is True:
        key, source = "source", _at({"source": source_section(tree.get("source"))}, "source", "path")
    if not isinstance(source, str) or not source or (saved := saved_tree(Path(source), key=key)) is None:
        return tree, dict(choices)
    earlier = find_result(Path(source))
    options = earlier.choices if earlier is not None else {}
    overrides = [*overrides, *brought(overrides, options, page=page)]
    return continued(tree, overrides, saved), continued_choices(choices, overrides, options)


def brought(overrides: Iterable[str], saved: Mapping[str, str], *, page: Sequence[str]) -> list[str]:
    """Return, as overrides, the options that change with those chosen now: what these bring, and what the old brought.

    So `schedule=one_cycle` goes on without the warmup of the run, and `optimizer=sgd` without the groups of Muon.

    Args:
        overrides: the command line.
        saved: config group -> option of the run to go on with.
        page: `--config-dir` and `--config-name` as given.
    """
    chosen = {key: text for text in overrides if (key := text.partition("=")[0]) in saved.keys() - ASIDE}
    if not chosen:
        return []
    new = choices_of(chosen.values(), page=page)
    old = choices_of([f"{group}={saved[group]}" for group in chosen], page=page)
    plain = choices_of([], page=page)
    return [
        f"{group}={option}"
        for group, option in new.items()
        if group in saved.keys() - chosen.keys() and option != saved[group]
        if option != plain.get(group) or saved[group] == old.get(group)
    ]


def _at(tree: Mapping[str, Any], section: str, name: str) -> Any:
    found = tree.get(section)
    return found.get(name) if isinstance(found, Mapping) else None


def continued(tree: Mapping[str, Any], overrides: Iterable[str], saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved configuration with what the command line says now on top of it.

    Args:
        tree: what the command line composes on its own.
        overrides: the command line; mode, resume, source and the sections of other modes are as it
            says, whatever the run had.
        saved: the configuration of the run to go on with.
    """
    # a page that is older than a section of today's has what the section says by itself
    own = {key: tree[key] for key in _OTHER_MODES if key in tree}
    merged, fresh = OmegaConf.create({**tree, **saved, **own}), OmegaConf.create(dict(tree))
    for key in _keys(overrides):
        key = _PACKAGES.get(key, key)
        value = OmegaConf.select(fresh, key, default=_ABSENT)
        if value is _ABSENT:
            parent, _, name = key.rpartition(".")
            holder = OmegaConf.select(merged, parent) if parent else merged
            if holder is not None and name in holder:
                del holder[name]
        else:
            OmegaConf.update(merged, key, value, merge=False, force_add=True)
        if key == "remedies":  # an option may bring along the detectors that it answers
            asked = set(_texts(OmegaConf.to_container(fresh.remedies)))
            brought_along = {name: node for name, node in fresh.detectors.items() if name in asked}
            merged.detectors = {**brought_along, **merged.detectors}
    return to_tree(merged)


def _texts(value: Any) -> Iterator[str]:
    """Yield every text inside a section or a list."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def continued_choices(choices: Mapping[str, str], overrides: Iterable[str], saved: Mapping[str, str]) -> dict[str, str]:
    """Return the options of the run to go on with, except those that the command line chooses anew."""
    return {**choices, **{group: option for group, option in saved.items() if group not in _keys(overrides)}}


def _keys(overrides: Iterable[str]) -> list[str]:
    return [OverridesParser.create().parse_override(text).key_or_group for text in overrides]


def same_run(tree: Mapping[str, Any], saved: Mapping[str, Any]) -> bool:
    """Whether two configurations train the same; who hears of it, when it stops and how it resumes does not count."""

    def of_training(page: Mapping[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in page.items() if key not in ASIDE}
        return {**kept, "train": {**kept["train"], "max_seconds": None}}  # says when to stop, not what to do until then

    return of_training(tree) == of_training(saved)


def as_saved_today(saved: Mapping[str, Any], *, page: Sequence[str]) -> dict[str, Any]:
    """Return a saved configuration with the keys that it is too old for, at what they are by themselves.

    Args:
        saved: of a run, perhaps of an earlier version.
        page: `--config-dir` and `--config-name` as given.
    """
    # not what the command line makes of a new section: that would pass for what the run had
    by_itself = compose_leniently(list(page))[0] if Config.model_fields.keys() - saved.keys() else {}
    try:
        return Config.model_validate({**by_itself, **saved}).model_dump(mode="json", by_alias=True)
    except ValidationError:  # a key that is no more: whatever goes on from it has another page
        return dict(saved)
