"""A step between its gradient and the moment at which the host knows its numbers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from runner.optim.readout import effective_lrs, estimates, scheduled_values
from runner.records import StepRecord
from runner.train.clipping import Fixed
from runner.train.plan import TrainPlan
from runner.train.state import TrainState
from runner.train.step import Signals

if TYPE_CHECKING:
    from runner.train.act import Run

UPDATE_NORM = "prev_update_norm"  # a signal with a field of its own


class Pending(NamedTuple):
    """A step whose loss and gradient norm may still be on the device."""

    step: int
    time_ms: int
    signals: Signals
    lrs: dict[str, float | Tensor]
    scheduled: dict[str, float]
    lr_nominal: float | None
    lr_scale: float
    clip_norm: float | None
    measured: dict[str, float]

    @classmethod
    def of(
        cls,
        signals: Signals,
        state: TrainState,
        run: Run,
        others: Sequence[tuple[str, str]],
        measured: dict[str, float],
    ) -> Pending:
        """Return a step as it is before its update; `others` are scheduled beside the learning rate."""
        first, lrs = run.optimizer.param_groups[0], effective_lrs(run.optimizer)
        nominal = float(first["lr"]) if estimates(first) else None
        scheduled = scheduled_values(run.optimizer, others) if others else {}
        clipped_at, now = run.clipping.most if isinstance(run.clipping, Fixed) else None, time.time_ns() // 1_000_000
        return cls(state.step, now, signals, lrs, scheduled, nominal, state.scale, clipped_at, measured)

    def numbers(self) -> list[Tensor | float]:
        """Return the numbers that may still be on the device."""
        signals = self.signals
        last = [] if signals.is_clipped is None else [signals.is_clipped]
        return [signals.total, signals.grad_norm, *last]

    def record(self, state: TrainState, plan: TrainPlan, numbers: Sequence[float]) -> StepRecord:
        """Return the record of this step, now that its numbers have reached the host: those of `numbers`."""
        total, grad_norm, *last = numbers
        clipped = bool(last[0]) if last else None if self.clip_norm is None else grad_norm > self.clip_norm
        lrs = {name: float(lr) for name, lr in self.lrs.items()}
        first, *others = lrs.values()
        return StepRecord(
            step=self.step,
            time_ms=self.time_ms,
            loss=total / self.signals.weight,
            lr=first,
            grad_norm=grad_norm,
            examples=state.examples,
            lr_scale=self.lr_scale,
            lrs=lrs if any(lr != first for lr in others) else None,
            scheduled=self.scheduled or None,
            lr_nominal=self.lr_nominal,
            clipped=clipped,
            skipped=True if plan.precision == "fp16" and not abs(grad_norm) < float("inf") else None,
            prev_update_norm=self.measured.get(UPDATE_NORM),
            signals={k: v for k, v in self.measured.items() if k != UPDATE_NORM} or None,
        )
