"""Points made into checked trials: composed, checked, and entered among the jobs of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from runner.compose import quoted
from runner.config import Invocation
from runner.errors import ConfigError, Problem
from runner.search.page import differing, page_of_task
from runner.sweeps.check import CheckedJob, Compose, check_all, check_job, go_on
from runner.sweeps.check import Point as JobPoint
from runner.sweeps.launch import shares
from runner.tracking.mapping import params
from runner.tracking.sweep_file import Job, JobState, Launchable, Sweep, changed, key_of
from runner.trials.composing import composer
from runner.trials.point import Point
from runner.trials.trial import Share

_OF_SWEEPS = ("sweep", "search", "mode", "sampler", "pruner")  # sections and groups that a trial does not have
_NAME_LENGTH = 100


class Page:
    """The page of a sweep, on which its trials are made.

    Args:
        invocation: how the program was called; what only concerns the sweep is left out of its trials.
        share: of the machine; None is all of it.
    """

    def __init__(self, invocation: Invocation, *, share: Share | None = None) -> None:
        self.page = invocation.page
        self.compose: Compose = composer(invocation.page)
        self.base = tuple(text for text in invocation.overrides if not _is_of_sweeps(text))
        self._share = share
        self._name: str | None = None
        if self.compose(self.base).hydra.runtime.choices["mode"] != "train":  # the page itself chooses the sweep
            self.base = (*self.base, "mode=train")

    def overrides(self, point: Point) -> tuple[str, ...]:
        """Return the command line of a point."""
        return changed(self.base, [f"{key}={value}" for key, value in point.overrides.items()])

    def check(self, points: Sequence[Point]) -> list[CheckedJob]:
        """Compose and check points.

        Raises:
            ConfigError: with all problems of all of them; each says which have it.
        """
        given = [JobPoint(self.overrides(point), point.overrides) for point in points]
        return check_all(given, self.compose, self.page)

    def enlist(self, checked: Sequence[CheckedJob], first_number: int) -> tuple[list[Job], list[CheckedJob]]:
        """Return jobs for sweep.json, with the name of the first of them and their shares of the machine.

        Args:
            checked: points that are no jobs yet.
            first_number: number of the first job.
        """
        names = list(dict.fromkeys(job.experiment for job in checked))
        if self._name is None and names:
            self._name = names[0] if len(names) == 1 else "+".join(names)[:_NAME_LENGTH]
        jobs, final = list[Job](), list[CheckedJob]()
        for number, one in enumerate(checked, start=first_number):
            more: tuple[str, ...] = (
                () if one.experiment == self._name or one.config.name else (f"name={quoted(str(self._name))}",)
            )
            if self._share is not None:
                more += shares(one.config.train, number, threads=self._share.threads, gpus=self._share.gpus)
            if more:
                one = self.check_one((*one.point.overrides, *more), one.point.varied)
            config, overrides = one.config, one.point.overrides
            jobs.append(Job(number, overrides, one.point.varied, one.experiment, config.optimizer.lr, config.seed))
            final.append(one)
        return jobs, final

    def check_one(self, overrides: tuple[str, ...], varied: Mapping[str, str]) -> CheckedJob:
        """Compose and check one command line."""
        return check_job(JobPoint(overrides, varied), self.compose, self.page)

    def refuse_changed(self, made: tuple[Job, Path] | None, directory: Path) -> None:
        """Refuse to go on with a sweep whose page says something else today.

        Args:
            made: one of its jobs, and its run directory; None where there is none.
            directory: of the sweep.
        Raises:
            ConfigError: it does; says what.
        """
        if made is None:
            return
        job, run = made
        config = self.check_one(job.overrides, job.varied).config
        page, there = page_of_task(config.model_dump(mode="json", by_alias=True)), params(run)
        if different := differing(there, page):
            said = "; ".join(f"{key} is {there[key]} there and {page.get(key, 'absent')} here" for key in different[:4])
            rule = f"must be a sweep of the same page, got {str(directory)!r}: {said}"
            raise ConfigError([Problem("resume.sweep", rule, "Start a new sweep, or take the change back")])

    def go_on(self, sweep: Sweep, job: Job, state: JobState) -> CheckedJob:
        """Return a job that is not done, going on with its run where there is one with a checkpoint.

        Its overrides are those that its run is found by, in their order, and what this launch says of the rest.
        """
        kept = [text for text in job.overrides if not sweep.may_change(text)]
        overrides = (*kept, *(text for text in self.base if sweep.may_change(text)))
        launchable = go_on(Launchable(job, overrides), state, self.compose, self.page)
        return self.check_one(launchable.overrides, job.varied)


def _is_of_sweeps(text: str) -> bool:
    key = key_of(text)
    return key.partition(".")[0].partition("/")[0] in _OF_SWEEPS or key == "resume.sweep"
