"""A loss that leaves its level within a few steps."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from annotated_types import Ge, Gt, Lt
from pydantic import validate_call

from runner.records import Alarm, EvalRecord, StepRecord


class State(NamedTuple):
    """Running average of the loss, its lowest value, and how long it has been above the bound."""

    steps: int = 0
    first: float = 0.0
    average: float = 0.0
    weight: float = 0.0
    best: float = float("inf")
    above: int = 0


class BlowUp:
    """Alarm when the smoothed loss has risen far above its lowest value.

    With s the bias-corrected exponential average of the loss and b its lowest value before, the bound is
    b + max((factor - 1) |b|, margin |first loss|). It rings when s was above it for `patience` steps in a row, and
    again after every `repeat` steps there. The first `grace` steps only set the level: a rise that comes back within
    them (a catapult) is none.

    It sees within about ten steps what `divergence` sees after dozens, and is meant for a remedy that goes back. The
    loss of single batches is no use for that: half of the healthy runs measured had one above such a bound.

    Args:
        factor: how many times the lowest average is too high; > 1.
        margin: how far above it at least, as a share of the first loss; >= 0, unitless.
        smoothing: decay of the average per step; in [0, 1).
        patience: steps in a row; >= 1.
        grace: steps at the start that are not judged; >= 0.
        repeat: steps after an alarm; >= 1.
    """

    needs: frozenset[str] = frozenset()

    @validate_call
    def __init__(
        self,
        *,
        factor: Annotated[float, Gt(1)] = 2.0,
        margin: Annotated[float, Ge(0)] = 0.4,
        smoothing: Annotated[float, Ge(0), Lt(1)] = 0.9,
        patience: Annotated[int, Ge(1)] = 1,
        grace: Annotated[int, Ge(0)] = 20,
        repeat: Annotated[int, Ge(1)] = 20,
    ) -> None:
        self.factor = factor
        self.margin = margin
        self.smoothing = smoothing
        self.patience = patience
        self.grace = grace
        self.repeat = repeat

    def init(self) -> State:
        """Return the state before the first record."""
        return State()

    def update(self, state: State, record: StepRecord | EvalRecord) -> tuple[State, Alarm | None]:
        """Return the next state, and an alarm of severity "warn" when the loss has blown up."""
        if isinstance(record, EvalRecord) or not abs(record.loss) < float("inf"):
            return state, None
        first = state.first if state.steps else record.loss
        average = self.smoothing * state.average + (1 - self.smoothing) * record.loss
        weight = self.smoothing * state.weight + (1 - self.smoothing)
        smooth = average / weight
        bound = state.best + max((self.factor - 1) * abs(state.best), self.margin * abs(first))
        above = state.above + 1 if state.steps >= self.grace and smooth > bound else 0
        after = State(state.steps + 1, first, average, weight, min(state.best, smooth), above)
        if above < self.patience or (above - self.patience) % self.repeat:
            return after, None
        evidence = {"smoothed_loss": smooth, "lowest": state.best, "bound": bound, "steps": above, "lr": record.lr}
        message = (
            f"smoothed loss {smooth:.4g} at step {record.step} is above {bound:.4g}, far from its lowest "
            f"{state.best:.4g} (lr {record.lr:.4g})"
        )
        return after, Alarm(record.step, "blow_up", "warn", evidence, message)
