"""A multirun that searches: `-m hydra/sweeper=optuna`. Checked whole, asked in rounds, told, gone on with, reported."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from hydra.types import HydraContext
from omegaconf import DictConfig

from runner.errors import SweepError
from runner.search.opening import Plan
from runner.search.options import SECTION, SearchOptions
from runner.sweeps.check import go_on, rest_of
from runner.sweeps.launch import Share, divide_cores, is_in_this_process, make_launcher
from runner.sweeps.place import alone, new_directory, reopened
from runner.sweeps.resume import KEY, resumed_directory
from runner.tracking.sweep_file import JobState, Launchable, Sweep
from runner.tracking.sweep_observed import Stand, write_known
from runner.tracking.sweep_runs import DONE, SweepRuns

if TYPE_CHECKING:
    from runner.search.known import Earlier
    from runner.sweeps.search_page import SearchPage

_Begun = tuple[Sweep, SweepRuns, Sequence[Launchable]]
RESULTS = "optimization_results.yaml"


def run_search(arguments: list[str], *, context: HydraContext, config: DictConfig, options: SearchOptions) -> None:
    """Search, or go on with a search.

    Args:
        arguments: overrides, without Hydra's own.
        context: Hydra's.
        config: the page without the overrides that vary.
        options: how.
    Raises:
        ConfigError: something is refused; nothing has started and nothing is written.
        SweepError: no trial finished, too many failed, or a signal ended it.
    """
    from runner.search.known import Mlflow, find_known
    from runner.search.opening import check_study
    from runner.search.planning import make_plan, named_in
    from runner.sweeps.search_page import read_page

    resumed = resumed_directory(arguments)
    arguments = [text for text in arguments if not text.startswith(f"{KEY}=")]
    with ExitStack() as closing:
        runs = closing.enter_context(reopened(resumed)) if resumed is not None else None
        page = read_page(arguments, context, config, options, words=runs.sweep.page if runs is not None else None)
        parts = {"sampler": options.sampler, "pruner": options.pruner}
        plan = make_plan(page.base.config, page.space, page.extend, options, **parts, section=SECTION)
        entries = options.known if runs is None else []
        mlflow = Mlflow(page.base.config.tracking.uri, page.base.experiment)
        known = find_known(entries, mlflow, key=f"{SECTION}.known")
        directory = resumed or Path(str(config.hydra.sweep.dir))
        plan = named_in(plan, directory)
        check_study(plan)
        if resumed is None:
            closing.enter_context(alone(new_directory(directory)))
        _Search(page, plan, options, directory, config, known).run(context, runs, arguments)


class _Search:
    """A search in its directory, which is locked.

    Args:
        page, plan: what is searched.
        options: how.
        directory: of the sweep.
        config: the page without the overrides that vary.
        known: earlier runs to learn from.
    """

    def __init__(
        self,
        page: SearchPage,
        plan: Plan,
        options: SearchOptions,
        directory: Path,
        config: DictConfig,
        known: Sequence[Earlier],
    ) -> None:
        from runner.search.judge import write_judge
        from runner.search.parts import is_none
        from runner.search.study import Study
        from runner.sweeps.course import find_gpus
        from runner.sweeps.rounds import Rounds

        self._page, self._directory, self._config = page, directory, config
        self._known = known
        self.study = Study(plan, directory)
        threads = divide_cores(config, options.n_jobs or os.cpu_count() or 1)
        self.rounds = Rounds(
            study=self.study,
            check=page.check,
            experiment=page.base.experiment,
            share=Share(threads, find_gpus()),
            at_once=options.n_jobs or _at_once(config, threads),
            total=options.n_trials,
            max_failure_rate=options.max_failure_rate,
        )
        pruner = None if is_none(options.pruner) else options.pruner
        about = plan.about(self.study.place)
        write_judge(directory, {**about, "pruner": pruner, "prune_after": options.prune_after})

    def run(self, context: HydraContext, runs: SweepRuns | None, arguments: Sequence[str]) -> None:
        """Run what is missing.

        Args:
            context: Hydra's.
            runs: of the sweep that goes on; None for a new one.
            arguments: overrides, some of which may differ from those of the sweep.
        """
        from runner.sweeps.course import Launch, carry_out
        from runner.sweeps.worker import run_in_sweep

        begun = self._begin() if runs is None else self._go_on(runs, arguments)
        page = self._page
        if begun is None:
            self._end_without_jobs()
            return
        sweep, runs, jobs = begun

        def again(one: Launchable, state: JobState) -> Launchable:
            return go_on(one, state, page.compose, page.words)

        launcher = make_launcher(context, self._config, run_in_sweep)
        launch = Launch(sweep, jobs, runs, page.base.config, again, self.rounds.more, self._total(), self._close)
        carry_out(launch, self._directory, launcher, page=self._config, most=None)
        self._raise_if_given_up()

    def _end_without_jobs(self) -> None:
        """Report a shared study that has all its trials."""
        from runner.sweeps.course import job_of, new_sweep
        from runner.sweeps.end import finish

        base, plan = self._page.base, self.study.plan
        config, sweep = base.config, new_sweep((), self._directory, self._page.words)
        self._close([])
        job = job_of(base, 0, experiment=base.experiment, share=Share())
        tree = config.model_dump(mode="json", by_alias=True)
        stand = Stand(job, config.optimizer.lr_key, plan.loss, base.choices, tree)
        finish(
            self._directory,
            sweep,
            (),
            tracking=config.tracking,
            signal=None,
            safety=config.search.safety,
            is_search=True,
            quiet=config.quiet,
            stand=stand,
        )
        self._raise_if_given_up()

    def _total(self) -> int:
        """Return how many jobs there will be at most: a space of lists has only so many points."""
        space, total = self.study.plan.space, self.rounds.total
        counted = [one.values for one in space.values()]
        whole = math.prod(len(values) for values in counted if values is not None)
        return total if None in counted or self._page.extend is not None else min(total, whole)

    def _raise_if_given_up(self) -> None:
        if self.rounds.gave_up or self.study.has_only_failed:
            raise SweepError("the search gave up", exit_code=1)

    def _begin(self) -> _Begun | None:
        from runner.sweeps.course import new_sweep

        self._learn()
        first = self.rounds.more([])
        if first is None:
            return None
        sweep = new_sweep(self.rounds.jobs, self._directory, self._page.words)
        return sweep, SweepRuns(sweep, Path.cwd()), first.jobs

    def _learn(self) -> None:
        """Tell the study of earlier runs."""
        from runner.search.known import learn
        from runner.search.page import page_of_task

        def page_of(overrides: Mapping[str, str]) -> Mapping[str, str]:
            return page_of_task(self._page.check(overrides).config.model_dump(mode="json", by_alias=True))

        if self._known:
            print(learn(self.study, self._known, page_of), file=sys.stderr)

    def _go_on(self, runs: SweepRuns, arguments: Sequence[str]) -> _Begun:
        """Return the jobs that are left, and those of trials that became none that is written down."""
        sweep, states, rounds = runs.sweep, runs.states(), self.rounds
        changes = [text for text in arguments if sweep.may_change(text)]
        left = rest_of(sweep, states, self._page.compose, changes=changes)
        for number in {one.job.number for one in left} - self.study.in_flight().keys():
            self.study.again(number)
        rounds.jobs = list(sweep.jobs)
        flying = self.study.in_flight()
        lost = [trial for job in flying.keys() - {job.number for job in sweep.jobs} for trial in flying.pop(job)]
        rounds.flying = {job: [trial.number for trial in trials] for job, trials in flying.items()}
        rounds.tell(states, ends=DONE)  # those that failed are made again
        states = [state if state.status in DONE else JobState() for state in states]
        fresh = rounds.enlist(lost, states)
        runs.grow(rounds.jobs)
        return runs.sweep, runs, [*left, *(Launchable(job, job.overrides) for job in fresh)]

    def _close(self, states: Sequence[JobState]) -> None:
        """Tell the last jobs, write the best trial, and say what came of the search."""
        from runner.search.elsewhere import made_elsewhere

        self.rounds.tell(states)
        if others := made_elsewhere(self.study, self._page.base.config):
            write_known(self._directory, others)
        counts, best = self.study.counts(), self.study.best()
        plan = self.study.plan
        solutions = [
            {"params": dict(trial.params), "values": [float(value) for value in trial.values]} for trial in best
        ]
        results: dict[str, object] = {"name": "optuna"}
        if len(plan.metrics) > 1:
            results["solutions"] = solutions
        elif best:
            results |= {"best_params": solutions[0]["params"], "best_value": best[0].values[0]}
        (self._directory / RESULTS).write_text(yaml.safe_dump(results, sort_keys=False), encoding="utf-8")
        if self.rounds.gave_up:
            print(self.study.told_to_fail(), file=sys.stderr)
        if counts.diverged and not best:
            print("warning search: every trial diverged. Lower the range of optimizer.lr", file=sys.stderr)
        if not self._page.base.config.quiet:
            print(f"search {plan.name}: {counts}", flush=True)


def _at_once(config: DictConfig, threads: int | None) -> int:
    """Return how many trials are asked for at once: as many as run at once."""
    if is_in_this_process(config):
        return 1
    return int(config.hydra.launcher.n_jobs) if threads is not None else os.cpu_count() or 1
