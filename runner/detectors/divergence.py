"""A loss that leaves where it started and does not come back."""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

from annotated_types import Ge, Gt, Lt
from pydantic import validate_call

from runner.detectors.protocol import made
from runner.detectors.told import at, with_lr
from runner.records import Alarm, EvalRecord, StepRecord


class State(NamedTuple):
    """Running average of the loss and how long it has been too high.

    Attributes:
        steps: losses so far.
        first: first loss.
        start: level of the start.
        average: sum of the weighted losses.
        weight: sum of their weights.
        best: lowest average.
        best_steps: losses that were in it.
        latest: logarithm of the loss of the step before, None where it has none.
        jitter: sum of the weighted |ln(loss / loss of the step before)|.
        blown_up_steps: steps in a row above `factor` times the lowest average.
        above_start_steps: steps in a row above the start.
    """

    steps: int = 0
    first: float = 0.0
    start: float = 0.0
    average: float = 0.0
    weight: float = 0.0
    best: float = float("inf")
    best_steps: int = 1
    latest: float | None = None
    jitter: float = 0.0
    blown_up_steps: int = 0
    above_start_steps: int = 0


class Divergence:
    """Alarm when the smoothed loss has left the region where the run began.

    With s the bias-corrected exponential average of the loss, it is divergence when
    s > max(factor * lowest s * exp(2 j / sqrt(n)), first loss) for `patience` steps in a row, or
    s > late_factor * start * exp(j) for `late_patience` steps in a row after step `late_patience`, where start is the
    first loss or the value of s at that step, whichever is larger (one noisy first batch must not set the level).
    j is the noise, the average of |ln(loss / loss of the step before)|, and n <= 50 the losses that were in the lowest
    s: one easy batch at the start is no level to diverge from, and small batches are allowed to swing.
    A rise that comes back sooner (a catapult, the edge of stability) is not divergence.

    Args:
        factor: how many times the lowest average is too high; > 1.
        patience: steps in a row; >= 1.
        late_patience: steps in a row above the start; >= 1.
        late_factor: how many times the start is too high in the long run; > 1.
        smoothing: decay of the average per step; in [0, 1).
    Source: factor as in the LR finders of fastai and Lightning; the rest is a proposal, to be measured.
    """

    needs: frozenset[str] = frozenset()

    @validate_call
    def __init__(
        self,
        *,
        factor: Annotated[float, Gt(1)] = 4.0,
        patience: Annotated[int, Ge(1)] = 20,
        late_patience: Annotated[int, Ge(1)] = 50,
        late_factor: Annotated[float, Gt(1)] = 1.1,
        smoothing: Annotated[float, Ge(0), Lt(1)] = 0.98,
    ) -> None:
        self.factor = factor
        self.patience = patience
        self.late_patience = late_patience
        self.late_factor = late_factor
        self.smoothing = smoothing
        self._new = 1 - smoothing

    def init(self) -> State:
        """Return the state before the first record."""
        return State()

    def update(self, state: State, record: StepRecord | EvalRecord) -> tuple[State, Alarm | None]:
        """Return the next state, and an alarm of severity "stop" when the loss has diverged."""
        if isinstance(record, EvalRecord) or not abs(record.loss) < math.inf:
            return state, None
        loss, old, new = record.loss, self.smoothing, self._new
        steps, first, start, average, weight, best, best_steps, latest, jitter, blown_up_steps, above_steps = state
        level = math.log(loss) if loss > 0 else None
        change = abs(level - latest) if level is not None and latest is not None else 0.0
        average, weight = old * average + new * loss, old * weight + new
        jitter = old * jitter + new * change
        smooth = average / weight
        if not steps:
            first = loss
        steps += 1
        if smooth < best:
            best, best_steps = smooth, steps if steps < 50 else 50
        if steps <= self.late_patience + 1:
            start = max(first, smooth)
        blown_up = above_start = False
        if smooth > first or smooth > start:  # seldom, in a run that learns
            noise = min(jitter / weight, 100.0)
            blown_up = smooth > first and smooth > self.factor * best * math.exp(2 * noise / math.sqrt(best_steps))
            above_start = smooth - start > (self.late_factor * math.exp(noise) - 1) * abs(start)
        blown_up_steps = blown_up_steps + 1 if blown_up else 0
        above_steps = above_steps + 1 if above_start else 0
        state = made(
            State, (steps, first, start, average, weight, best, best_steps, level, jitter, blown_up_steps, above_steps)
        )
        if blown_up_steps < self.patience and above_steps < self.late_patience:
            return state, None
        return state, self._alarm(state, smooth, record)

    def _alarm(self, state: State, smooth: float, record: StepRecord) -> Alarm:
        if state.blown_up_steps >= self.patience:
            against = f"{smooth / state.best:.3g} times its lowest {state.best:.4g}" if state.best > 0 else "its lowest"
            rule, steps = f"{against} and above the first loss {state.first:.4g}", state.blown_up_steps
        else:
            rule, steps = f"{self.late_factor:g} times above the start {state.start:.4g}", state.above_start_steps
        evidence = with_lr(record, smoothed_loss=smooth, lowest=state.best, first=state.first, steps=steps)
        message = f"smoothed loss {smooth:.4g} has been {rule} for {steps} steps {at(record)}"
        return Alarm(record.step, "divergence", "stop", evidence, message)
