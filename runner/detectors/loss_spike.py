"""A loss that jumps out of its recent trend."""

from __future__ import annotations

import math
from operator import mul
from typing import Annotated, NamedTuple

from annotated_types import Ge, Gt
from pydantic import validate_call

from runner.detectors.protocol import made
from runner.detectors.told import CLIPPED, at, with_lr
from runner.records import Alarm, EvalRecord, StepRecord

_CHUNK = 16  # copying many numbers at each step would cost more than all the rest
_NEW = 0.1  # share of the newest norm in the usual one
_PLACES = [place - (_CHUNK - 1) / 2 for place in range(_CHUNK)]


class State(NamedTuple):
    """The window in chunks, of which only the last one grows, and the line through it as of its last full chunk.

    Attributes:
        chunks: full chunks, the oldest first.
        moments: (mean, sum of (place - middle) (value - mean), sum of (value - mean)^2) of each of them.
        chunk: the one that grows.
        level: where the line is at the first value of this chunk.
        slope: of the line, a step.
        limit: how far above the line a value must be to be looked at; infinite before there are enough.
        start: mean of the first full window, in the unit of the loss.
        calm_left: steps without a spike until another one is an alarm.
        lr: learning rate of the latest step.
        norm: gradient norm of the latest step.
        usual: running average of those before it, over ten steps; 0 before there is one.
        is_log: whether the values are logarithms; they are until a loss is below 0.
    """

    chunks: tuple[tuple[float, ...], ...] = ()
    moments: tuple[tuple[float, float, float], ...] = ()
    chunk: tuple[float, ...] = ()
    level: float = 0.0
    slope: float = 0.0
    limit: float = math.inf
    start: float | None = None
    calm_left: int = 0
    lr: float = 0.0
    norm: float = 0.0
    usual: float = 0.0
    is_log: bool = True


class Line(NamedTuple):
    """A line of least squares through values that follow each other, and its residuals."""

    next: float
    slope: float
    residuals: list[float]

    @classmethod
    def through(cls, values: list[float]) -> Line:
        """Return the line through the values; `next` is where it is one step after them."""
        count = len(values)
        middle, mean = (count - 1) / 2, sum(values) / count
        places = [x - middle for x in range(count)]
        slope = sum(map(mul, places, values)) * 12 / (count * (count * count - 1))
        return cls(
            mean + slope * (count - middle), slope, [y - mean - slope * x for x, y in zip(places, values, strict=True)]
        )

    @property
    def spread(self) -> float:
        """Standard deviation of the residuals."""
        squares = sum(map(mul, self.residuals, self.residuals))
        return max(math.sqrt(squares / (len(self.residuals) - 2)), 1e-9)


