"""Gradients that turn back and forth from step to step."""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

from annotated_types import Ge, Gt, Lt
from pydantic import validate_call

from runner.records import Alarm, EvalRecord, Severity, StepRecord

SIGNAL = "grad_cosine"


class State(NamedTuple):
    """The latest cosines with the losses of their steps, and the severity of what was told: "" for nothing."""

    looks: tuple[tuple[float, float], ...] = ()
    told: str = ""


class Oscillation:
    """Alarm when most gradients point back along the one before: cos(g_t, g_{t-1}) below a limit.

    The learning rate is at what the sharpest direction allows. Where the loss still falls that is the edge of
    stability, at which full-batch training is healthy: severity "info". Where it does not, "warn". The loss falls when
    the mean of the later half of the looks is below that of the earlier half. Small batches hide it: their gradients
    are almost unrelated. An episode ends when the share has come down to half of what begins one.

    Args:
        cosine: limit, unitless; > -1 and < 0.
        share: of the latest looks below it; in (0, 1).
        looks: latest cosines that count; >= 10 (they come in bursts of ten every monitor.signals_every steps).
    Source: a proposal; the edge of stability: Cohen et al. 2021, arXiv:2103.00065.
    """

    needs = frozenset({SIGNAL})

    @validate_call
    def __init__(
        self,
        *,
        cosine: Annotated[float, Gt(-1), Lt(0)] = -0.5,
        share: Annotated[float, Gt(0), Lt(1)] = 0.5,
        looks: Annotated[int, Ge(10)] = 50,
    ) -> None:
        self.cosine = cosine
        self.share = share
        self.looks = looks

    def init(self) -> State:
        """Return the state before the first record."""
        return State()

    def update(self, state: State, record: StepRecord | EvalRecord) -> tuple[State, Alarm | None]:
        """Return the next state, and an alarm; "warn" may follow "info" in one episode, nothing follows "warn"."""
        value = None if isinstance(record, EvalRecord) else (record.signals or {}).get(SIGNAL)
        if value is None or isinstance(record, EvalRecord) or not math.isfinite(record.loss):
            return state, None
        looks = (*state.looks, (value, record.loss))[-self.looks :]
        back = sum(cosine < self.cosine for cosine, _ in looks) / len(looks)
        if len(looks) < self.looks or back <= self.share:
            return State(looks, state.told if back > self.share / 2 else ""), None
        half = len(looks) // 2
        earlier, later = (math.fsum(loss for _, loss in part) / len(part) for part in (looks[:half], looks[half:]))
        severity: Severity = "info" if later < earlier else "warn"
        if state.told == "warn" or severity == state.told:
            return State(looks, state.told), None
        means = f"their mean loss went from {earlier:.4g} to {later:.4g}"
        what = "the edge of stability" if severity == "info" else "the learning rate is too high to go on"
        message = f"{back:.0%} of the latest {len(looks)} gradients point back at step {record.step}, {means}: {what}"
        evidence = {"share": back, "earlier_loss": earlier, "later_loss": later, "lr": record.lr}
        return State(looks, severity), Alarm(record.step, "oscillation", severity, evidence, message)
