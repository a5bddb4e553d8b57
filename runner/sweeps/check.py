"""The jobs of a multirun: the grid expanded, and every job composed and checked before the first one starts."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from hydra.core.config_loader import ConfigLoader
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from runner.compose import cannot_compose, compose_leniently, not_an_override, quoted, to_tree
from runner.config import Config
from runner.continue_run import with_saved
from runner.errors import ConfigError, Problem
from runner.job import checked
from runner.search.overrides import read_overrides
from runner.tracking.sweep_file import CHECKPOINT, FROM, JobState, Launchable, Sweep, changed
from runner.tracking.sweep_runs import DONE

Compose = Callable[[Sequence[str]], DictConfig]


class Point(NamedTuple):
    """One point of the grid: all overrides of a job, and those that vary."""

    overrides: tuple[str, ...]
    varied: Mapping[str, str]

    @property
    def name(self) -> str:
        """What varied, as on the command line."""
        return " ".join(f"{key}={value}" for key, value in self.varied.items())


class CheckedJob(NamedTuple):
    """A job that may start."""

    point: Point
    config: Config
    experiment: str
    choices: Mapping[str, str]  # config group -> option


def expand(arguments: Iterable[str], config_loader: ConfigLoader) -> list[Point]:
    """Return the points of the grid, the last override varying fastest.

    Raises:
        ConfigError: an override cannot be read, or has no list of values.
    """
    given, problems = read_overrides(arguments, not_an_override, config_loader=config_loader)
    lists: dict[str, list[str]] = {}
    for one in given:
        override = one.override
        name = override.get_key_element()
        if not override.is_sweep_override():
            lists[name] = [one.text]
        elif override.is_discrete_sweep():
            lists[name] = [f"{name}={value}" for value in override.sweep_string_iterator()]
        else:
            lists[name] = []
        if not lists[name]:
            rule = f"must be a list such as 1e-3,1e-2 or range(1,4) in a multirun, got {one.value}"
            problems.append(Problem(one.key, rule, f"Give the values of {one.key}"))
    if problems:
        raise ConfigError(problems)
    varying = {values[0].partition("=")[0] for values in lists.values() if len(values) > 1}
    return [Point(combination, _varied(combination, varying)) for combination in itertools.product(*lists.values())]


def _varied(overrides: Iterable[str], varying: set[str]) -> dict[str, str]:
    pairs = [text.partition("=")[::2] for text in overrides]
    return {key.lstrip("+"): value for key, value in pairs if key in varying}


def check_all(points: Sequence[Point], compose: Compose, page: Sequence[str]) -> list[CheckedJob]:
    """Compose and check every point.

    Args:
        points: the grid.
        compose: overrides -> what Hydra composes.
        page: `--config-dir` and `--config-name` as given.
    Raises:
        ConfigError: with all problems of all jobs; each says which jobs have it.
    """
    jobs: list[CheckedJob] = []
    found: dict[Problem, list[int]] = {}
    for number, point in enumerate(points, start=1):
        try:
            jobs.append(check_job(point, compose, page))
        except ConfigError as error:
            for problem in error.problems:
                found.setdefault(problem, []).append(number)
    if found:
        places = {problem: _place(numbers, points) for problem, numbers in found.items() if len(points) > 1}
        raise ConfigError(found, places=places)
    if len({job.config.mode.makes_run for job in jobs}) > 1:
        rule = "must be train in all jobs of a multirun or in none"
        raise ConfigError([Problem("mode", rule, "Call the program once for each")])
    return jobs


def check_job(point: Point, compose: Compose, page: Sequence[str]) -> CheckedJob:
    """Compose and check one point; a missing `+` before a key is put there.

    Raises:
        ConfigError: with all its problems.
    """
    try:
        composed = compose(point.overrides)
    except (HydraException, OmegaConfBaseException, ValueError):  # the last for an option that is no text
        try:
            tree, problems, overrides = compose_leniently([*page, *point.overrides])
            if problems:
                checked(tree, problems)
            point = point._replace(overrides=tuple(overrides))
            composed = compose(point.overrides)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError([cannot_compose(error)]) from None
    choices: dict[str, Any] = dict(composed.hydra.runtime.choices)
    plain = tuple(text.lstrip("+") for text in point.overrides)
    tree, choices = with_saved(to_tree(composed), plain, choices, page=page)
    config = checked(tree)
    return CheckedJob(point, config, config.name or str(choices["task"]), choices)


def rest_of(sweep: Sweep, states: Sequence[JobState], compose: Compose, *, changes: Sequence[str]) -> list[Launchable]:
    """Return the jobs that are not done, with the overrides that go on with their runs where that can be.

    Args:
        sweep: the sweep.
        states: how far its jobs are.
        compose: overrides -> what Hydra composes.
        changes: overrides that may differ from those of the sweep, and take their place.
    Raises:
        ConfigError: a job that starts afresh is refused.
    """
    left = [
        (Launchable(job, changed(job.overrides, changes)), state)
        for job, state in zip(sweep.jobs, states, strict=True)
        if state.status not in DONE
    ]
    jobs = [go_on(one, state, compose, sweep.page) for one, state in left]
    check_all(
        [Point(one.overrides, one.job.varied) for one, (fresh, _) in zip(jobs, left, strict=True) if one == fresh],
        compose,
        sweep.page,
    )
    return jobs


def go_on(one: Launchable, state: JobState, compose: Compose, page: Sequence[str]) -> Launchable:
    """Return an interrupted job with the overrides that go on with its run at its last checkpoint.

    It is returned unchanged, with a warning, when there is no checkpoint, or one that is damaged or has no step left.
    """
    if state.status != "interrupted" or state.run is None:
        return one
    overrides = changed(one.overrides, [f"{FROM}={quoted(state.run)}", f"{CHECKPOINT}=last"])
    try:
        check_job(Point(overrides, one.job.varied), compose, page)
    except ConfigError as error:
        print(f"warning sweep: job {one.job.number} starts afresh: {error.problems[0]}", file=sys.stderr)
        return one
    return Launchable(one.job, overrides)


def _place(numbers: Sequence[int], points: Sequence[Point]) -> str:
    """Say which jobs have a problem."""
    total, first = len(points), numbers[0]
    if len(numbers) == total:
        return f"all {total} jobs"
    name = points[first - 1].name
    if len(numbers) == 1:
        return f"job {first} of {total}: {name}"
    return f"{len(numbers)} of {total} jobs, first job {first}: {name}"


def unique(jobs: Sequence[CheckedJob]) -> tuple[list[CheckedJob], list[str]]:
    """Return the jobs without those whose configuration an earlier one has, and a sentence for each left out."""
    first: dict[str, int] = {}
    kept, notes = [], []
    for number, job in enumerate(jobs, start=1):
        earlier = first.setdefault(job.config.model_dump_json(by_alias=True), number)
        if earlier == number:
            kept.append(job)
        else:
            notes.append(f"job {number} ({job.point.name}) is the same as job {earlier} and runs once.")
    return kept, notes
