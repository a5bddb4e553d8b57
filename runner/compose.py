"""From the command line to a plain tree: what Hydra composes, and what it could not compose."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.errors import ConfigError, Problem, nearest
from runner.nodes import conf_directory
from runner.wording import not_mergeable, shown, unresolved

PLUGINS = str(Path(__file__).resolve().parent / "plugins")
if PLUGINS not in sys.path:  # before Hydra looks for its plugins, once a process: config.yaml names our sweeper
    sys.path.append(PLUGINS)

_PLATEAU = "Set schedule=constant detector=[default,plateau] remedy=[reduce_lr,stop]"
_ELSEWHERE = {
    "schedule=cooldown": "Set overlay=[cooldown]",
    "schedule=noise": "Set overlay=[noise]",
    "schedule=override_decay": "Set overlay=[cooldown]",
    "schedule=plateau": _PLATEAU,
    "schedule=reduce_lr_on_plateau": _PLATEAU,
    "schedule=greedy": "Set schedule=constant detector=[default,streak] remedy=[greedy,stop]",
    "schedule=sgdr": "Set schedule=cosine_restarts",
    "schedule=trapezoid": "Set schedule=wsd schedule.shape=linear",
    "schedule=constant_warmup": "Set schedule=constant, which follows the warmup",
    "schedule=triangular": "Set schedule=cyclic",
}
"""what people look for as an option -> where it is here"""


def to_tree(config: DictConfig) -> dict[str, Any]:
    """Return the composed configuration as plain values, interpolations resolved.

    Raises:
        ConfigError: an interpolation leads nowhere.
    """
    try:
        tree = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError([unresolved(error.full_key or "config", str(error).splitlines()[0])]) from None
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items() if key != "hydra"}


def compose_leniently(arguments: list[str]) -> tuple[dict[str, Any], tuple[Problem, ...], list[str]]:
    """Compose what can be composed of a command line that Hydra has refused.

    Unknown keys stay in the tree, where `check` finds them together with everything else.

    Args:
        arguments: the command line without the program.

    Returns:
        the tree, the overrides that had to be left out as problems, and the others in a form that Hydra takes.
    """
    parsed = get_args_parser().parse_args(arguments)
    problems: list[Problem] = []
    kept: list[str] = []
    with set_up(parsed.config_dir):
        for text in parsed.overrides:
            key, _, value = text.partition("=")
            try:
                override = OverridesParser.create().parse_override(text)
            except HydraException:
                override = None
            if override is not None and override.is_sweep_override():
                if not parsed.multirun:
                    rule = f"must be one value in a single run, got {value}"
                    problems.append(
                        Problem(key.lstrip("+"), rule, "Add -m to run a job for each, or brackets for a list")
                    )
                continue
            if override is None or not key:
                problems.append(not_an_override(key, value))
                continue
            found = _wrong_options(override)
            problems += found
            if not found:
                plain = override.is_delete() or override.is_hydra_override() or _options(override.key_or_group)
                kept.append(text if plain else f"++{text.lstrip('+')}")
        try:
            return to_tree(compose(parsed.config_name or "config", kept)), tuple(problems), kept
        except (HydraException, OmegaConfBaseException) as error:
            problems.append(cannot_compose(error))
            return to_tree(compose("config")), tuple(problems), kept


def choices_of(overrides: Iterable[str], *, page: Sequence[str]) -> dict[str, str]:
    """Return config group -> option, as Hydra composes them of what a command line says of groups.

    Args:
        overrides: the command line; what is not about a group is left out.
        page: `--config-dir` and `--config-name` as given.
    """
    parsed = get_args_parser().parse_args(list(page))
    with set_up(parsed.config_dir):
        kept = [text for text in overrides if _options(text.partition("=")[0])]
        try:
            composed = compose(parsed.config_name or "config", kept, return_hydra_config=True)
        except HydraException:  # an option that is none, which is said elsewhere, or is no more
            return {}
        return dict(composed.hydra.runtime.choices)


def without_effect(tree: Mapping[str, Any], arguments: Iterable[str]) -> list[Problem]:
    """Return the problems of sections that a command line sets to {}, which leaves what is in them.

    Args:
        tree: as composed.
        arguments: the command line without the program.
    """
    problems = []
    for key in (text.removesuffix("={}").lstrip("+") for text in arguments if text.endswith("={}")):
        section: Any = tree
        for name in key.split("."):
            section = section.get(name) if isinstance(section, Mapping) else None
        if isinstance(section, Mapping) and section:
            parts = [str(name) for name, item in section.items() if isinstance(item, Mapping)]
            whole = len(parts) < len(section)
            rule = f"which {'changes nothing' if whole else 'leaves ' + ', '.join(parts)}"
            fix = f"Leave {key} out" + ("" if whole else f", or set ~{key}.{parts[0]} to take that out")
            problems.append(Problem(key, f"must say what is in it, got {{}}, {rule}", fix))
    return problems


def cannot_compose(error: Exception) -> Problem:
    """Return Hydra's complaint as a problem."""
    text = " ".join(str(error).split()).replace("++", "").rstrip(".")
    if found := re.match(r"Could not override '([^']+)'", text):
        key = found[1]
        of_launcher = key.startswith("hydra.launcher.")
        fix = "Set hydra/launcher=joblib" if of_launcher else "Call with --cfg hydra to see the keys"
        if "@" in key:
            return Problem(key, "must be there to be changed", f"Set +{key} to add it")
        return Problem(key, f"unknown key{' of this launcher' if of_launcher else ''}", fix)
    if found := re.match(r"Error merging override ([^=]+)=(.*)", text):
        return not_mergeable(found[1], found[2], str(error.__cause__))
    if found := re.match(r"Sweeping over Hydra's configuration is not supported : '([^=]+)=(.*)'", text):
        return Problem(found[1], f"must be one value, got {found[2]}", "Quote it where a comma is part of it")
    if found := re.match(r"Unknown plugin class : '(.*_optuna_sweeper.*)'", text):
        return Problem("hydra.sweeper._target_", f"must be left out, got {found[1]}", "Set hydra/sweeper=optuna")
    return Problem("config", f"must compose, but {text}", "Check the overrides")


