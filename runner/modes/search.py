"""mode=search: which learning rate, how safe, how sure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.config import Config, Invocation
from runner.errors import ConfigError, Problem
from runner.found_page import write_recommendation

if TYPE_CHECKING:
    from runner.lr_end import Told

DEFAULT = "runner.finding.procedure.full_runs"


def run(config: Config, invocation: Invocation) -> None:
    """Search, verify and report; or finish what is missing of an earlier search.

    Raises:
        ConfigError: the search cannot begin; nothing has started and nothing is written.
        SweepError: no trial finished, or a signal ended it.
    """
    from runner.trials.find_by_study import find_by_study, plan_of
    from runner.trials.find_lr import find_lr, limits_of
    from runner.trials.trials import Trials  # not for --help

    path = config.search.write

    def use(told: Told) -> None:
        if path is not None and told.report.best.name in told.overrides:
            write_recommendation(path, told, page=invocation.page, key="search.write", quiet=config.quiet)

    with Trials(config, invocation, mode="search") as evaluate:
        if config.sampler.target == DEFAULT:
            _refuse_space(config)
            find_lr(config, limits_of(config), evaluate)
        else:
            find_by_study(config, plan_of(config, invocation, evaluate), evaluate)
        evaluate.finish(use)


def _refuse_space(config: Config) -> None:
    """Refuse what the default procedure does not read.

    Raises:
        ConfigError: some is given.
    """
    given = {"space": config.search.space, "custom_search_space": config.search.custom_search_space}
    problems = [
        Problem(f"search.{name}", f"must be left out with sampler=lr, got {value}", "Set sampler=tpe")
        for name, value in given.items()
        if value
    ]
    if config.search.known:
        rule = f"must be left out with sampler=lr, got {', '.join(config.search.known)}"
        problems.append(Problem("search.known", rule, "Set sampler=tpe"))
    if problems:
        raise ConfigError(problems)
