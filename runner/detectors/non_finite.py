"""Loss or gradient that is nan or infinite."""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

from annotated_types import Ge
from pydantic import validate_call

from runner.detectors.told import at, with_lr
from runner.records import Alarm, EvalRecord, StepRecord


class State(NamedTuple):
    """Updates in a row that the fp16 scaler has dropped."""

    skipped_steps: int = 0


class NonFinite:
    """Alarm when the training loss or the gradient norm is not a finite number.

    The loop asks before it changes the weights, so a bad gradient never reaches them. While the fp16 scaler
    looks for its scale it drops updates with an infinite gradient; these count only when they do not end.

    Args:
        skips_in_a_row: dropped fp16 updates in a row that are an alarm; >= 1.
    """

    needs: frozenset[str] = frozenset()

    @validate_call
    def __init__(self, *, skips_in_a_row: Annotated[int, Ge(1)] = 20) -> None:
        self.skips_in_a_row = skips_in_a_row

    def init(self) -> State:
        """Return the state before the first record."""
        return State()

    def update(self, state: State, record: StepRecord | EvalRecord) -> tuple[State, Alarm | None]:
        """Return the next state, and an alarm of severity "stop" when a number is not finite."""
        if isinstance(record, EvalRecord):
            return state, None
        if abs(record.loss) < math.inf and record.grad_norm < math.inf and not (record.skipped or state.skipped_steps):
            return state, None  # as nearly always
        skipped_steps = state.skipped_steps + 1 if record.skipped else 0
        dropped_for_good = skipped_steps >= self.skips_in_a_row
        loss_is_bad = not math.isfinite(record.loss)
        norm_is_bad = not math.isfinite(record.grad_norm) and (dropped_for_good or not record.skipped)
        if not loss_is_bad and not norm_is_bad:
            return State(skipped_steps), None
        what, value = ("loss", record.loss) if loss_is_bad else ("gradient norm", record.grad_norm)
        tail = f" for {skipped_steps} updates in a row" if dropped_for_good and not loss_is_bad else ""
        evidence = with_lr(record, loss=record.loss, grad_norm=record.grad_norm)
        message = f"{what} is {value} {at(record)}{tail}"
        return State(skipped_steps), Alarm(record.step, "non_finite", "stop", evidence, message)