def page_of(arguments: list[str]) -> tuple[str, ...]:
    """Return `--config-dir` and `--config-name` as given on a command line, for a command that repeats it."""
    parsed = get_args_parser().parse_args(arguments)
    options = {"--config-dir": parsed.config_dir, "--config-name": parsed.config_name}
    return tuple(word for name, value in options.items() if value is not None for word in (name, value))


def is_multirun(arguments: list[str]) -> bool:
    """Whether a command line asks for several runs."""
    return bool(get_args_parser().parse_args(arguments).multirun)


@contextmanager
def composed_once(arguments: list[str]) -> Iterator[None]:
    """Keep Hydra from composing a page of ours twice: first it only looks for `hydra.mode`, which is not there."""
    original = Hydra.get_mode
    if not page_of(arguments) and not any(text.lstrip("+").startswith("hydra.mode=") for text in arguments):
        Hydra.get_mode = lambda self, config_name, overrides: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Hydra.get_mode = original  # type: ignore[method-assign]


def options_first(arguments: list[str]) -> list[str]:
    """Return a command line that Hydra can read when options such as `-m` stand between overrides."""
    overrides = list(get_args_parser().parse_intermixed_args(arguments).overrides)
    options = list(arguments)
    for override in overrides:
        options.remove(override)
    return [*options, *overrides]


def with_source_path(arguments: list[str]) -> list[str]:
    """Return a command line with `source.path=x` for `source=x`, quoted where Hydra would not take it for a text."""
    return [_source_path(text) if re.match(r"\+{0,2}source(\.path)?=", text) else text for text in arguments]


def _source_path(text: str) -> str:
    key, _, value = text.partition("=")
    try:
        override = OverridesParser.create().parse_override(text)
        given = override.value()
    except HydraException:
        given, override = math.nan, None
    if isinstance(given, Mapping):
        return text
    is_number = override is None or (isinstance(given, int | float) and not override.is_sweep_override())
    return f"{key.removesuffix('.path')}.path={quoted(value) if is_number else value}"


def overrides_of(arguments: list[str]) -> list[str]:
    """Return the overrides of a command line, those of Hydra included."""
    return list(get_args_parser().parse_args(arguments).overrides)


def value_of(override: str) -> Any:
    """Return the value of one override.

    Raises:
        ConfigError: it is none.
    """
    try:
        return OverridesParser.create().parse_override(override).value()
    except HydraException:
        key, _, value = override.lstrip("+").partition("=")
        raise ConfigError([not_an_override(key, value)]) from None


def not_an_override(key: str, value: str) -> Problem:
    """Return the problem of a text that Hydra cannot read."""
    fix = f"Quote special characters, inside the quotes of the shell: '{key}=\"{value}\"'"
    return Problem(
        key, f"must be of the form key=value, got {value!r}", fix if key and value else "Give a key and a value"
    )


def quoted(value: str) -> str:
    """Return a text so that Hydra reads it as one value."""
    if re.fullmatch(r"[\w./+-]*[A-Za-z/][\w./+-]*", value) and not re.fullmatch(r"[+-]?\d[\d._]*e\d+", value, re.I):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


@contextmanager
def set_up(config_dir: str | None) -> Iterator[None]:
    """Set Hydra up as its own command line does, `--config-dir` included; take it down in the end."""
    search_path = create_config_search_path(str(conf_directory()))
    if config_dir is not None:
        search_path.prepend("command-line", f"file://{Path(config_dir).resolve()}", anchor="schema")
    GlobalHydra.instance().clear()
    Hydra.create_main_hydra2(task_name="runner", config_search_path=search_path)
    try:
        yield
    finally:
        GlobalHydra.instance().clear()


def _options(group: str) -> list[str]:
    hydra = GlobalHydra.instance().hydra
    if hydra is None:
        return []
    loader: Any = hydra.config_loader  # which would copy the whole repository at every question
    options: list[str] = loader.repository.get_group_options(group, ObjectType.CONFIG)
    return options


def _wrong_options(override: Override) -> list[Problem]:
    group = override.key_or_group
    options = _options(group)
    value = override.value()
    if not options or override.is_delete() or value == {}:  # the last changes nothing, see `without_effect`
        return []
    problems = []
    key = f"{group}@{override.package}" if override.package else group
    for name in value if isinstance(value, list) else [value]:
        if not isinstance(name, str | int) or str(name) not in options:
            close = nearest(name, options) if isinstance(name, str) else ""
            rule = f"must be one of {', '.join(sorted(options))}, got {shown(name)}"
            fix = f"Did you mean {key}={close}" if close else ""
            fix = _ELSEWHERE.get(f"{group}={name}") or fix or _by_itself(key, group)
            problems.append(Problem(key, rule, fix))
    return problems


def _by_itself(key: str, group: str) -> str:
    """Return what to do about an option that is like none: take that of the page where it names one."""
    chosen = compose("config", return_hydra_config=True).hydra.runtime.choices.get(group)
    return f"Set {key}={chosen}" if isinstance(chosen, str) else f"Leave {key} out for its default"
