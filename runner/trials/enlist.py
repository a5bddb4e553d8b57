"""Points made into checked trials: composed, checked, and entered among the jobs of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from runner.config import Invocation
from runner.errors import ConfigError, Problem
from runner.search.page import differing, page_of_task
from runner.sweeps.check import CheckedJob, Compose, Point, check_all, check_job, go_on
from runner.sweeps.course import common_name, job_of
from runner.sweeps.launch import Share
from runner.tracking.mapping import params
from runner.tracking.sweep_file import Job, JobState, Launchable, Sweep, changed, key_of
from runner.trials.composing import composer

_OF_SWEEPS = ("sweep", "search", "mode", "sampler", "pruner")  # sections and groups that a trial does not have


class Page:
    """The page of a sweep, on which its trials are made.

    Args:
        invocation: how the program was called; what only concerns the sweep is left out of its trials.
        share: of the machine.
    """

    def __init__(self, invocation: Invocation, *, share: Share) -> None:
        self.page = invocation.page
        self.compose: Compose = composer(invocation.page)
        self.base = tuple(text for text in invocation.overrides if not _is_of_sweeps(text))
        self._share = share
        self._name: str | None = None
        self._checked = dict[tuple[str, ...], CheckedJob]()
        if self.compose(self.base).hydra.runtime.choices["mode"] != "train":  # the page itself chooses the sweep
            self.base = (*self.base, "mode=train")

    def overrides(self, point: Mapping[str, str]) -> tuple[str, ...]:
        """Return the command line of a point."""
        return changed(self.base, [f"{key}={value}" for key, value in point.items()])

    def check(self, points: Sequence[Mapping[str, str]]) -> list[CheckedJob]:
        """Compose and check points; one that was checked before, and is no job yet, is not checked again.

        Raises:
            ConfigError: with all problems of all of them; each says which have it.
        """
        given = [Point(self.overrides(point), point) for point in points]
        new = [point for point in given if point.overrides not in self._checked]
        self._checked |= {
            one.overrides: job for one, job in zip(new, check_all(new, self.compose, self.page), strict=True)
        }
        return [self._checked[point.overrides] for point in given]

    def enlist(self, checked: Sequence[CheckedJob], first_number: int) -> tuple[list[Job], list[CheckedJob]]:
        """Return jobs for sweep.json, with the name of the first of them and their shares of the machine.

        Args:
            checked: points that are no jobs yet.
            first_number: number of the first job.
        """
        if self._name is None and checked:
            self._name = common_name(job.experiment for job in checked)
        self._checked.clear()
        jobs, final = list[Job](), list[CheckedJob]()
        for number, one in enumerate(checked, start=first_number):
            name = one.experiment if one.config.name is not None else str(self._name)
            job = job_of(one, number, experiment=name, share=self._share)
            is_same = job.overrides == one.point.overrides
            jobs.append(job)
            final.append(one if is_same else self.check_one(job.overrides, job.varied))
        return jobs, final

    def check_one(self, overrides: tuple[str, ...], varied: Mapping[str, str]) -> CheckedJob:
        """Compose and check one command line."""
        return check_job(Point(overrides, varied), self.compose, self.page)

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
