"""A learning rate beyond what the optimizer can be stable with, as the sharpness meter sees it."""

from __future__ import annotations

from typing import Annotated, ClassVar, NamedTuple

from annotated_types import Gt
from pydantic import validate_call

from runner.durations import Steps
from runner.records import Alarm, EvalRecord, StepRecord
from runner.stability import EDGE


class State(NamedTuple):
    """What the measurements so far add up to.

    Attributes:
        above_since: step of the first of the latest measurements in a row that are beyond; -1 where the last is not.
        above: how many they are.
        lowest: the smallest of them.
        told: whether they have set off an alarm.
        at_edge: whether the run has been said to be at the edge.
    """

    above_since: int = -1
    above: int = 0
    lowest: float = 0.0
    told: bool = False
    at_edge: bool = False


class Edge:
    """Alarm when `stability/edge`, learning rate x sharpness / bound, stays beyond the bound.

    A measurement in `band` is the edge of stability, where healthy runs stay for long: said once a run, as "info".
    Measurements beyond `factor` that last for `patience` steps, two of them at least, are a "warn", once until one is
    below. The meter finds a lower bound of the sharpness.

    Args:
        factor: times the bound; > 1.
        patience: optimizer steps from the first measurement beyond it to the last; > 0.
        band: how far from 1 the edge reaches, unitless; > 0.
    Source: the edge, Cohen et al. 2021, arXiv:2103.00065, and 2022, arXiv:2207.14484; factor and patience are a
    proposal, with the false alarms measured in experiments/edge_of_stability.
    """

    needs: ClassVar[frozenset[str]] = frozenset({EDGE})

    @validate_call
    def __init__(
        self, *, factor: Annotated[float, Gt(1)] = 2.0, patience: Steps = 50, band: Annotated[float, Gt(0)] = 0.1
    ) -> None:
        self.factor = factor
        self.patience = patience
        self.band = band

    def init(self) -> State:
        """Return the state before the first record."""
        return State()

    def update(self, state: State, record: StepRecord | EvalRecord) -> tuple[State, Alarm | None]:
        """Return the next state, and an alarm where the run reaches the edge or has been beyond it for too long."""
        value = (record.signals or {}).get(EDGE) if isinstance(record, StepRecord) else None
        if value is None or value != value or not isinstance(record, StepRecord):
            return state, None
        if value <= self.factor:
            state = State(at_edge=state.at_edge)
            if state.at_edge or abs(value - 1) > self.band:
                return state, None
            message = (
                f"at the edge of stability at step {record.step}: learning rate x sharpness is at least {value:.3g} of "
                f"its bound (lr {record.lr:.4g}); healthy runs stay there"
            )
            return state._replace(at_edge=True), Alarm(record.step, "edge", "info", {EDGE: value}, message)
        since = record.step if state.above == 0 else state.above_since
        lowest = value if state.above == 0 else min(state.lowest, value)
        state = State(since, state.above + 1, lowest, state.told, state.at_edge)
        if state.told or state.above < 2 or record.step - since < self.patience:
            return state, None
        evidence = {EDGE: value, "lowest": lowest, "measurements": state.above, "since": since, "lr": record.lr}
        message = (
            f"learning rate x sharpness has been at least {lowest:.3g} times its bound from step {since} to "
            f"{record.step} (lr {record.lr:.4g}): unstable, unless steps are clipped"
        )
        return state._replace(told=True), Alarm(record.step, "edge", "warn", evidence, message)
