"""mode=sweep: the grid of the section `sweep`, every point a recorded run, and what came of them."""

from __future__ import annotations

from functools import partial

from runner.config import Config, Invocation


def run(config: Config, invocation: Invocation) -> None:
    """Make the runs of the grid, or what is missing of an earlier one.

    Raises:
        ConfigError: a point is refused; nothing has started and nothing is written.
        SweepError: no trial finished, or a signal ended it.
    """
    from runner.trials.bounds import bounds_of
    from runner.trials.grid import grid
    from runner.trials.trials import Trials  # not for --help

    with Trials(config, invocation, mode="sweep") as evaluate:
        ends = partial(bounds_of, config, config.sweep, evaluate)
        evaluate(grid(config.sweep, config.optimizer.lr_key, ends, seed=config.seed))
        evaluate.finish()
