"""A gradient that is gone while there is still much to learn."""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

from annotated_types import Ge, Gt, Lt
from pydantic import validate_call

from runner.detectors.told import at, with_lr
from runner.records import Alarm, EvalRecord, StepRecord

_EARLY = (10, 100)  # steps whose median norm is the usual one


class State(NamedTuple):
    """What the norm was early on, and how long it has been gone.

    Attributes:
        steps: records seen, up to the end of the early ones.
        early: norms of the early steps, until their median is known.
        usual: that median.
        first: first loss.
        low_steps: steps in a row without a gradient.
        loss_sum: of these.
        is_told: whether the alarm of this stretch has been raised.
    """

    steps: int = 0
    early: tuple[float, ...] = ()
    usual: float = 0.0
    first: float = 0.0
    low_steps: int = 0
    loss_sum: float = 0.0
    is_told: bool = False


class GradVanishing:
    """Alarm when the gradient norm is next to nothing for `patience` steps while the loss is still high.

    Next to nothing: below `floor`, or below `share` times the median of steps 10 to 100. High: a mean over these
    steps above half the first loss. A model that has converged has a small gradient too, and a low loss.
    This is a matter of initialisation, activation and normalisation rather than of the learning rate, unless a rate
    far too high has killed the units before.

    Args:
        floor: L2 norm; > 0.
        share: of the early median; in (0, 1).
        patience: steps in a row; >= 1.
    Source: a proposal, measured on noise and on digits.
    """

    needs: frozenset[str] = frozenset({"grad_norm"})

    @validate_call
    def __init__(
        self,
        *,
        floor: Annotated[float, Gt(0)] = 1e-7,
        share: Annotated[float, Gt(0), Lt(1)] = 1e-3,
        patience: Annotated[int, Ge(1)] = 100,
    ) -> None:
        self.floor = floor
        self.share = share
        self.patience = patience

    def init(self) -> State:
        """Return the state before the first record."""
        return State()

    def update(self, state: State, record: StepRecord | EvalRecord) -> tuple[State, Alarm | None]:
        """Return the next state, and an alarm of severity "warn" when the gradient has been gone for long enough."""
        if isinstance(record, EvalRecord):
            return state, None
        norm, is_early = record.grad_norm, state.steps <= _EARLY[1]
        if norm >= self.floor and norm >= self.share * state.usual and not is_early and not state.low_steps:
            return state, None  # as nearly always
        if not (norm < math.inf and abs(record.loss) < math.inf):
            return state._replace(low_steps=0, loss_sum=0.0, is_told=False), None
        if is_early:
            state = self._early(state, record)
        if norm >= self.floor and norm >= self.share * state.usual:
            return state._replace(low_steps=0, loss_sum=0.0, is_told=False), None
        state = state._replace(low_steps=state.low_steps + 1, loss_sum=state.loss_sum + record.loss)
        mean = state.loss_sum / state.low_steps
        if state.is_told or state.low_steps < self.patience or mean < state.first - abs(state.first) / 2:
            return state, None
        return state._replace(is_told=True), self._alarm(state, record, mean)

    def _early(self, state: State, record: StepRecord) -> State:
        steps, early, usual = state.steps + 1, state.early, state.usual
        if _EARLY[0] <= state.steps < _EARLY[1]:
            early = (*early, record.grad_norm)
        elif state.steps == _EARLY[1]:
            early, usual = (), sorted(early)[len(early) // 2]
        first = record.loss if state.steps == 0 else state.first
        return state._replace(steps=steps, early=early, usual=usual, first=first)

    def _alarm(self, state: State, record: StepRecord, mean: float) -> Alarm:
        evidence = with_lr(
            record, grad_norm=record.grad_norm, usual=state.usual, steps=state.low_steps, loss=mean, first=state.first
        )
        than = f" (median of the first {_EARLY[1]} steps {state.usual:.4g})" if state.usual > self.floor else ""
        message = (
            f"gradient norm {record.grad_norm:.4g}{than} has been next to nothing for {state.low_steps} steps "
            f"{at(record)} while the loss is {mean:.4g}"
        )
        return Alarm(record.step, "grad_vanishing", "warn", evidence, message)
