"""Rules for `sweep` and `search`: whether there is a grid, and where to search."""

from __future__ import annotations

import os
from pathlib import Path

from runner.config_search import FULL_RUNS
from runner.errors import ConfigError
from runner.tracking.address import masked
from runner.wording import Findings, shown, wrong_page

_NEEDED = ("optimizer", "task", "seed")


_OF_STUDIES = ("space", "custom_search_space", "metric", "direction", "study_name", "storage")


def check_grid(found: Findings) -> None:
    """Check what mode=sweep is to run by making the points of it, and between which rates mode=search looks.

    Args:
        found: takes the problems; its sections are read.
    """
    from runner.trials.bounds import Wanted
    from runner.trials.grid import grid

    mode, wrong = found.sections.get("mode"), {problem.key for problem in found.problems}
    if mode is None or not (mode.runs_grid or mode.searches):
        return
    name = "sweep" if mode.runs_grid else "search"
    if any(part not in found.sections for part in (name, *_NEEDED)):
        return
    if name == "search":
        _check_write(found)
    if mode.searches and "sampler" in found.sections and found.sections["sampler"].target == FULL_RUNS:
        _check_full_runs(found)
    section, optimizer, task, seed = (found.sections[part] for part in (name, *_NEEDED))
    wanted = Wanted(section, optimizer, task)
    is_sound = not wrong & {*(f"{name}.{key}" for key in ("low", "high", "space")), "optimizer.typical"}
    if section.space or is_sound:
        found.problems.extend(problems := wanted.problems())
        is_sound = not problems
    if name == "sweep" and (section.space or is_sound):
        try:
            grid(section, optimizer.lr_key, wanted.provisional, seed=seed)
        except ConfigError as error:
            found.problems.extend(error.problems)


def _check_full_runs(found: Findings) -> None:
    """Refuse what sampler=lr does not read and would change what is searched, or what is best."""
    search, pruner = found.sections["search"], found.sections.get("pruner")
    given = {f"search.{name}": getattr(search, name) for name in _OF_STUDIES}
    if pruner is not None and not pruner.target.endswith(".NopPruner"):
        given["pruner"] = pruner.target
    for key, value in given.items():
        if value:
            text = ", ".join(map(str, value)) if isinstance(value, list) else shown(masked(value))
            found.add(key, f"must be left out with sampler=lr, got {text}", "Set sampler=tpe")


def _check_write(found: Findings) -> None:
    """Refuse a page that could not be written when all runs are made."""
    if (given := found.sections["search"].write) is None:
        return
    path = Path(given)
    place = next(parent for parent in path.absolute().parents if parent.exists())
    if (problem := wrong_page("search.write", path)) is not None:
        found.problems.append(problem)
    elif not place.is_dir() or not os.access(place, os.W_OK):
        found.add("search.write", f"must be where a file can be written, got {shown(given)}", "Give another path")
