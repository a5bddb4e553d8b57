"""An early rise of the loss that comes back by itself."""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

from annotated_types import Ge, Gt
from pydantic import validate_call

from runner.detectors.told import at, with_lr
from runner.durations import WarmupSteps
from runner.records import Alarm, EvalRecord, StepRecord


class State(NamedTuple):
    """How far the loss went up and how long it has been back.

    Attributes:
        steps: records seen.
        first: first loss.
        above: losses in a row above `rise` times the first one.
        below: losses in a row under the first one, after the rise.
        peak: highest loss.
        peak_step: its step.
        peak_norm: its gradient norm.
        is_up: whether the rise has been long enough to be one.
        is_over: whether there is nothing left to find.
    """

    steps: int = 0
    first: float = 0.0
    above: int = 0
    below: int = 0
    peak: float = 0.0
    peak_step: int = 0
    peak_norm: float = 0.0
    is_up: bool = False
    is_over: bool = False


class Catapult:
    """Tell once that the loss rose early and fell below its start again: benign, no reason to stop.

    The rise: `in_a_row` losses in a row above `rise` times the first one within the first max(`early_steps`, 2 W)
    steps, W the warmup. The return: 4 x `in_a_row` losses in a row under the first one, within as many steps again.
    A loss that does not come back is for the detector of divergence.

    Args:
        early_steps: steps in which the rise may be, unless the warmup is longer; >= 1.
        rise: how many times the first loss is a rise; > 1.
        in_a_row: losses in a row that make it one; >= 1.
        warmup_steps: W; filled in by the runner.
    Source: Lewkowycz et al. 2020, arXiv:2003.02218, for the phenomenon; the rule is measured.
    """

    needs: frozenset[str] = frozenset()

    @validate_call
    def __init__(
        self,
        *,
        early_steps: Annotated[int, Ge(1)] = 50,
        rise: Annotated[float, Gt(1)] = 1.5,
        in_a_row: Annotated[int, Ge(1)] = 5,
        warmup_steps: WarmupSteps = 0,
    ) -> None:
        self.early_steps = max(early_steps, 2 * warmup_steps)
        self.rise = rise
        self.in_a_row = in_a_row

    def init(self) -> State:
        """Return the state before the first record."""
        return State()

    def update(self, state: State, record: StepRecord | EvalRecord) -> tuple[State, Alarm | None]:
        """Return the next state, and one alarm of severity "info" when the loss is back below its start."""
        if state.is_over or isinstance(record, EvalRecord):
            return state, None
        loss, steps = record.loss, state.steps + 1
        if not abs(loss) < math.inf or steps > 2 * self.early_steps + 4 * self.in_a_row:
            return state._replace(is_over=True), None
        first = state.first if state.steps else loss
        peak = (state.peak, state.peak_step, state.peak_norm)
        if loss > peak[0] or not state.steps:
            peak = (loss, record.step, record.grad_norm)
        if not state.is_up:
            above = state.above + 1 if loss > first + (self.rise - 1) * abs(first) else 0
            is_up = above >= self.in_a_row
            is_over = not is_up and steps >= self.early_steps
            return State(steps, first, above, 0, *peak, is_up, is_over), None
        below = state.below + 1 if loss < first else 0
        is_back = below >= 4 * self.in_a_row
        state = State(steps, first, state.above, below, *peak, True, is_back)
        return state, self._alarm(state, record) if is_back else None

    def _alarm(self, state: State, record: StepRecord) -> Alarm:
        evidence = with_lr(
            record, first=state.first, peak=state.peak, peak_step=state.peak_step, peak_norm=state.peak_norm,
            loss=record.loss, grad_norm=record.grad_norm,
        )  # fmt: skip
        message = (
            f"loss rose from {state.first:.4g} to {state.peak:.4g} at step {state.peak_step} and is back at "
            f"{record.loss:.4g} {at(record)}: a catapult, benign"
        )
        return Alarm(record.step, "catapult", "info", evidence, message)
