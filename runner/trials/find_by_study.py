"""A search by one of Optuna's samplers: a study is asked for points, their runs are made, and it is told of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from runner.config import Config, Invocation
from runner.curves import number
from runner.errors import ConfigError, Problem, SweepError
from runner.nodes import Node
from runner.rates import plan_of as planned_steps
from runner.search.custom import extend_by
from runner.search.ended import ended_of
from runner.search.fingerprint import fingerprint
from runner.search.goals import choose_goals, reported
from runner.search.judge import Judge
from runner.search.known import Mlflow, find_known, learn
from runner.search.opening import Plan
from runner.search.page import page_of_task
from runner.search.parts import is_none, make_pruner, make_sampler
from runner.search.space import Space, corners, read_space, space_of
from runner.search.study import Study
from runner.search.trials import Asked, has_too_many_failed
from runner.tracking.sweep_file import JobState
from runner.trials.find_lr import bounds_of, lr_key_of
from runner.trials.point import Point

if TYPE_CHECKING:
    from runner.trials.trials import Trials

_AT_ONCE = {"sequential": 1, "auto": 4, "lanes": 4}  # trials asked for together, where no worker processes are
_SECTION = "search"


def plan_of(config: Config, invocation: Invocation, evaluate: Trials) -> Plan:
    """Return what is searched, checked as far as that goes without the study.

    Raises:
        ConfigError: with what is wrong.
    """
    from runner.build import find_facts  # imports torch

    search, sampler = config.search, section_of(config.sampler)
    texts = dict(search.space) or {lr_key_of(config): "interval({}, {})".format(*map(number, bounds_of(config)))}
    extend = extend_by(search.custom_search_space, invocation.tree, key=f"{_SECTION}.custom_search_space")
    space: Space = read_space(space_of(texts))
    checked = evaluate.check([Point(corner) for corner in corners(space)])
    facts = find_facts(config.task, config.train, config.resume, config.seed)
    known = reported(facts.goals, facts.examples)
    metrics, directions = choose_goals(search.metric, search.direction, known, section=_SECTION)
    make_sampler(sampler, space, key="sampler")
    make_pruner(section_of(config.pruner), key="pruner")
    if len(metrics) > 1 and not is_none(section_of(config.pruner)):
        rule = f"must be none with several metrics, got {config.pruner.target}"
        raise ConfigError([Problem("pruner", rule, "Set pruner=none")])
    if "train.duration" in space and not is_none(section_of(config.pruner)):
        rule = f"must be none where train.duration varies, got {config.pruner.target}"
        raise ConfigError([Problem("pruner", rule, "Set pruner=none")])
    tree = page_of_task(checked[0].config.model_dump(mode="json", by_alias=True))
    said = {key: dimension.text for key, dimension in space.items()}
    if search.custom_search_space is not None:
        said["custom_search_space"] = search.custom_search_space
    name = search.study_name or evaluate.directory.name
    about = fingerprint(said, tree, metrics, directions)
    return Plan(space, extend, about, metrics, directions, sampler, search.storage, name, _SECTION)


def section_of(node: Node) -> dict[str, object]:
    """Return a node as the section of a page that it was."""
    return {"_target_": node.target, **node.arguments}


def find_by_study(config: Config, plan: Plan, evaluate: Trials) -> None:
    """Make the trials that are missing in the study; a signal ends it.

    Raises:
        SweepError: too many trials failed, or the storage of the study did.
    """
    search, failed, ended = config.search, 0, 0
    evaluate([])  # makes the directory of the sweep, which the study is locked by
    study = Study(plan, evaluate.directory)
    _learn(config, study, evaluate)
    at_once = config.sweep.jobs or _AT_ONCE.get(config.sweep.backend, 2)
    asked: Sequence[Asked] = [trial for trials in study.in_flight().values() for trial in trials]
    while asked := asked or study.ask(at_once, total=search.n_trials):
        judge = _Judges(config, study, asked)
        found = evaluate([Point(trial.overrides) for trial in asked], on_eval=judge if judge.is_needed else None)
        for trial, one in zip(asked, found, strict=True):
            if one.status not in ("waiting", "interrupted"):
                state = JobState(one.status, one.status, one.run or None, one.steps, one.planned_steps)
                study.tell(trial.number, ended_of(state, plan.metrics))
                failed, ended = failed + (one.status == "failed"), ended + 1
        if evaluate.signal is not None:
            return
        if has_too_many_failed(failed, ended, most=search.max_failure_rate):
            rule = f"{failed} of {ended} trials failed, more than {_SECTION}.max_failure_rate allows"
            raise SweepError(f"the search gave up: {rule}", exit_code=1)
        asked = []
    if not config.quiet:
        print(f"search {plan.name}: {study.counts()}", flush=True)


class _Judges:
    """Asks the pruner at every evaluation of a batch."""

    def __init__(self, config: Config, study: Study, asked: Sequence[Asked]) -> None:
        self.is_needed = not is_none(section_of(config.pruner))
        if self.is_needed:
            judging = study.with_pruner(make_pruner(section_of(config.pruner), key="pruner"))
            metric, after = study.plan.metrics[0], config.search.prune_after
            self._judges = [Judge(judging, [trial.number], metric=metric, prune_after=after) for trial in asked]
            self._steps = planned_steps(config).steps

    def __call__(self, place: int, step: int, metrics: Mapping[str, float]) -> bool:
        """Return whether a trial is given up."""
        return self._judges[place](step, self._steps, metrics)


def _learn(config: Config, study: Study, evaluate: Trials) -> None:
    """Tell the study of earlier runs."""
    if not config.search.known:
        return

    def page_of(overrides: Mapping[str, str]) -> Mapping[str, str]:
        [checked] = evaluate.check([Point(overrides)])
        return page_of_task(checked.config.model_dump(mode="json", by_alias=True))

    mlflow = Mlflow(config.tracking.uri, evaluate.experiment)
    runs = find_known(config.search.known, mlflow, key=f"{_SECTION}.known")
    print(learn(study, runs, page_of), file=sys.stderr)
