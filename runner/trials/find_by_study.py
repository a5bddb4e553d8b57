"""A search by one of Optuna's samplers: a study is asked for points, their runs are made, and it is told of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from runner.config import Config, Invocation
from runner.curves import number
from runner.nodes import Node
from runner.rates import steps_of
from runner.search.custom import extend_by
from runner.search.elsewhere import made_elsewhere
from runner.search.judge import write_judge
from runner.search.known import Mlflow, find_known, learn
from runner.search.loop import search
from runner.search.opening import Plan, check_study
from runner.search.parts import is_none
from runner.search.planning import make_plan, named_in
from runner.search.space import Space, corners, read_space, space_of
from runner.search.study import Study
from runner.tracking.sweep_observed import write_known
from runner.trials.bounds import Bounds

if TYPE_CHECKING:
    from runner.trials.trials import Trials

_AT_ONCE = {"sequential": 1, "auto": 4, "lanes": 4}  # trials asked for together, where no worker processes are
_SECTION = "search"


def plan_of(config: Config, invocation: Invocation, evaluate: Trials, bounds: Callable[[], Bounds]) -> Plan:
    """Return what is searched, checked as far as that goes without the study.

    Args:
        config: checked.
        invocation: how the program was called.
        evaluate: checks points.
        bounds: returns where the learning rate is searched; called where there is no space.
    Raises:
        ConfigError: with what is wrong.
    """
    section = config.search
    texts = dict(section.space)
    if not texts:
        low, high, _, _ = bounds()
        texts = {config.optimizer.lr_key: f"interval({number(low)},{number(high)})"}
    page = OmegaConf.create(dict(invocation.tree))
    fixed = evaluate.fixed
    extend = extend_by(section.custom_search_space, page, fixed, key=f"{_SECTION}.custom_search_space")
    space: Space = read_space(space_of(texts))
    checked = evaluate.check(corners(space))
    sampler, pruner = section_of(config.sampler), section_of(config.pruner)
    plan = make_plan(checked[0].config, space, extend, section, sampler=sampler, pruner=pruner, section=_SECTION)
    return named_in(plan, evaluate.directory)


def section_of(node: Node) -> dict[str, object]:
    """Return a node as the section of a page that it was."""
    return {"_target_": node.target, **node.arguments}


def find_by_study(config: Config, plan: Plan, evaluate: Trials) -> bool:
    """Make the trials that are missing in the study; a signal ends it.

    Returns:
        whether it gave up, for too many, or all, have failed.
    Raises:
        ConfigError: known runs are not there, or the study is about something else; nothing is written.
        SweepError: the storage of the study failed.
    """
    section = config.search
    check_study(plan)
    entries = section.known if config.resume.sweep is None else []
    known = find_known(entries, Mlflow(config.tracking.uri, evaluate.experiment), key=f"{_SECTION}.known")
    evaluate.open()  # its lock is that of the study
    study = Study(plan, evaluate.directory)
    write_judge(evaluate.directory, {**plan.about(study.place), "pruner": None, "prune_after": section.prune_after})
    if known:
        print(learn(study, known, evaluate.page_of), file=sys.stderr)

    def check(overrides: Mapping[str, str]) -> int:
        [checked] = evaluate.check([overrides])
        return steps_of(checked.config)

    pruner = section_of(config.pruner)
    seen = search(
        study,
        evaluate,
        total=section.n_trials,
        at_once=config.sweep.jobs or _AT_ONCE.get(config.sweep.backend, 2),
        check=check,
        pruner=None if is_none(pruner) else pruner,
        prune_after=section.prune_after,
        max_failure_rate=section.max_failure_rate,
    )
    if others := made_elsewhere(study, config):
        write_known(evaluate.directory, others)
    if not config.quiet:
        print(f"search {plan.name}: {study.counts()}", flush=True)
    if not seen:
        rule = f"nothing was left to run for search.n_trials={section.n_trials}"
        print(f"warning search: {rule}. Set it higher for more trials", file=sys.stderr)
    gave_up = study.has_too_many_failed(most=section.max_failure_rate)
    if gave_up:
        print(study.told_to_fail(), file=sys.stderr)
    return gave_up or study.has_only_failed
