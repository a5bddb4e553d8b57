"""A search as rounds of jobs: asked of the study, checked, and told once they have run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from runner.errors import ConfigError
from runner.search.ended import ended_of
from runner.search.study import Study
from runner.search.trials import Asked, tell_refused
from runner.sweeps.check import CheckedJob
from runner.sweeps.course import Round, job_of
from runner.sweeps.launch import Share
from runner.tracking.sweep_file import Job, JobState, Launchable
from runner.tracking.sweep_runs import DONE


@dataclass
class Rounds:
    """What a search makes and has made.

    Attributes:
        study: asked and told.
        check: overrides of a trial -> the job, checked.
        experiment: that all runs share.
        share: of the machine for every job.
        at_once: most trials asked for at once.
        total: trials wanted in the study.
        max_failure_rate: share of failed trials at which it gives up.
        jobs: all so far.
        flying: number of a job -> its trials that are still to be told.
    """

    study: Study
    check: Callable[[Mapping[str, str]], CheckedJob]
    experiment: str
    share: Share
    at_once: int
    total: int
    max_failure_rate: float
    jobs: list[Job] = field(default_factory=list)
    flying: dict[int, list[int]] = field(default_factory=dict)

    @property
    def gave_up(self) -> bool:
        """Whether too many trials of this launch have failed."""
        return self.study.has_too_many_failed(most=self.max_failure_rate)

    def more(self, states: Sequence[JobState]) -> Round | None:
        """Tell what the jobs came to, and return the next round; None where no more trials are wanted.

        Args:
            states: how far all jobs are; none is running.
        Raises:
            SweepError: the storage of the study failed.
        """
        self.tell(states)
        while not self.gave_up and (asked := self.study.ask(self.at_once, total=self.total)):
            if jobs := self.enlist(asked, states):
                return Round([Launchable(job, job.overrides) for job in jobs], tuple(self.jobs))
        return None

    def enlist(self, asked: Iterable[Asked], states: Sequence[JobState]) -> list[Job]:
        """Return new jobs for trials; a trial that an earlier job has made is that job, and is not run again.

        Args:
            asked: trials.
            states: of the jobs so far.
        """
        fresh = list[Job]()
        for trial in asked:
            twin = next((job for job in self.jobs if job.varied == trial.overrides), None)
            if twin is None:
                twin = self._new_job(trial)
                if twin is None:
                    continue
                self.jobs.append(twin)
                fresh.append(twin)
            self.study.assign(trial.number, twin.number)
            self.flying.setdefault(twin.number, []).append(trial.number)
        self.tell(states)
        return fresh

    def _new_job(self, trial: Asked) -> Job | None:
        try:
            checked = self.check(trial.overrides)
        except ConfigError as error:
            self.study.tell(trial.number, tell_refused(trial, error))
            return None
        number = len(self.jobs) + 1
        return job_of(checked, number, experiment=self.experiment, share=self.share)

    def tell(self, states: Sequence[JobState], *, ends: Sequence[str] = (*DONE, "failed")) -> None:
        """Tell the study what became of its trials, as far as that is known; one to go on with stays as it is.

        Args:
            states: of the jobs, maybe of the first ones only.
            ends: statuses that are told.
        """
        for job, state in zip(self.jobs, states, strict=False):
            if state.status in ends and job.number in self.flying:
                metrics = self.study.plan.metrics
                ended = ended_of(state.status, state.run, metrics, steps=state.steps, verdict=state.verdict)
                for number in self.flying.pop(job.number, ()):
                    self.study.tell(number, ended)
