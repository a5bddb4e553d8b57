"""`resume.sweep=<directory>`: the command line of an earlier sweep, and what of it is left to do."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from runner.compose import overrides_of, page_of, quoted, value_of
from runner.errors import ConfigError, Problem
from runner.search.secret import with_password, without_password
from runner.tracking.directory import SWEEP
from runner.tracking.lock import is_locked
from runner.tracking.sweep_file import Sweep, changed, key_of, read_sweep

KEY = "resume.sweep"


def expand_resumed_sweep(arguments: list[str]) -> list[str]:
    """Return the command line of the sweep that `resume.sweep=` names; unchanged when none is named.

    Raises:
        ConfigError: there is no such sweep, or other overrides are given than it has.
    """
    if not any(key_of(text) == KEY for text in arguments):
        return arguments
    directory = resumed_directory(overrides_of(arguments))
    if directory is None:
        return arguments
    sweep = read_resumed(directory)
    given = [text for text in overrides_of(arguments) if key_of(text) != KEY]
    stored = {key_of(text): text.lstrip("+") for text in sweep.overrides}  # the last of a key counts
    shown = [text.lstrip("+") for text in without_password(given)]
    new = [text for text, plain in zip(given, shown, strict=True) if stored.get(key_of(text)) != plain]
    other = [text for text in new if not _may_change(text, sweep)]
    page = page_of(arguments)
    if other or page not in ((), sweep.page):
        rule = f"must be the overrides of the sweep, got also {' '.join(without_password(other) or page)}"
        raise ConfigError([Problem(KEY, rule, "Leave them out, or start a new sweep")])
    words = with_password(changed(sweep.overrides, new), directory)
    multirun = ["--multirun"] if sweep.mode == "multirun" else []
    return [*sweep.page, *multirun, *words, f"{KEY}={quoted(str(directory))}"]


def resumed_directory(overrides: list[str]) -> Path | None:
    """Return the directory that `resume.sweep=` names, None when it is not given or null.

    Raises:
        ConfigError: it is not one path.
    """
    given = [text for text in overrides if key_of(text) == KEY]
    value = value_of(given[-1]) if given else None
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        rule = f"must be the directory of a sweep, got {given[-1].partition('=')[2]!r}"
        raise ConfigError([Problem(KEY, rule, "Give a path under runs/sweeps/")])
    return Path(value)


def read_resumed(directory: Path) -> Sweep:
    """Read the sweep to go on with.

    Raises:
        ConfigError: there is none, or it was started elsewhere.
    """
    try:
        sweep = read_sweep(directory)
    except OSError:
        rule = f"must be the directory of a sweep with a readable {SWEEP}, got {str(directory)!r}"
        raise ConfigError([Problem(KEY, rule, "Give a path under runs/sweeps/")]) from None
    except ValueError as error:
        rule = f"must be the directory of a sweep with a sound {SWEEP}, got {str(directory)!r} ({error})"
        raise ConfigError([Problem(KEY, rule, "Restore the file, or start a new sweep")]) from None
    home = (directory / sweep.launched_from).resolve()
    if home != Path.cwd().resolve():
        rule = f"must be resumed where it was started, in {home}, got {Path.cwd()}"
        raise ConfigError([Problem(KEY, rule, f"Call cd {os.path.relpath(home)} first")])
    return sweep


def refuse_if_alive(directory: Path, runs: Iterable[Path]) -> None:
    """Refuse a sweep when one of its runs is being written, by a worker that outlived its parent.

    Raises:
        ConfigError: so it is.
    """
    alive = next((run for run in runs if is_locked(run)), None)
    if alive is not None:
        rule = f"must be a sweep that no other process is running, got {str(directory)!r}, whose {alive} goes on"
        raise ConfigError([Problem(KEY, rule, "Wait for its end, or interrupt it")])


def _may_change(override: str, sweep: Sweep) -> bool:
    return sweep.may_change(override) or key_of(override).startswith(("hydra.", "hydra/"))
