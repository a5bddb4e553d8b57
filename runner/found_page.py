"""A page of YAML that trains with a learning rate that was found, with the evidence as a comment."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from runner.commands import PROGRAM
from runner.compose import value_of
from runner.errors import ConfigError, Problem, RunnerError
from runner.finding.words import report_sentences
from runner.nodes import conf_directory
from runner.tracking.directory import pasteable, write_whole
from runner.tracking.sweep_file import key_of
from runner.wording import wrong_page

if TYPE_CHECKING:
    from runner.lr_end import Told

_ASIDE = ("mode", "tracking", "quiet", "notify", "source", "sweep", "search", "hydra", "resume")
_WIDTH = 118


def write_found_page(
    path: Path,
    overrides: Sequence[str],
    evidence: Iterable[str],
    *,
    page: Sequence[str] = (),
    key: str = "search.write",
) -> str:
    """Write a page that inherits what was searched and sets what was found; return the command line that runs it.

    Options of config groups (`optimizer=adamw`) go to its defaults list, all else below it. What says how to search, to
    track or to print is left out.

    Args:
        path: of the page; `.yaml` is added where it has no ending.
        overrides: those that train with what was found.
        evidence: sentences, which become a comment.
        page: `--config-dir` and `--config-name` of what was searched, if they were given.
        key: what names the path, for errors.
    Raises:
        ConfigError: the path cannot be that of a page, or an override cannot be said on one.
        RunnerError: it cannot be written.
    """
    path = path_of_page(path, page=page, key=key)
    folder, base = _searched(page)
    places = [conf_directory(), *([folder] if folder is not None else [])]
    text = _text(overrides, evidence, base=base, search_path=_search_path(folder, path), places=places, key=key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        raise RunnerError(f"{path}: cannot be written ({error.strerror}). Set {key} to another path.") from None
    return shlex.join([*PROGRAM, "--config-dir", str(path.parent), "--config-name", path.stem])


def path_of_page(path: Path, *, page: Sequence[str], key: str) -> Path:
    """Return where a page is to be written; nothing is written yet.

    Args:
        path, page, key: see `write_found_page`.
    Raises:
        ConfigError: the path cannot be that of a page.
    """
    if (problem := wrong_page(key, path)) is not None:
        raise ConfigError([problem])
    path = path.with_suffix(".yaml")
    folder, base = _searched(page)
    if folder is not None and (folder / f"{base}.yaml").resolve() == path.resolve():
        rule = f"must not be the page that was searched, got {str(path)!r}"
        raise ConfigError([Problem(key, rule, "Give another name")])
    return path


def _searched(page: Sequence[str]) -> tuple[Path | None, str]:
    """Return the folder and the name of the page that was searched."""
    given = dict(zip(page[::2], page[1::2], strict=True))
    folder = Path(given["--config-dir"]) if "--config-dir" in given else None
    return folder, given.get("--config-name", "config").removesuffix(".yaml")


def write_recommendation(path: str, told: Told, *, page: Sequence[str], key: str, quiet: bool) -> None:
    """Write the page that trains with what is recommended for the best group, with its evidence; say how to use it.

    Args:
        path: of the page.
        told: what was found; the best group has a recommendation.
        page: `--config-dir` and `--config-name` of what was searched, if they were given.
        key: what names the path, for errors.
        quiet: print nothing.
    Raises:
        ConfigError: the path cannot be that of a page, or an override cannot be said on one.
        RunnerError: it cannot be written.
    """
    from runner.lr_end import group_evidence

    report = told.report
    evidence = [*group_evidence(report), *report_sentences(report)]
    command = write_found_page(Path(path), told.overrides[report.best.name], evidence, page=page, key=key)
    if not quiet:
        print(f"the page is used with: {command}")


def _search_path(folder: Path | None, path: Path) -> str | None:
    """Return where the page that is inherited lies, None where that is beside the new one or in conf."""
    if folder is None or folder.resolve() == path.parent.resolve():
        return None
    return pasteable(folder.resolve())


def _text(
    overrides: Sequence[str],
    evidence: Iterable[str],
    *,
    base: str,
    search_path: str | None,
    places: Sequence[Path],
    key: str,
) -> str:
    """Return the page; a key is that of a config group where one of the places has options of it."""
    tree: dict[str, Any] = {}
    options: list[Any] = []
    for override in overrides:
        name = key_of(override)
        if name.partition(".")[0].partition("/")[0] in _ASIDE:
            continue
        if override.startswith("~"):
            rule = f"must be the path of a page, but a page cannot take out {override}"
            raise ConfigError([Problem(key, rule, f"Leave {key} out and use the command line")])
        value = value_of(override)
        if any("." not in name and (place / name).is_dir() for place in places):
            options.append({f"override {name}": value})
        else:
            _set(tree, name.split("."), value)
    parts: dict[str, Any] = {"defaults": [base, *options, "_self_"]}
    if search_path is not None:
        parts["hydra"] = {"searchpath": [f"file://{search_path}"]}
    lines = [line for sentence in evidence for line in textwrap.wrap(sentence, _WIDTH)]
    comment = "".join(f"# {line}\n" for line in lines)
    return "\n".join([comment + _yaml(parts).rstrip(), "", _yaml(tree) if tree else ""]).rstrip() + "\n"


def _set(tree: dict[str, Any], names: Sequence[str], value: Any) -> None:
    for name in names[:-1]:
        inner = tree.setdefault(name, {})
        tree = inner if isinstance(inner, dict) else tree
    tree[names[-1]] = value


def _yaml(tree: Mapping[str, Any]) -> str:
    return yaml.safe_dump(_plain(tree), sort_keys=False, default_flow_style=False, width=_WIDTH)


def _plain(value: Any) -> Any:
    """Return values that YAML knows; a quoted string of Hydra's is a string."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