class LossSpike:
    """Alarm when a loss is far above the line through the latest ones.

    y = ln(loss), or the loss itself once one was below 0. A line of least squares through the last `window` values of
    y, the tested one not among them, predicts y. A loss is a spike when
    y is more than `z` standard deviations of the residuals above the prediction,
    and `sudden` times as far as the second highest of the eight values before (growing oscillations are no spike),
    and the loss more than `rise` times the predicted one above it,
    and `share_of_gain` times what the loss had fallen since the mean of the first window (a batch that is hard for a
    model which knows all others by heart is no spike).
    Further spikes within `calm_steps` steps belong to the first one.
    It is a warning when it is `grave` times what the loss had fallen, which is above where the run began, came with
    its batch (the gradient of the step before was at most `announced` times the average over ten steps before that:
    where steps are long, larger gradients come before a jump, and healthy runs come back from it), and its gradient was
    not clipped; and of those whose gradient was, where a loss that had fallen by half is twice its start.
    Others are told as info, for healthy runs have them and come back.
    A learning rate that more than doubles in one step (a restart of the schedule) begins a new window.

    Args:
        window: values in the window, at most, plus up to 15 that are newer; a multiple of 16, >= 32.
        least: values in the window, at least; >= 8.
        z: standard deviations; > 0.
        rise: share of the predicted loss; > 0.
        share_of_gain: share of what the loss had fallen; >= 0.
        grave: share of what the loss had fallen above which it is a warning, info below; >= 0.
        announced: how many times the usual gradient norm that of the step before is at most; > 1.
        sudden: how many times the second largest of the eight residuals before; >= 1.
        calm_steps: steps without a spike that end an episode; 0 makes every spike an alarm.
    Source: OLMo-core's skip-step rule (window 128, 64 values, 6 deviations, tested value excluded), on the logarithm
        and without the trend: a window of falling losses has a wide spread that hides a spike. The rest is measured.
    """

    needs: frozenset[str] = frozenset()

    @validate_call
    def __init__(
        self,
        *,
        window: Annotated[int, Ge(32)] = 128,
        least: Annotated[int, Ge(8)] = 64,
        z: Annotated[float, Gt(0)] = 6.0,
        rise: Annotated[float, Gt(0)] = 0.1,
        share_of_gain: Annotated[float, Ge(0)] = 0.15,
        grave: Annotated[float, Ge(0)] = 1.5,
        announced: Annotated[float, Gt(1)] = 2.5,
        sudden: Annotated[float, Ge(1)] = 3.0,
        calm_steps: Annotated[int, Ge(0)] = 10,
    ) -> None:
        if window % _CHUNK:
            raise ValueError(f"window: must be a multiple of {_CHUNK}, got {window}.")
        if least > window:
            raise ValueError(f"least: must be at most window={window}, got {least}.")
        self.window = window
        self.least = least
        self.z = z
        self.rise = rise
        self.share_of_gain = share_of_gain
        self.grave = grave
        self.announced = announced
        self.sudden = sudden
        self.calm_steps = calm_steps
        self._log_rise = math.log1p(rise)

    def init(self) -> State:
        """Return the state before the first record."""
        return State()

    def update(self, state: State, record: StepRecord | EvalRecord) -> tuple[State, Alarm | None]:
        """Return the next state, and an alarm at the first spike of an episode."""
        if isinstance(record, EvalRecord) or not abs(record.loss) < math.inf:
            return state, None
        loss, lr, norm = record.loss, record.lr, record.grad_norm
        if state.is_log and loss <= 0:
            if loss == 0:  # a batch known by heart, in the precision of the loss
                return state, None
            state = State(is_log=False)
        elif lr > 2 * state.lr > 0:
            state = State(start=state.start, is_log=state.is_log)
        chunks, moments, chunk, level, slope, limit, start, calm_left, _, before, usual, is_log = state
        y, alarm = math.log(loss) if is_log else loss, None
        if calm_left:
            calm_left -= 1
        if y - level - slope * len(chunk) > limit:
            alarm = self._judge(state, y, record)
            if alarm is not None:
                calm_left, alarm = self.calm_steps, None if state.calm_left else alarm
        usual = usual + _NEW * (before - usual) if usual else before
        if not norm < math.inf:  # a step that the fp16 scaler drops
            norm = before
        chunk = (*chunk, y)
        if len(chunk) == _CHUNK:
            most = self.window // _CHUNK
            chunks, moments, chunk = (*chunks, chunk)[-most:], (*moments, _moments(chunk))[-most:], ()
            if len(chunks) * _CHUNK >= self.least:
                level, slope, spread = _line(moments)
                # values are judged exactly when they come this close
                limit = 0.7 * max(self.z * spread, self._log_rise if is_log else self.rise * abs(level))
                if start is None:
                    values = [math.exp(y) if is_log else y for chunk in chunks for y in chunk]
                    start = sum(values) / len(values)
        return made(
            State, (chunks, moments, chunk, level, slope, limit, start, calm_left, lr, norm, usual, is_log)
        ), alarm

    def _judge(self, state: State, y: float, record: StepRecord) -> Alarm | None:
        values = [*(y for chunk in state.chunks for y in chunk), *state.chunk]
        line = Line.through(values)
        spread, above = line.spread, y - line.next
        predicted = math.exp(min(line.next, 700)) if state.is_log else line.next
        if above <= max(self.z * spread, self.sudden * sorted(line.residuals[-8:])[-2]):
            return None
        gain = state.start - predicted if state.start is not None else 0.0
        if record.loss - predicted <= max(self.rise * abs(predicted), self.share_of_gain * gain):
            return None
        start = state.start or 0.0
        is_held = record.clipped and not (record.loss > 2 * start and predicted < start / 2)
        is_announced = state.norm > self.announced * state.usual > 0
        is_grave = not (is_held or is_announced) and record.loss - predicted > self.grave * gain
        evidence = with_lr(
            record, loss=record.loss, predicted=predicted, z=above / spread, spread=spread, window=len(values)
        )
        message = (
            f"loss {record.loss:.4g} {at(record)} is {above / spread:.1f} standard deviations above its trend "
            f"{predicted:.4g}{CLIPPED if record.clipped else ''}"
        )
        return Alarm(record.step, "loss_spike", "warn" if is_grave else "info", evidence, message)


def _moments(chunk: tuple[float, ...]) -> tuple[float, float, float]:
    mean = sum(chunk) / _CHUNK
    away = [y - mean for y in chunk]
    return mean, sum(map(mul, _PLACES, away)), sum(map(mul, away, away))


def _line(moments: tuple[tuple[float, float, float], ...]) -> tuple[float, float, float]:
    """Return the line through full chunks as `Line` does, made of their moments: next value, slope, spread."""
    count = len(moments) * _CHUNK
    mean, width = sum(moment[0] for moment in moments) / len(moments), count * (count * count - 1) / 12
    along = across = 0.0
    place = (_CHUNK - count) / 2  # middle of a chunk
    for middle, within_along, within_across in moments:
        away = middle - mean
        along += within_along + _CHUNK * place * away
        across += within_across + _CHUNK * away * away
        place += _CHUNK
    slope = along / width
    return mean + slope * (count + 1) / 2, slope, max(math.sqrt(max(across - slope * along, 0.0) / (count - 2)), 1e-9)
