"""A study on disk: asked for trials in batches, told what they came to, and gone on with where it stopped."""

from __future__ import annotations

import functools
import math
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import ConfigError
from runner.search.judge import Judge
from runner.search.opening import Plan, answering, enter, is_gone, open_study
from runner.search.parts import GRID, make_pruner, make_sampler
from runner.search.space import varied_texts
from runner.search.storage import is_shared, quiet_optuna
from runner.search.trials import Asked, Counts, Ended, value_of_diverged

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.trial import FrozenTrial

ALONE = "here"
"""place of the trials of a study that is not shared: wherever its sweep lies, and on whatever machine"""
PLACE, JOB, KNOWN, STATUS = "place", "job", "known", "status"
DIVERGED = "diverged"
_APART = 100_000  # between the seeds of searches that share a study: more trials than it has


class Study:
    """Trials of a plan.

    Args:
        plan: what is searched.
        directory: of the sweep; it is locked by this process.
    Attributes:
        ended, failed: trials that were told in this launch, and those of them that have failed.
    Raises:
        ConfigError: the storage cannot be opened, or has a study of this name that is about something else.
    """

    def __init__(self, plan: Plan, directory: Path) -> None:
        self.plan = plan
        self.place = f"{socket.gethostname()}:{directory.absolute()}" if is_shared(plan.storage) else ALONE
        self.ended = self.failed = 0
        self._answering = functools.partial(answering, plan, directory)
        with quiet_optuna():
            self._study = open_study(plan, directory)
            self._give_up_dead()
            offset = len(self._study.trials)
            if is_shared(plan.storage):
                with self._answering():
                    offset += _APART * enter(self._study, self.place)
            self._study.sampler = make_sampler(plan.sampler, plan.space, key=plan.sampler_key, seed_offset=offset)

    def _give_up_dead(self) -> None:
        """Mark what processes that are gone have left running as failed; their points come first in what is asked next.

        Those of this place are left to `in_flight`. What nobody has signed is given up only where no other search may
        be about to.
        """
        from optuna.trial import TrialState

        with self._answering():
            for trial in self._in_state("RUNNING"):
                place = str(trial.user_attrs.get(PLACE, ""))
                if self._is_own(trial) or not (is_gone(place) if place else not is_shared(self.plan.storage)):
                    continue
                self._study.tell(trial.number, state=TrialState.FAIL)
                if trial.params:
                    self._study.enqueue_trial(trial.params)

    def _is_own(self, trial: FrozenTrial) -> bool:
        """Whether this sweep has asked for a trial: where nobody shares the study, it has asked for all."""
        place = trial.user_attrs.get(PLACE)
        return place is not None and (place == self.place or not is_shared(self.plan.storage))

    def _in_state(self, name: str) -> list[FrozenTrial]:
        from optuna.trial import TrialState

        return self._study.get_trials(deepcopy=False, states=(TrialState[name],))

    def ask(self, most: int, *, total: int) -> list[Asked]:
        """Return trials to run now.

        Args:
            most: how many.
            total: trials wanted in the study, over all launches and all searches that share it; those known, and those
                that failed in an earlier launch, do not count.
        Returns:
            fewer, or none, where no more are wanted.
        Raises:
            SweepError: the storage failed.
        """
        asked = list[Asked]()
        with quiet_optuna(), self._answering():
            while len(asked) < most and self._taken() < total and not self._is_exhausted():
                trial = self._study.ask({key: one.distribution for key, one in self.plan.space.items()})
                trial.set_user_attr(PLACE, self.place)
                if self._rank(trial.number) >= total:  # another search was faster
                    self._fail(trial.number)
                    break
                self._extend(trial)
                asked.append(Asked(trial.number, varied_texts(self.plan.space, trial.params), trial.params))
        return asked

    def _extend(self, trial: Trial) -> None:
        """Let a function of the user's ask the trial for what the space does not have."""
        if self.plan.extend is None:
            return
        try:
            self.plan.extend(trial)
        except ConfigError:
            self._fail(trial.number)
            raise

    def _taken(self) -> int:
        return sum(map(_counts, self._study.get_trials(deepcopy=False))) + self.failed

    def _rank(self, number: int) -> int:
        trials = self._study.get_trials(deepcopy=False)
        return sum(_counts(trial) for trial in trials if trial.number < number) + self.failed

    def _is_exhausted(self) -> bool:
        """Whether every point of a grid has been asked for."""
        if self.plan.sampler.get("_target_") != GRID:
            return False
        points = {trial.system_attrs.get("grid_id") for trial in self._study.get_trials(deepcopy=False)} - {None}
        return len(points) >= math.prod(len(one.values or ()) for one in self.plan.space.values())

    def in_flight(self) -> dict[int, list[Asked]]:
        """Return the trials of this sweep that are still to be told, by the number of their job; 0 for none."""
        found: dict[int, list[Asked]] = {}
        with self._answering():
            for trial in self._in_state("RUNNING"):
                if self._is_own(trial):
                    asked = Asked(trial.number, varied_texts(self.plan.space, trial.params), trial.params)
                    found.setdefault(int(trial.user_attrs.get(JOB, 0)), []).append(asked)
        return found

    def assign(self, number: int, job: int) -> None:
        """Write down which job of the sweep a trial is."""
        with self._answering():
            self._trial(number).set_user_attr(JOB, job)

    def again(self, job: int) -> None:
        """Set a trial running again that has failed as this job of the sweep; nothing where there is none."""
        from optuna.trial import TrialState, create_trial

        with quiet_optuna(), self._answering():
            failed = [
                trial for trial in self._in_state("FAIL") if trial.user_attrs.get(JOB) == job and self._is_own(trial)
            ]
            if failed:
                attrs = {JOB: job, PLACE: self.place}
                last = failed[-1]
                trial = create_trial(
                    state=TrialState.RUNNING, params=last.params, distributions=last.distributions, user_attrs=attrs
                )
                self._study.add_trial(trial)

    def tell(self, number: int, ended: Ended) -> None:
        """Say what a trial came to; nothing where that is known.

        One that diverged has a finite bad value and breaks the constraint "diverged", so that samplers keep away from
        where it was; its step and what it said are among its attributes.

        Raises:
            SweepError: the storage failed.
        """
        from optuna.trial import TrialState

        with quiet_optuna(), self._answering():
            trial = self._trial(number)
            frozen = self._study._storage.get_trial(trial._trial_id)
            if frozen.state.is_finished():
                return
            for name, value in (("steps", ended.steps), ("run", ended.run), ("verdict", ended.verdict)):
                trial.set_user_attr(name, value)
            status = "diverged" if ended.is_diverged else ended.status
            trial.set_user_attr(STATUS, status)
            self.ended += 1
            if status == "failed":
                self.failed += 1
                self._fail(number)
                return
            trial.set_constraint(DIVERGED, 1.0 if status == "diverged" else -1.0)
            if status == "pruned":
                self._finish(number, None, TrialState.PRUNED)
                return
            values = list(ended.values) if status == "finished" else self._bad_values(ended)
            self._finish(number, values, TrialState.COMPLETE)

    def _fail(self, number: int) -> None:
        from optuna.trial import TrialState

        self._finish(number, None, TrialState.FAIL)

    def _finish(self, number: int, values: list[float] | None, state: Any) -> None:
        try:
            self._study.tell(number, values, state=state)
        except RuntimeError as error:  # a grid that is done wants to stop a loop that is not Optuna's
            if "Study.stop" not in str(error):
                raise

    def _bad_values(self, ended: Ended) -> list[float]:
        sound = [trial.values for trial in self._in_state("COMPLETE") if trial.user_attrs.get(STATUS) != "diverged"]
        goals = zip(self.plan.metrics, self.plan.directions, strict=True)
        return [
            value_of_diverged(metric, way, others=(values[i] for values in sound), first_loss=ended.first_loss)
            for i, (metric, way) in enumerate(goals)
        ]

    def has_too_many_failed(self, *, most: float) -> bool:
        """Whether more than a share, in [0, 1], of the trials of this launch have failed, of five at least."""
        return self.failed > most * max(5, self.ended)

    @property
    def has_only_failed(self) -> bool:
        """Whether no trial of this launch came to anything."""
        return self.ended > 0 and self.failed == self.ended

    def told_to_fail(self) -> str:
        """Return the warning of a search that gives up."""
        rule = f"more than {self.plan.section}.max_failure_rate allows"
        return f"warning search: {self.failed} of {self.ended} trials failed, {rule}"

    def judge(self, numbers: Sequence[int], pruner: Mapping[str, Any], *, prune_after: float) -> Judge:
        """Return what says at every evaluation whether a trial of this study is given up.

        Args:
            numbers: of the trials that one run is.
            pruner: section with its `_target_`.
            prune_after: percent of the run before which it is not.
        """
        self._study.pruner = make_pruner(pruner, key=f"{self.plan.section}.pruner")
        return Judge(self._study, numbers, metric=self.plan.metrics[0], prune_after=prune_after)

    def add_known(self, source: str, params: Mapping[str, Any], ended: Ended) -> None:
        """Add an earlier run as a trial that has finished; nothing where the study has it.

        Args:
            source: names the run.
            params: dotted key -> value, all of the space and inside it.
            ended: what it came to: finished or diverged.
        """
        from optuna.trial import create_trial

        with quiet_optuna(), self._answering():
            if any(trial.user_attrs.get(KNOWN) == source for trial in self._study.get_trials(deepcopy=False)):
                return
            status = "diverged" if ended.is_diverged else "finished"
            trial = create_trial(
                params=dict(params),
                distributions={key: one.distribution for key, one in self.plan.space.items()},
                values=list(ended.values) if status == "finished" else self._bad_values(ended),
                user_attrs={KNOWN: source, STATUS: status, "steps": ended.steps, "verdict": ended.verdict},
                constraints={DIVERGED: 1.0 if status == "diverged" else -1.0},
            )
            self._study.add_trial(trial)

    def elsewhere(self) -> list[FrozenTrial]:
        """Return the trials with a value that other sweeps have made, or that were known."""
        with quiet_optuna(), self._answering():
            return [trial for trial in self._in_state("COMPLETE") if not self._is_own(trial)]

    def counts(self) -> Counts:
        """Return how many trials came to what."""
        from optuna.trial import TrialState

        with self._answering():
            trials = self._study.get_trials(deepcopy=False)
        told = [trial.user_attrs.get(STATUS) for trial in trials if KNOWN not in trial.user_attrs]
        running = sum(trial.state == TrialState.RUNNING for trial in trials)
        numbers = {name: told.count(name) for name in ("finished", "pruned", "diverged", "failed")}
        return Counts(**numbers, known=len(trials) - len(told), running=running)

    def best(self) -> list[FrozenTrial]:
        """Return the best trial that finished, those of the Pareto front for several metrics, none where none did."""
        with quiet_optuna(), self._answering():
            sound = [trial for trial in self._in_state("COMPLETE") if trial.user_attrs.get(STATUS) == "finished"]
            if len(self.plan.metrics) > 1:
                return list(self._study.best_trials) if sound else []
        sign = 1 if self.plan.directions[0] == "minimize" else -1
        return [min(sound, key=lambda trial: sign * float(trial.values[0]))] if sound else []

    def _trial(self, number: int) -> Trial:
        import optuna

        trials = self._study.get_trials(deepcopy=False)
        return optuna.trial.Trial(self._study, trials[number]._trial_id)


def _counts(trial: FrozenTrial) -> bool:
    """Whether a trial counts towards those wanted."""
    return KNOWN not in trial.user_attrs and trial.state.name in ("COMPLETE", "PRUNED", "RUNNING")
