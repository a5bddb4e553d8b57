"""Updates that are much too large, or next to nothing, beside the weights that they change."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from annotated_types import Ge, Gt
from pydantic import validate_call

from runner.durations import WarmupSteps
from runner.records import Alarm, EvalRecord, StepRecord

LARGEST, MEDIAN, SMALLEST = "update_ratio/max", "update_ratio/median", "update_ratio/min"
Finding = Literal["too high", "dead", "dead layer"]


class State(NamedTuple):
    """How many looks in a row found the same, and what was told of it.

    Attributes:
        finding: of the latest look; "" for nothing.
        looks: looks in a row that found it.
        told: whether that was an alarm.
        first_loss: loss of the first step.
        highest_lr: highest learning rate so far.
    """

    finding: str = ""
    looks: int = 0
    told: bool = False
    first_loss: float = 0.0
    highest_lr: float = 0.0


class UpdateRatio:
    """Alarm when ||dW|| / ||W|| stays far from what trains.

    too high: the ratio of the median matrix is above `far_too_high` at one look; or the largest is above `too_high` at
    `looks` looks in a row, not counting the warmup and the first `early_steps` steps, in which healthy runs are there
    too. What starts at zero has large ratios at first, so one matrix alone is no reason.
    dead: the largest ratio is below `dead` at `looks` looks in a row while the loss is above half of the first one.
    dead layer: the smallest is, while the largest is a hundred times `dead` or more.
    Both are judged after the warmup, and only while the learning rate is at least half of the highest so far.

    Args:
        too_high: ratio, unitless; > 0.
        far_too_high: ratio, unitless; > 0.
        dead: ratio, unitless; > 0.
        looks: in a row (monitor.signals_every); >= 1.
        early_steps: optimizer steps; >= 0.
        warmup_steps: of the run.
    Source: 1e-3 is a usual ratio (cs231n.github.io/neural-networks-3); the limits are measured.
    """

    needs = frozenset({LARGEST, MEDIAN, SMALLEST})

    @validate_call
    def __init__(
        self,
        *,
        too_high: Annotated[float, Gt(0)] = 3e-2,
        far_too_high: Annotated[float, Gt(0)] = 0.1,
        dead: Annotated[float, Gt(0)] = 1e-5,
        looks: Annotated[int, Ge(1)] = 3,
        early_steps: Annotated[int, Ge(0)] = 100,
        warmup_steps: WarmupSteps = 0,
    ) -> None:
        self.too_high = too_high
        self.far_too_high = far_too_high
        self.dead = dead
        self.looks = looks
        self.early_steps = early_steps
        self.warmup_steps = warmup_steps

    def init(self) -> State:
        """Return the state before the first record."""
        return State()

    def update(self, state: State, record: StepRecord | EvalRecord) -> tuple[State, Alarm | None]:
        """Return the next state, and an alarm of severity "warn" once an episode."""
        if isinstance(record, EvalRecord):
            return state, None
        lr = max(record.lrs.values()) if record.lrs else record.lr
        if record.step == 0 or lr > state.highest_lr:
            first_loss = record.loss if record.step == 0 else state.first_loss
            state = state._replace(first_loss=first_loss, highest_lr=max(state.highest_lr, lr))
        signals = record.signals or {}
        if LARGEST not in signals or MEDIAN not in signals or SMALLEST not in signals:
            return state, None
        finding, is_plain = self._judge(state, record, lr, signals[LARGEST], signals[MEDIAN], signals[SMALLEST])
        again = finding != "" and finding == state.finding
        state = state._replace(
            finding=finding, looks=state.looks + 1 if again else 1, told=state.told if again else False
        )
        if finding == "" or state.told or not (is_plain or state.looks >= self.looks):
            return state, None
        return state._replace(told=True), self._alarm(state, record, lr)

    def _judge(
        self, state: State, record: StepRecord, lr: float, largest: float, median: float, smallest: float
    ) -> tuple[Finding | Literal[""], bool]:
        """Return what a look finds, and whether one look is enough for it."""
        if median > self.far_too_high:
            return "too high", True
        settled = record.step > self.warmup_steps
        if largest > self.too_high:
            return ("too high" if settled and record.step > self.early_steps else ""), False
        if not settled or lr < state.highest_lr / 2:
            return "", False
        if largest < self.dead:
            return ("dead" if record.loss > state.first_loss / 2 else ""), False
        return ("dead layer" if smallest < self.dead and largest >= 100 * self.dead else ""), False

    def _alarm(self, state: State, record: StepRecord, lr: float) -> Alarm:
        signals = record.signals or {}
        ratios = {name: signals[name] for name in (LARGEST, MEDIAN, SMALLEST)}
        words = {
            "too high": "the learning rate is too high",
            "dead": "no layer learns",
            "dead layer": "some layer does not learn",
        }
        message = (
            f"{words[state.finding]}: the update before step {record.step} changed matrices by {ratios[LARGEST]:.2g} "
            f"of their norm at most, {ratios[MEDIAN]:.2g} at the median, {ratios[SMALLEST]:.2g} at least "
            f"({state.looks} looks, lr {lr:.4g})"
        )
        return Alarm(record.step, "update_ratio", "warn", {**ratios, "looks": state.looks, "lr": lr}, message)
