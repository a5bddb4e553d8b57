"""What makes the runs of a batch: `sweep.backend`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from runner.config import Config
from runner.errors import ConfigError, Problem, RunnerError, in_words
from runner.sweeps.launch import Share
from runner.trials.trial import Batch, Trial


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


def backend_of(config: Config) -> Backend:
    """Return the backend that the page chooses.

    Raises:
        ConfigError: this machine has fewer cores than there are to be workers.
    """
    from runner.trials.in_turn import run_in_turn

    if config.sweep.backend == "processes":
        return _processes(config.sweep.jobs)
    if config.sweep.backend == "lanes":
        return _lanes(config.sweep.lanes)
    if config.sweep.backend == "sequential":
        return Backend(run_in_turn)
    auto = _Auto(config.sweep.lanes, quiet=config.quiet)
    return Backend(auto.run, prepare=auto.prepare)


class _Auto:
    """Lanes where they can be and pay, one run after another where not; what pays is measured once.

    Args:
        width: most lanes at once.
        quiet: do not say which, and why.
    """

    def __init__(self, width: int, *, quiet: bool) -> None:
        self._width = width
        self._quiet = quiet
        self._is_lanes: bool | None = None
        self._refusals = dict[str, str | None]()  # by kind of run

    def prepare(self, configs: Sequence[Config]) -> None:
        """Measure, once there are two alike runs to be made, and find which cannot be lanes."""
        from runner.trials.choose import choose
        from runner.trials.in_lanes import kind_of

        if self._is_lanes is False or (self._is_lanes is None and min(len(configs), self._width) < 2):
            return
        kinds = dict[str, list[Config]]()
        for config in configs:
            kinds.setdefault(kind_of(config), []).append(config)
        if self._is_lanes or len(kinds) > 1:
            for kind, alike in kinds.items():
                self._look_at(kind, alike[0])
        able = {kind: alike for kind, alike in kinds.items() if self._refusals.get(kind) is None}
        kind, most = max((able or kinds).items(), key=lambda pair: len(pair[1]))
        if self._is_lanes is None and len(most) > 1:
            self._is_lanes, why = choose(most, width=self._width)
            if self._is_lanes:
                self._refusals[kind] = None
            self._say(why)

    def run(self, trials: Sequence[Trial], batch: Batch) -> None:
        """Make the runs."""
        from runner.trials.in_lanes import kind_of, run_in_lanes
        from runner.trials.in_turn import run_in_turn

        self.prepare([trial.config for trial in trials])
        lanes, in_turn = list[Trial](), list[Trial]()
        for trial in trials:
            is_lane = self._is_lanes and len(trials) > 1 and self._refusals[kind_of(trial.config)] is None
            (lanes if is_lane else in_turn).append(trial)
        run_in_lanes(lanes, batch, width=self._width)
        run_in_turn(in_turn, batch)

    def _look_at(self, kind: str, config: Config) -> None:
        """Find whether runs of a kind can be lanes."""
        from runner.trials.in_lanes import refusal_of

        if kind in self._refusals:
            return
        try:
            reason = refusal_of(config)
        except RunnerError as error:  # the run itself tells it
            reason = in_words(error)
        self._refusals[kind] = reason
        if reason is not None:
            self._say(f"some runs one after another, as they cannot be lanes: {reason}")

    def _say(self, what: str) -> None:
        if not self._quiet:
            print(f"sweep.backend: {what}", flush=True)


def _lanes(width: int) -> Backend:
    from runner.lanes.refusal import WAY_OUT
    from runner.trials.in_lanes import kind_of, refusal_of, run_in_lanes

    def prepare(configs: Sequence[Config]) -> None:
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
