"""Values of a metric that get better, or do not, many times in a row."""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple

from annotated_types import Ge
from pydantic import validate_call

from runner.detectors.metric import Gain, MetricOfSplit, needs_of, read
from runner.records import Alarm, EvalRecord, StepRecord


class State(NamedTuple):
    """The best value, how many in a row were good or bad, and what was made of it.

    Attributes:
        best: best value so far.
        good: values in a row that beat the best one.
        bad: values in a row that did not.
        pause_left: values that count for nothing yet.
        recent: latest values, as many as are averaged.
        bad_streaks: alarms for bad streaks since the last good one.
        lr_scale: that of the latest step.
    """

    best: float
    good: int = 0
    bad: int = 0
    pause_left: int = 0
    recent: tuple[float, ...] = ()
    bad_streaks: int = 0
    lr_scale: float = 1.0


class Streak:
    """Alarm when more than `patience` values in a row are good, and when more than that are bad.

    A value is good when it beats the best one by the threshold. After a good streak the next `warmup` values count for
    nothing, after a bad one the next `cooldown` values. When the learning rate rises after a bad streak somebody has
    started it anew, so best value and average start anew too.

    Args:
        metric: a metric of an evaluation, or "train/loss" of each step.
        mode: whether less (min) or more (max) is better.
        patience: values in a row that are no streak yet; >= 0.
        threshold: a smaller gain is none; in the unit of the metric (abs) or a share of the best value (rel); >= 0.
        threshold_mode: what the threshold is.
        cooldown: values after a bad streak that count for nothing; >= 0.
        warmup: values after a good streak that count for nothing; >= 0.
        window: latest values whose mean counts; 1 takes each by itself. A nan counts until it has left the window.
    Source: transformers.GreedyLR (arXiv:2512.14527), rule and defaults of its counters.
    """

    @validate_call
    def __init__(
        self,
        *,
        metric: MetricOfSplit = "val/loss",
        mode: Literal["min", "max"] = "min",
        patience: Annotated[int, Ge(0)] = 10,
        threshold: Annotated[float, Ge(0)] = 1e-6,
        threshold_mode: Literal["rel", "abs"] = "abs",
        cooldown: Annotated[int, Ge(0)] = 0,
        warmup: Annotated[int, Ge(0)] = 0,
        window: Annotated[int, Ge(1)] = 1,
    ) -> None:
        self.metric = metric
        self.needs = needs_of(metric)
        self.patience = patience
        self.gain = Gain(mode, threshold, threshold_mode)
        self.cooldown = cooldown
        self.warmup = warmup
        self.window = window

    def init(self) -> State:
        """Return the state before the first record."""
        return State(best=self.gain.worst)

    def update(self, state: State, record: StepRecord | EvalRecord) -> tuple[State, Alarm | None]:
        """Return the next state, and an alarm: "info" for a good streak, "warn" for a bad one."""
        if isinstance(record, StepRecord):
            is_anew = state.bad_streaks > 0 and record.lr_scale > state.lr_scale
            state = (self.init()._replace(pause_left=state.pause_left) if is_anew else state)._replace(
                lr_scale=record.lr_scale
            )
        value = read(record, self.metric)
        if value is None:
            return state, None
        state = state._replace(recent=(*state.recent, value)[-self.window :])
        if state.pause_left:
            return state._replace(pause_left=state.pause_left - 1, good=0, bad=0), None
        mean = math.fsum(state.recent) / len(state.recent) if all(map(math.isfinite, state.recent)) else math.nan
        return self._judge(state, mean, record.step)

    def _judge(self, state: State, mean: float, step: int) -> tuple[State, Alarm | None]:
        is_good = self.gain.is_over(mean, state.best)
        good, bad = (state.good + 1, 0) if is_good else (0, state.bad + 1)
        state = state._replace(best=mean if is_good else state.best, good=good, bad=bad)
        if max(good, bad) <= self.patience:
            return state, None
        if good:
            after = state._replace(good=0, pause_left=self.warmup, bad_streaks=0)
        else:
            after = state._replace(bad=0, pause_left=self.cooldown, bad_streaks=state.bad_streaks + 1)
        evidence = {"value": mean, "best": state.best, "good": good, "bad": bad, "bad_streaks": after.bad_streaks}
        what = f"{good} better values in a row" if good else f"{bad} values in a row that are no better"
        message = f"{self.metric} {mean:.4g} at step {step}: {what} (best {state.best:.4g})"
        return after, Alarm(step, "streak", "info" if good else "warn", evidence, message)
