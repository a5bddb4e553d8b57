"""How many of the values are spikes: the measure of the OLMo 2 report."""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple

from annotated_types import Ge, Gt
from pydantic import validate_call

from runner.detectors.told import at, with_lr
from runner.records import Alarm, EvalRecord, StepRecord

_CHUNK = 50


class State(NamedTuple):
    """The window in chunks, of which only the last one grows, its sums, and what has been counted.

    Attributes:
        chunks: full chunks, the oldest first.
        chunk: the one that grows.
        total: sum over the window.
        squares: sum of squares over the window.
        origin: what is subtracted from every value, so that the squares do not cancel.
        judged: values that were compared with a full window.
        spikes: those that were spikes.
        told: thresholds that have been reported.
    """

    chunks: tuple[tuple[float, ...], ...] = ()
    chunk: tuple[float, ...] = ()
    total: float = 0.0
    squares: float = 0.0
    origin: float = 0.0
    judged: int = 0
    spikes: int = 0
    told: int = 0


class SpikeScore:
    """Tell when the spike score passes a threshold, once for each.

    score = 100 * (values at least `z` standard deviations from the mean of the `window` values before) / (values
    judged), of the training loss or of the gradient norm; a value is judged once the window is full, and the score
    reported once `least` values have been. The window moves in chunks of 50 values, so it holds 0 to 49 more.
    While the loss still falls, the trend within so long a window hides spikes: `loss_spike` is the rule for runs of
    less than some 10,000 steps.

    Args:
        of: what is judged: loss, grad_norm.
        window: values before, in the mean; >= 100, a multiple of 50.
        z: standard deviations; > 0.
        noteworthy: score that is reported with severity "info"; > 0.
        bad: score that is reported with severity "warn"; > 0.
        least: values that must have been judged; >= 1.
    Source: OLMo 2, arXiv:2501.00656, section 3.2.
    """

    @validate_call
    def __init__(
        self,
        *,
        of: Literal["loss", "grad_norm"] = "loss",
        window: Annotated[int, Ge(100)] = 1000,
        z: Annotated[float, Gt(0)] = 7.0,
        noteworthy: Annotated[float, Gt(0)] = 0.1,
        bad: Annotated[float, Gt(0)] = 0.4,
        least: Annotated[int, Ge(1)] = 2000,
    ) -> None:
        if window % _CHUNK:
            raise ValueError(f"window: must be a multiple of {_CHUNK}, got {window}.")
        if bad <= noteworthy:
            raise ValueError(f"bad: must be more than noteworthy={noteworthy:g}, got {bad:g}.")
        self.of = of
        self.window = window
        self.z = z
        self.thresholds = (noteworthy, bad)
        self.least = least
        self.needs: frozenset[str] = frozenset({"grad_norm"}) if of == "grad_norm" else frozenset()

    def init(self) -> State:
        """Return the state before the first record."""
        return State()

    def update(self, state: State, record: StepRecord | EvalRecord) -> tuple[State, Alarm | None]:
        """Return the next state, and an alarm when the score passes a threshold: "info", then "warn"."""
        if isinstance(record, EvalRecord):
            return state, None
        value = record.loss if self.of == "loss" else record.grad_norm
        if not abs(value) < math.inf:
            return state, None
        chunks, chunk, total, squares, origin, judged, spikes, told = state
        if not chunks and not chunk:
            origin = value
        y = value - origin
        count = len(chunks) * _CHUNK + len(chunk)
        if count >= self.window:
            mean = total / count
            judged += 1
            spikes += (y - mean) * (y - mean) >= self.z * self.z * max(
                squares / count - mean * mean, 1e-18 * (1 + mean * mean)
            )
        chunk, total, squares = (*chunk, y), total + y, squares + y * y
        if len(chunk) == _CHUNK:
            chunks, chunk = (*chunks, chunk)[-(self.window // _CHUNK) :], ()
            values = [item for part in chunks for item in part]
            total, squares = sum(values), sum(item * item for item in values)
        state = State(chunks, chunk, total, squares, origin, judged, spikes, told)
        return self._told(state, record) if spikes and told < 2 and judged >= self.least else (state, None)

    def _told(self, state: State, record: StepRecord) -> tuple[State, Alarm | None]:
        score = 100 * state.spikes / state.judged
        told = sum(score > threshold for threshold in self.thresholds)
        if told <= state.told:
            return state, None
        evidence = with_lr(record, score=score, spikes=state.spikes, judged=state.judged, z=self.z)
        what = "losses" if self.of == "loss" else "gradient norms"
        message = (
            f"{state.spikes} of {state.judged} {what} were spikes of {self.z:g} standard deviations {at(record)}: "
            f"a spike score of {score:.2g}, above {self.thresholds[told - 1]:g}"
        )
        return state._replace(told=told), Alarm(
            record.step, "spike_score", "warn" if told == 2 else "info", evidence, message
        )
