"""The range test of a configuration: a bracket of `optimizer.lr` and what it cost, without a word to the user."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from runner.bracket import Bracket, meter_of, upper_bracket
from runner.build import Experiment, build, checkpoint_source
from runner.checks.range_test import ramp_limits
from runner.checks.sharpness import has_bound
from runner.config import Config
from runner.errors import TaskError
from runner.estimate import trial_plan
from runner.finding.ramp import Ramp, Shape, ramp_lrs, usual_steps
from runner.finding.range_curve import RangeFound, find_bracket
from runner.range_test import constant, run_ramps, starting_point
from runner.tasks.closing import in_use
from runner.train.branches import Copy, Stretch, grow
from runner.train.plan import TrainPlan
from runner.train.sharpness import COLD_ITERATIONS

REPEATS = 3
_PRODUCT = 1.5  # gradients that a product with the Hessian takes
_VERIFIED = (1.0, 0.3, 3.0)  # times the middle of the bracket
_SHARE, _JUDGED, _TIMES = 4, 50, 2  # of a run that verifies: one part in four, batches of the val split, repeats


class RangeTest(NamedTuple):
    """What a range test found.

    Attributes:
        found: the bracket, the rules and their spread.
        ramps: what was recorded.
        begin: step of the run that they began at.
        sharpness: upper bracket of the initial weights; None where it was not measured.
        remark: why it was not, where it was to be; "" otherwise.
        steps: updates that the ramps made, and in updates what the sharpness took.
        run_steps: updates of the run.
    """

    found: RangeFound
    ramps: tuple[Ramp, ...]
    begin: int
    sharpness: Bracket | None
    remark: str
    steps: int
    run_steps: int

    @property
    def cost(self) -> float:
        """In multiples of the run."""
        return self.steps / self.run_steps


class Verified(NamedTuple):
    """A short schedule of its own.

    Attributes:
        lr: value of `optimizer.lr`.
        losses: one a repeat, of the val split where there is one; inf where it diverged.
        steps: updates of all repeats.
    """

    lr: float
    losses: tuple[float, ...]
    steps: int


def range_bracket(
    config: Config,
    *,
    low: float | None = None,
    high: float | None = None,
    steps: int | None = None,
    repeats: int = REPEATS,
    shape: Shape = "exponential",
    sharpness: bool = True,
    on_ramp: Callable[[Ramp], None] = lambda ramp: None,
) -> RangeTest:
    """Ramp the learning rate from where the run begins, or goes on, and bracket the best one.

    Args:
        config: checked, with a mode that trains.
        low, high: first and last `optimizer.lr` of a ramp, low < high; None for `ramp_limits`.
        steps: of a ramp, >= 2; None for `usual_steps`.
        repeats: ramps, on different data.
        shape: equal ratios or equal differences.
        sharpness: whether the upper bracket of the initial weights is measured where the optimizer has a known bound.
        on_ramp: is called with every ramp when it is made.
    Raises:
        RunnerError: the run cannot be made, or its checkpoint cannot be read.
    """
    usual = ramp_limits(config.optimizer, config.task, shape)
    low, high = usual[0] if low is None else low, usual[1] if high is None else high
    lrs = ramp_lrs(low, high, steps=steps or usual_steps(low, high, shape), shape=shape)
    experiment = build(_with_meter(config) if sharpness else config)
    upper, remark, spent = _measured(config, experiment) if sharpness else (None, "", 0)
    copy, begin = _starting_point(experiment, config)
    with in_use(experiment.task):
        ramps = run_ramps(
            copy, lrs, experiment.task, _plan(experiment),
            base_lr=config.optimizer.lr, begin=begin, repeats=repeats, on_ramp=on_ramp,
        )  # fmt: skip
    made = sum(len(ramp.losses) for ramp in ramps)
    return RangeTest(find_bracket(ramps), tuple(ramps), begin, upper, remark, made + spent, _run_steps(experiment))


def verify(config: Config, middle: float) -> list[Verified]:
    """Train a quarter of the run at 0.3, 1 and 3 times a learning rate, each falling to 0, from where the run begins.

    The warmup is a quarter of that of the run. Each is made twice, on different data, and judged on the val split.

    Args:
        config: checked.
        middle: value of `optimizer.lr`.
    Returns:
        from the lowest rate to the highest.
    """
    experiment = build(config)
    copy, begin = _starting_point(experiment, config)
    steps = max(_run_steps(experiment) // _SHARE, 2)
    on_val = "val" in experiment.task.examples
    stretch = Stretch(
        begin, steps, experiment.declared.warmup.steps // _SHARE, _TIMES,
        _JUDGED if on_val else max(steps // 10, 1), on_val=on_val,
    )  # fmt: skip
    with in_use(experiment.task):
        branches = grow(
            copy, [middle * times / config.optimizer.lr for times in _VERIFIED], experiment.task,
            constant(copy.optimizer), _plan(experiment), stretch=stretch, lr_scale=1.0, sd=1.0,
        )  # fmt: skip
    assert branches is not None  # nothing breaks it off
    tried = [
        Verified(middle * times, branch.scores, branch.steps) for times, branch in zip(_VERIFIED, branches, strict=True)
    ]
    return sorted(tried)


def _starting_point(experiment: Experiment, config: Config) -> tuple[Copy, int]:
    """Return the training where it begins or goes on, and the step of its next update."""
    return starting_point(
        experiment.task, experiment.model, experiment.optimizer, plan=_plan(experiment), clipping=experiment.clipping,
        watch=experiment.watch, source=checkpoint_source(config.resume),
    )  # fmt: skip


def _plan(experiment: Experiment) -> TrainPlan:
    """Return the plan of a ramp: without an end, an evaluation, a checkpoint or an average; each loss is looked at."""
    return replace(trial_plan(experiment.plan), watch_every=1, ema_decay=None)


def _run_steps(experiment: Experiment) -> int:
    return experiment.declared.clock.total_steps or 1


def _with_meter(config: Config) -> Config:
    """Return the configuration with a sharpness meter, where one can measure before the first update."""
    if config.resume.source is not None or not has_bound(config.optimizer):
        return config
    meter = config.monitor.sharpness.model_copy(update={"every": 1})
    return config.model_copy(update={"monitor": config.monitor.model_copy(update={"sharpness": meter})})


def _measured(config: Config, experiment: Experiment) -> tuple[Bracket | None, str, int]:
    """Return the upper bracket by the sharpness, why there is none, and what it took in updates."""
    meter = meter_of(experiment.meters)
    try:
        bracket = upper_bracket(config, experiment)
    except TaskError as error:
        return None, f"the sharpness is not measured: {error}", 0
    if meter is None or bracket is None:
        return None, "", 0
    gradients = 1 + _PRODUCT * (1 if meter.is_first else max(COLD_ITERATIONS, meter.iterations))
    return bracket, "", math.ceil(gradients * meter.examples / config.train.batch_size)
