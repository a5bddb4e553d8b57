"""Gradients that Adam's second moment does not fit any more."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from annotated_types import Ge, Gt
from pydantic import validate_call

from runner.records import Alarm, EvalRecord, StepRecord

SIGNAL = "rms/max"


class State(NamedTuple):
    """Looks in a row above the threshold, looks in a row below it, and whether the episode was told."""

    high: int = 0
    low: int = 0
    told: bool = False


class RmsSpike:
    """Alarm when a matrix has RMS_t = sqrt(mean(g^2 / max(v_t, eps^2))) above a threshold.

    Then v_t is too small for the gradients of now, and Adam's update too large; loss spikes follow within a few steps.
    The meter leaves out the first 1 / (1 - beta2) steps of a run, and those after a rollback. An episode ends when as
    many looks in a row as it takes to begin one are below the threshold.

    Args:
        threshold: RMS, unitless; > 1.
        looks: in a row (monitor.signals_every); >= 1.
    Source: Wortsman et al. 2023, arXiv:2304.13013 (2.3); looks measured.
    """

    needs = frozenset({SIGNAL})

    @validate_call
    def __init__(self, *, threshold: Annotated[float, Gt(1)] = 2.3, looks: Annotated[int, Ge(1)] = 2) -> None:
        self.threshold = threshold
        self.looks = looks

    def init(self) -> State:
        """Return the state before the first record."""
        return State()

    def update(self, state: State, record: StepRecord | EvalRecord) -> tuple[State, Alarm | None]:
        """Return the next state, and an alarm of severity "warn" once an episode."""
        value = None if isinstance(record, EvalRecord) else (record.signals or {}).get(SIGNAL)
        if value is None or isinstance(record, EvalRecord):
            return state, None
        if value <= self.threshold:
            low = state.low + 1
            return State(0, low, state.told and low < self.looks), None
        state = State(state.high + 1, 0, state.told)
        if state.told or state.high < self.looks:
            return state, None
        message = (
            f"gradients are {value:.3g} times what Adam's second moment expects in some matrix (limit "
            f"{self.threshold:g}) at {state.high} looks up to step {record.step}: the update is too large"
        )
        evidence = {SIGNAL: value, "looks": state.high, "lr": record.lr}
        return state._replace(told=True), Alarm(record.step, "rms_spike", "warn", evidence, message)
