"""Logits that grow until a softmax sees one entry only."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from annotated_types import Gt
from pydantic import validate_call

from runner.records import Alarm, EvalRecord, StepRecord

ATTENTION, LOG_Z = "attention_logit/max", "log_z"


class State(NamedTuple):
    """What was told: how often of attention (2 is the stronger alarm), and whether of log Z."""

    attention: int = 0
    log_z: bool = False


class LogitGrowth:
    """Alarm when the largest attention logit, or |log Z| of the output, passes a limit: slow divergence.

    Attention with such logits is one-hot and its gradient vanishes. A second alarm comes at `attention_collapse`. Each
    is told again only after the value has been below half of its limit. A model shows its attention logits by a method
    `attention_logits` (runner/train/logits.py); log Z = log sum exp of the logits comes from any classifier.

    Args:
        attention: limit of the largest absolute attention logit, unitless; > 0.
        attention_collapse: a limit above that; > 0.
        log_z: limit of |log Z|, nats, mean over examples or tokens; > 0. A classifier that is sure has large logits by
            right, a language model has not.
    Source: Wortsman et al. 2023, arXiv:2309.14322, section 3.1 (the phenomenon); the limits are measured.
    """

    needs = frozenset({LOG_Z})  # of two signals of one meter; either will do

    @validate_call
    def __init__(
        self,
        *,
        attention: Annotated[float, Gt(0)] = 50.0,
        attention_collapse: Annotated[float, Gt(0)] = 100.0,
        log_z: Annotated[float, Gt(0)] = 50.0,
    ) -> None:
        self.attention = attention
        self.attention_collapse = attention_collapse
        self.log_z = log_z

    def init(self) -> State:
        """Return the state before the first record."""
        return State()

    def update(self, state: State, record: StepRecord | EvalRecord) -> tuple[State, Alarm | None]:
        """Return the next state, and an alarm of severity "warn"."""
        signals = {} if isinstance(record, EvalRecord) else record.signals or {}
        largest, log_z = signals.get(ATTENTION), signals.get(LOG_Z)
        if isinstance(record, EvalRecord) or (largest is None and log_z is None):
            return state, None
        passed = state.attention if largest is None else self._passed(largest)
        far = state.log_z if log_z is None else abs(log_z) > self.log_z
        found = []
        if largest is not None and passed > state.attention:
            limit = self.attention_collapse if passed == 2 else self.attention
            found.append(f"the largest attention logit is {largest:.4g} (limit {limit:g})")
        if log_z is not None and far and not state.log_z:
            found.append(f"log Z of the output is {log_z:.4g} (limit {self.log_z:g})")
        attention = state.attention if largest is None or largest > self.attention / 2 else 0
        stays = state.log_z and (log_z is None or abs(log_z) > self.log_z / 2)
        state = State(max(passed, attention), far or stays)
        if not found:
            return state, None
        evidence = {name: signals[name] for name in (ATTENTION, LOG_Z) if name in signals}
        message = f"{' and '.join(found)} at step {record.step} (lr {record.lr:.4g})"
        return state, Alarm(record.step, "logit_growth", "warn", {**evidence, "lr": record.lr}, message)

    def _passed(self, largest: float) -> int:
        return (largest > self.attention) + (largest > self.attention_collapse)
