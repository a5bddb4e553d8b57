"""A loss that jumps out of its recent trend."""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

from annotated_types import Ge, Gt
from pydantic import validate_call

from runner.detectors.told import at, with_lr
from runner.records import Alarm, EvalRecord, StepRecord


class State(NamedTuple):
    """The window and the sums of its line of least squares.

    Attributes:
        window: latest values, the one to be judged not among them.
        total: sum of y over the window.
        tilted: sum of x y, x = 0, 1 ... along the window.
        squares: sum of y^2.
        seen: values since the sums were made anew.
        start: mean of the first full window, in the unit of the loss.
        calm_left: steps without a spike until another one is an alarm.
        lr: learning rate of the latest step.
        is_log: whether y is the logarithm of the loss; it is until a loss is not above 0.
    """

    window: tuple[float, ...] = ()
    total: float = 0.0
    tilted: float = 0.0
    squares: float = 0.0
    seen: int = 0
    start: float | None = None
    calm_left: int = 0
    lr: float = 0.0
    is_log: bool = True


class LossSpike:
    """Alarm when a loss is far above the line through the latest ones.

    y = ln(loss), or the loss itself once one was not above 0. A line of least squares through the last `window`
    values of y, the tested one not among them, predicts y. It is a spike when y is more than `z` standard deviations
    of the residuals above the prediction and `sudden` times as far as any of the eight values before (oscillations
    that grow, as at the edge of stability, are no spike), the loss more than `rise` times the predicted one above it,
    and more than `share_of_start` times the mean of the first window above it (a batch that is hard for a model which
    knows all others by heart is no spike). Further spikes within `calm_steps` steps belong to the first one.
    A learning rate that more than doubles in one step (a restart of the schedule) begins a new window.

    Args:
        window: values in the window, at most; >= 16.
        least: values in the window, at least; >= 8.
        z: standard deviations; > 0.
        rise: share of the predicted loss; > 0.
        share_of_start: share of the loss at the start; >= 0.
        sudden: how many times the largest of the eight residuals before; >= 1.
        calm_steps: steps without a spike that end an episode; 0 makes every spike an alarm.
    Source: OLMo-core's skip-step rule (window 128, 64 values, 6 deviations, tested value excluded), on the logarithm
        and without the trend: a window of falling losses has a wide spread that hides a spike. The rest is measured.
    """

    needs: frozenset[str] = frozenset()

    @validate_call
    def __init__(
        self,
        *,
        window: Annotated[int, Ge(16)] = 128,
        least: Annotated[int, Ge(8)] = 64,
        z: Annotated[float, Gt(0)] = 6.0,
        rise: Annotated[float, Gt(0)] = 0.1,
        share_of_start: Annotated[float, Ge(0)] = 0.05,
        sudden: Annotated[float, Ge(1)] = 2.0,
        calm_steps: Annotated[int, Ge(0)] = 10,
    ) -> None:
        if least > window:
            raise ValueError(f"least: must be at most window={window}, got {least}.")
        self.window = window
        self.least = least
        self.z = z
        self.rise = rise
        self.share_of_start = share_of_start
        self.sudden = sudden
        self.calm_steps = calm_steps
        self._log_rise = math.log1p(rise)

    def init(self) -> State:
        """Return the state before the first record."""
        return State()

    def update(self, state: State, record: StepRecord | EvalRecord) -> tuple[State, Alarm | None]:
        """Return the next state, and an alarm of severity "warn" at the first spike of an episode."""
        if isinstance(record, EvalRecord) or not abs(record.loss) < math.inf:
            return state, None
        loss, lr, is_log = record.loss, record.lr, state.is_log
        if is_log and loss <= 0:
            is_log, state = False, State(is_log=False)
        elif lr > 2 * state.lr > 0:
            state = State(start=state.start, is_log=is_log)
        y = math.log(loss) if is_log else loss
        window, alarm, calm_left = state.window, None, max(state.calm_left - 1, 0)
        count, start = len(window), state.start
        if count >= self.least:
            if start is None:
                start = sum(map(math.exp, window)) / count if is_log else state.total / count
            middle = (count - 1) / 2
            slope = (state.tilted - middle * state.total) * 12 / (count * (count * count - 1))
            mean = state.total / count
            expected = mean + slope * (count - middle)
            above = y - expected
            if above > (self._log_rise if is_log else self.rise * abs(expected)):
                # cheap before exact: the sliding sums are good to far more than this factor of two
                squares = state.squares - mean * state.total - slope * slope * count * (count * count - 1) / 12
                if 2 * above * above * (count - 2) > self.z * self.z * squares:
                    alarm = self._judge(window, y, start, record, is_log=is_log)
                if alarm is not None:
                    calm_left, alarm = self.calm_steps, None if state.calm_left else alarm
        return self._next(state, y, start, calm_left, lr, is_log=is_log), alarm

    def _next(self, state: State, y: float, start: float | None, calm_left: int, lr: float, *, is_log: bool) -> State:
        window, total, squares, count = state.window, state.total, state.squares, len(state.window)
        if count < self.window:
            tilted = state.tilted + count * y
            window = (*window, y)
        else:
            oldest = window[0]
            total -= oldest
            squares -= oldest * oldest
            tilted = state.tilted - total + (count - 1) * y
            window = window[1:] + (y,)  # noqa: RUF005  half the time of unpacking
        seen = state.seen + 1
        if seen >= self.window:  # rounding errors of the sliding sums must not add up
            total, squares = math.fsum(window), math.fsum(value * value for value in window)
            tilted = math.fsum(x * value for x, value in enumerate(window))
            return State(window, total, tilted, squares, 0, start, calm_left, lr, is_log)
        return State(window, total + y, tilted, squares + y * y, seen, start, calm_left, lr, is_log)

    def _judge(
        self, window: tuple[float, ...], y: float, start: float, record: StepRecord, *, is_log: bool
    ) -> Alarm | None:
        count = len(window)
        middle, mean = (count - 1) / 2, math.fsum(window) / count
        slope = math.fsum((x - middle) * value for x, value in enumerate(window)) * 12 / (count * (count * count - 1))
        residuals = [value - mean - slope * (x - middle) for x, value in enumerate(window)]
        spread = max(math.sqrt(math.fsum(r * r for r in residuals) / (count - 2)), 1e-9)
        expected = mean + slope * (count - middle)
        z, before = (y - expected) / spread, max(residuals[-8:])
        predicted = math.exp(expected) if is_log else expected
        if z <= self.z or y - expected <= self.sudden * before:
            return None
        if record.loss - predicted <= self.share_of_start * abs(start):
            return None
        evidence = with_lr(record, loss=record.loss, predicted=predicted, z=z, spread=spread, window=count)
        message = f"loss {record.loss:.4g} {at(record)} is {z:.1f} standard deviations above its trend {predicted:.4g}"
        return Alarm(record.step, "loss_spike", "warn", evidence, message)
