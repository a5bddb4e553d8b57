"""mode=sweep: the grid of the section `sweep`, every point a recorded run, and what came of them."""

from __future__ import annotations

from runner.config import Config, Invocation


def run(config: Config, invocation: Invocation) -> None:
    """Make the runs of the grid, or what is missing of an earlier one.

    Raises:
        ConfigError: a point is refused; nothing has started and nothing is written.
        SweepError: no trial finished, or a signal ended it.
    """
    from runner.trials.grid import grid
    from runner.trials.trials import Trials  # not for --help

    points = grid(config.sweep, config.optimizer, regime=config.task.regime, seed=config.seed)
    with Trials(config, invocation, mode="sweep") as evaluate:
        evaluate(points)
        evaluate.finish()
