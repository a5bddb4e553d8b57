"""What makes the runs of a batch: `sweep.backend`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from runner.config import Config
from runner.errors import ConfigError, Problem
from runner.sweeps.launch import Share
from runner.trials.trial import Batch, Trial

if TYPE_CHECKING:
    from runner.trials.beside import Beside


class Backend(NamedTuple):
    """A way to make runs.

    Attributes:
        run: makes those of a batch.
        pass_on: sends a signal to its worker processes; None where it has none.
        share: of the machine for each trial.
        close: ends what it has started.
        prepare: is called with the configurations of a batch before anything of it is written; may refuse them.
    """

    run: Callable[[Sequence[Trial], Batch], None]
    pass_on: Callable[[int], None] | None = None
    share: Share = Share()
    close: Callable[[], None] = lambda: None
    prepare: Callable[[Sequence[Config]], None] = lambda configs: None


def backend_of(config: Config, beside: Beside) -> Backend:
    """Return the backend that the page chooses.

    Args:
        config: checked.
        beside: is started as soon as it is known that runs will be lanes.
    Raises:
        ConfigError: this machine has fewer cores than there are to be workers.
    """
    from runner.trials.auto import Auto
    from runner.trials.in_turn import run_in_turn

    if config.sweep.backend == "processes":
        return _processes(config.sweep.jobs)
    if config.sweep.backend == "lanes":
        return _lanes(config.sweep.lanes, beside)
    if config.sweep.backend == "sequential":
        return Backend(run_in_turn)
    auto = Auto(config.sweep.lanes, beside, quiet=config.quiet)
    return Backend(auto.run, prepare=auto.prepare)


def _lanes(width: int, beside: Beside) -> Backend:
    from runner.lanes.refusal import WAY_OUT
    from runner.trials.in_lanes import kind_of, refusal_of, run_in_lanes

    beside.start()  # what it imports takes as long as the checks

    def prepare(configs: Sequence[Config]) -> None:
        beside.start(runs=len(configs))
        kinds = {kind_of(config): config for config in reversed(configs)}
        problems = dict[Problem, None]()
        for config in reversed(kinds.values()):
            if (reason := refusal_of(config)) is not None:
                key, _, rule = reason.partition(": ")
                problems[Problem(key, rule.removesuffix(f". {WAY_OUT}."), WAY_OUT)] = None
        if problems:
            raise ConfigError(list(problems))

    return Backend(partial(run_in_lanes, width=width), prepare=prepare)


def _processes(jobs: int | None) -> Backend:
    from runner.build import available_devices
    from runner.sweeps.launch import cores
    from runner.trials.workers import Workers

    there = cores()
    if jobs is not None and jobs > there:
        rule = f"must be 1 to {there}, the cores of this machine, got {jobs}"
        raise ConfigError([Problem("sweep.jobs", rule, "Set sweep.jobs=null")])
    workers = Workers(jobs or there)
    gpus = [device for device in available_devices() if device.startswith("cuda")]
    return Backend(workers.run, workers.pass_on, Share(max(1, there // (jobs or there)), gpus), workers.close)
