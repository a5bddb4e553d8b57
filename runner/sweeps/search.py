"""A multirun that searches: `-m hydra/sweeper=optuna`. Checked whole, asked in rounds, told, gone on with, reported."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from hydra.types import HydraContext
from omegaconf import DictConfig

from runner.compose import page_of
from runner.errors import ConfigError, Problem, SweepError
from runner.search.custom import extend_by
from runner.search.goals import choose_goals, reported
from runner.search.opening import Extend, Plan
from runner.search.options import SECTION, SearchOptions
from runner.search.space import Space, corners, read_space, split_overrides
from runner.sweeps.check import CheckedJob, Compose, Point, check_all, check_job, go_on, rest_of
from runner.sweeps.launch import divide_cores, is_in_this_process, make_launcher
from runner.sweeps.place import new_directory
from runner.sweeps.resume import KEY, read_resumed, refuse_if_alive, resumed_directory
from runner.tracking.address import absolute
from runner.tracking.lock import alone_in
from runner.tracking.sweep_file import JobState, Launchable, Sweep
from runner.tracking.sweep_runs import DONE, SweepRuns

_Begun = tuple[Sweep, SweepRuns, Sequence[Launchable]]
RESULTS = "optimization_results.yaml"


@dataclass(frozen=True)
class _Page:
    """What every trial has in common.

    Attributes:
        fixed: overrides.
        space: what varies.
        extend: a function of the user's that has more vary.
        base: the first end of every dimension, checked.
        compose: overrides -> what Hydra composes.
        words: `--config-dir` and `--config-name` as given.
    """

    fixed: Sequence[str]
    space: Space
    extend: Extend | None
    base: CheckedJob
    compose: Compose
    words: tuple[str, ...]

    def check(self, overrides: Mapping[str, str]) -> CheckedJob:
        """Compose and check one trial.

        Raises:
            ConfigError: it is refused.
        """
        return check_job(_point(self.fixed, self.space, overrides), self.compose, self.words)


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
    resumed = resumed_directory(arguments)
    arguments = [text for text in arguments if not text.startswith(f"{KEY}=")]
    sweep = read_resumed(resumed) if resumed is not None else None
    page = _read_page(arguments, context, config, options, words=sweep.page if sweep is not None else None)
    plan = _plan(page, options)
    directory = resumed or new_directory(Path(str(config.hydra.sweep.dir)))
    with alone_in(directory, key=KEY, what="a sweep that no other process is running"):
        _Search(page, plan, options, directory, config).run(context, sweep, arguments)


def _read_page(
    arguments: list[str],
    context: HydraContext,
    config: DictConfig,
    options: SearchOptions,
    *,
    words: tuple[str, ...] | None,
) -> _Page:
    """Read what varies, and check the ends of the space.

    Raises:
        ConfigError: with all that is wrong.
    """

    def compose(overrides: Sequence[str]) -> DictConfig:
        return context.config_loader.load_sweep_config(config, list(overrides))

    fixed, varying = split_overrides(arguments, config_loader=context.config_loader)
    space = read_space(varying, config_loader=context.config_loader)
    extend = extend_by(options.custom_search_space, config, key=f"{SECTION}.custom_search_space")
    if not space and extend is None:
        rule = "must have something vary in a search, got nothing that does"
        raise ConfigError([Problem(f"{SECTION}.params", rule, "Add for example 'optimizer.lr=interval(1e-5,1)'")])
    words = page_of(sys.argv[1:]) if words is None else words
    points = [_point(fixed, space, corner) for corner in corners(space)]
    base = check_all(points, compose, words)[0]
    if not base.config.mode.makes_run:
        raise ConfigError([Problem("mode", "must be train in a search", "Leave it out")])
    return _Page(fixed, space, extend, base, compose, words)


def _point(fixed: Sequence[str], space: Space, overrides: Mapping[str, str]) -> Point:
    prefixes = {key: space[key].prefix if key in space else "" for key in overrides}
    texts = [f"{prefixes[key]}{key}={value}" for key, value in overrides.items()]
    return Point((*(text for text in fixed if text.lstrip("+").partition("=")[0] not in overrides), *texts), overrides)


def _plan(page: _Page, options: SearchOptions) -> Plan:
    """Return what is searched, checked as far as that goes without the study.

    Raises:
        ConfigError: with what is wrong with metric, sampler or pruner.
    """
    from runner.build import find_facts  # imports torch
    from runner.search.fingerprint import fingerprint
    from runner.search.page import page_of_task
    from runner.search.parts import is_none, make_pruner, make_sampler

    config = page.base.config
    facts = find_facts(config.task, config.train, config.resume, config.seed)
    known = reported(facts.goals, facts.examples)
    metrics, directions = choose_goals(options.metric, options.direction, known, section=SECTION)
    make_sampler(options.sampler, page.space, key=f"{SECTION}.sampler")
    make_pruner(options.pruner, key=f"{SECTION}.pruner")
    if len(metrics) > 1 and not is_none(options.pruner):
        rule = f"must be none with several metrics, got {options.pruner['_target_']}"
        raise ConfigError([Problem(f"{SECTION}.pruner", rule, "Set hydra/sweeper/pruner=none")])
    texts = {key: dimension.text for key, dimension in page.space.items()}
    if options.custom_search_space is not None:
        texts["custom_search_space"] = options.custom_search_space
    tree = page_of_task(config.model_dump(mode="json", by_alias=True))
    return Plan(
        space=page.space,
        extend=page.extend,
        fingerprint=fingerprint(texts, tree, metrics, directions),
        metrics=metrics,
        directions=directions,
        sampler=options.sampler,
        storage=_place_of(options.storage),
        name=options.study_name or "",
        section=SECTION,
    )


def _place_of(storage: str | dict[str, object] | None) -> str | dict[str, object] | None:
    """Return a storage that workers find too, wherever they run."""
    if not isinstance(storage, str):
        return storage
    return absolute(storage) if "://" in storage else os.path.abspath(storage.removeprefix("journal:"))


class _Search:
    """A search in its directory, which is locked.

    Args:
        page, plan: what is searched.
        options: how.
        directory: of the sweep.
        config: the page without the overrides that vary.
    """

    def __init__(self, page: _Page, plan: Plan, options: SearchOptions, directory: Path, config: DictConfig) -> None:
        from runner.search.judge import read_judge, write_judge
        from runner.search.parts import is_none
        from runner.search.study import Study
        from runner.sweeps.course import find_gpus
        from runner.sweeps.rounds import Rounds, Share

        self._page, self._directory, self._config = page, directory, config
        before = read_judge(directory)
        name = plan.name or (before["name"] if before is not None else directory.name)
        self.study = Study(plan.named(name), directory)
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
        about = {"storage": plan.storage, "name": name, "place": self.study.place, "metric": plan.metrics[0]}
        pruner = None if is_none(options.pruner) else options.pruner
        write_judge(directory, {**about, "pruner": pruner, "prune_after": options.prune_after})

    def run(self, context: HydraContext, sweep: Sweep | None, arguments: Sequence[str]) -> None:
        """Run what is missing.

        Args:
            context: Hydra's.
            sweep: that goes on; None for a new one.
            arguments: overrides, some of which may differ from those of the sweep.
        """
        from runner.sweeps.course import Launch, carry_out
        from runner.sweeps.worker import run_in_sweep

        begun = self._begin() if sweep is None else self._go_on(sweep, arguments)
        if begun is None:  # a shared study that has all its trials
            self._close([])
            print(self._directory, flush=True)
            self._raise_if_given_up()
            return
        sweep, runs, jobs = begun
        page = self._page

        def again(one: Launchable, state: JobState) -> Launchable:
            return go_on(one, state, page.compose, page.words)

        launcher = make_launcher(context, self._config, run_in_sweep)
        launch = Launch(sweep, jobs, runs, page.base.config, again, self.rounds.more, self.rounds.total, self._close)
        carry_out(launch, self._directory, launcher, page=self._config, most=None)
        self._raise_if_given_up()

    def _raise_if_given_up(self) -> None:
        if self.rounds.gave_up:
            raise SweepError("the search gave up", exit_code=1)

    def _begin(self) -> _Begun | None:
        from runner.sweeps.course import new_sweep

        first = self.rounds.more([])
        if first is None:
            return None
        sweep = new_sweep(self.rounds.jobs, self._directory, self._page.words)
        return sweep, SweepRuns(sweep, Path.cwd()), first.jobs

    def _go_on(self, sweep: Sweep, arguments: Sequence[str]) -> _Begun:
        """Return the jobs that are left, with those of trials that were asked for and never became one."""
        runs = SweepRuns(sweep, Path.cwd())
        refuse_if_alive(self._directory, runs.directories())
        states, rounds = runs.states(), self.rounds
        changes = [text for text in arguments if sweep.may_change(text)]
        left = rest_of(sweep, states, self._page.compose, changes=changes)
        for number in {one.job.number for one in left} - self.study.in_flight().keys():
            self.study.again(number)
        rounds.jobs = list(sweep.jobs)
        flying = self.study.in_flight()
        lost = flying.pop(0, [])
        rounds.flying = {job: [trial.number for trial in trials] for job, trials in flying.items()}
        rounds.tell(states, ends=DONE)  # those that failed are made again
        states = [state if state.status in DONE else JobState() for state in states]
        fresh = rounds.enlist(lost, states)
        runs.grow(rounds.jobs)
        return runs.sweep, runs, [*left, *(Launchable(job, job.overrides) for job in fresh)]

    def _close(self, states: Sequence[JobState]) -> None:
        """Tell the last jobs, write the best trial, and say what came of the search."""
        self.rounds.tell(states)
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
            failed, ended = self.rounds.failed, self.rounds.ended
            more = f"more than {SECTION}.max_failure_rate allows"
            print(f"warning search: {failed} of {ended} trials failed, {more}", file=sys.stderr)
        if counts.diverged and not best:
            print("warning search: every trial diverged. Lower the range of optimizer.lr", file=sys.stderr)
        if not self._page.base.config.quiet:
            print(f"search {plan.name}: {counts}", flush=True)


def _at_once(config: DictConfig, threads: int | None) -> int:
    """Return how many trials are asked for at once: as many as run at once."""
    if is_in_this_process(config):
        return 1
    return int(config.hydra.launcher.n_jobs) if threads is not None else os.cpu_count() or 1
