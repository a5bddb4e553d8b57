"""mode=search: which learning rate, how safe, how sure."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from runner.config import Config, Invocation
from runner.config_search import FULL_RUNS
from runner.errors import SweepError
from runner.found_page import path_of_page, write_recommendation

if TYPE_CHECKING:
    from runner.lr_end import Told


def run(config: Config, invocation: Invocation) -> None:
    """Search, verify and report; or finish what is missing of an earlier search.

    Raises:
        ConfigError: the search cannot begin; nothing has started and nothing is written.
        SweepError: no trial finished, too many failed, or a signal ended it.
    """
    from runner.trials.bounds import Wanted, bounds_of
    from runner.trials.find_by_study import find_by_study, plan_of
    from runner.trials.find_lr import find_lr
    from runner.trials.trials import Trials  # not for --help

    path = config.search.write
    if path is not None:
        path_of_page(Path(path), page=invocation.page, key="search.write")

    def use(told: Told | None) -> None:
        if told is None:
            print("warning search: no report of learning rates, as fewer than two were tried", file=sys.stderr)
        if path is not None and told is not None and told.report.best.name in told.overrides:
            write_recommendation(path, told, page=invocation.page, key="search.write", quiet=config.quiet)
        elif path is not None:
            print(f"warning search.write: {path} is not written, as nothing is recommended", file=sys.stderr)

    with Trials(config, invocation, mode="search") as evaluate:
        gave_up, plan = False, None
        bounds = partial(bounds_of, config, config.search, evaluate)
        if config.sampler.target == FULL_RUNS:
            find_lr(config, bounds, evaluate)
        else:
            wanted = Wanted(config.search, config.optimizer, config.task)
            if wanted.needs_range_test and not config.search.space:  # mistakes are told before it
                plan_of(config, invocation, evaluate, wanted.provisional)
            plan = plan_of(config, invocation, evaluate, bounds)
            gave_up = find_by_study(config, plan, evaluate)
        evaluate.finish(use, study=plan)
        if gave_up:
            raise SweepError("the search gave up", exit_code=1)
