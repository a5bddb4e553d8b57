"""A metric that no longer gets better."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from annotated_types import Ge
from pydantic import validate_call

from runner.detectors.metric import TRAIN_LOSS, Gain, MetricOfSplit, needs_of, read
from runner.durations import Steps
from runner.records import Alarm, EvalRecord, StepRecord


class State(NamedTuple):
    """The best value, values without a better one, and the training losses that are not a value yet."""

    best: float
    bad_values: int = 0
    cooldown_left: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0


class Plateau:
    """Alarm at each value where torch's ReduceLROnPlateau would reduce the learning rate.

    A value that does not beat the best one by the threshold is bad, nan too. More than `patience` bad values in a row
    are a plateau; then the count starts anew, and the next `cooldown` values count for nothing.

    Args:
        metric: a metric of an evaluation, each of which is one value; or "train/loss", whose mean over each
            `window` steps is one value.
        mode: whether less (min) or more (max) is better.
        patience: bad values in a row that are still no plateau; >= 0.
        threshold: a smaller gain is none; a share of the best value (rel) or in the unit of the metric (abs); >= 0.
        threshold_mode: what the threshold is.
        cooldown: values after an alarm that count for nothing; >= 0.
        window: steps whose mean loss is one value of "train/loss"; >= 1.
    Source: torch.optim.lr_scheduler.ReduceLROnPlateau, rule and defaults.
    """

    @validate_call
    def __init__(
        self,
        *,
        metric: MetricOfSplit = "val/loss",
        mode: Literal["min", "max"] = "min",
        patience: Annotated[int, Ge(0)] = 10,
        threshold: Annotated[float, Ge(0)] = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: Annotated[int, Ge(0)] = 0,
        window: Steps = 50,
    ) -> None:
        self.metric = metric
        self.needs = needs_of(metric)
        self.patience = patience
        self.gain = Gain(mode, threshold, threshold_mode)
        self.cooldown = cooldown
        self.window = window

    def init(self) -> State:
        """Return the state before the first record."""
        return State(best=self.gain.worst)

    def update(self, state: State, record: StepRecord | EvalRecord) -> tuple[State, Alarm | None]:
        """Return the next state, and an alarm of severity "warn" when the metric has stopped getting better."""
        value = read(record, self.metric)
        if value is not None and isinstance(record, StepRecord):
            state = state._replace(loss_sum=state.loss_sum + value, loss_steps=state.loss_steps + 1)
            value = state.loss_sum / state.loss_steps if state.loss_steps >= self.window else None
        if value is None:
            return state, None
        is_gain = self.gain.is_over(value, state.best)
        best = value if is_gain else state.best
        bad = 0 if is_gain or state.cooldown_left else state.bad_values + 1
        if bad <= self.patience:
            return State(best, bad, max(state.cooldown_left - 1, 0)), None
        return State(best, cooldown_left=self.cooldown), self._alarm(record.step, value, best=best, bad=bad)

    def _alarm(self, step: int, value: float, *, best: float, bad: int) -> Alarm:
        of = f"means of {self.window} steps" if self.metric == TRAIN_LOSS else "evaluations"
        evidence = {"value": value, "best": best, "bad_values": bad}
        message = f"{self.metric} {value:.4g} at step {step}: {bad} {of} in a row without a gain on {best:.4g}"
        return Alarm(step, "plateau", "warn", evidence, message)
