"""Where a run stands. Data order and schedule are functions of `step`, so they need no state of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from runner.records import Action, Alarm, Status


class Earlier(NamedTuple):
    """What a training was at an earlier step, beside the weights and their average.

    Attributes:
        detectors: their states, as plain tuples.
        groups: parameter groups of the optimizer.
        updates_kept: updates that the weights are made of.
        clipping: what clipping followed.
    """

    detectors: Mapping[str, Any]
    groups: Sequence[Mapping[str, Any]]
    updates_kept: int
    clipping: Mapping[str, Any]


@dataclass(slots=True)
class TrainState:
    """Everything a checkpoint holds besides model, optimizer, scaler and generators.

    Attributes:
        watch: states of the detectors.
        step: updates made; also the index of the next one.
        examples: training examples seen.
        lr_scale: product of the interventions, as the latest of them has set it.
        best: metrics of the best evaluation so far, with its "step"; empty before the first.
        evals_without_gain: evaluations since then.
        last_eval: metrics of the latest evaluation.
        last_loss: training loss of the latest step.
        lost_steps: latest steps in a row whose loss was no number; a rollback begins anew.
        last_skipped: whether the update of the latest step is dropped: by the fp16 scaler, or since its gradient is
            that of weights that a rollback has replaced.
        is_fresh: whether no update has been made in this launch since the optimizer's state was empty.
        alarms: alarms so far.
        actions: actions so far, updates not counted.
        status: "running" until the run ends.
        verdict: one phrase on how it ended.
        alarm: the alarm that stopped the run.
        carried: what the meters told of the latest update, for the next record.
        meters: name of a meter -> its state, as of the latest checkpoint.
        updates_kept: updates that the weights are made of: those that a rollback has undone do not count.
        clipping: what clipping follows, as of the latest checkpoint or snapshot.
        rewarm: first step and length of the latest warmup that a remedy has asked for; (0, 0) before any.
        owed: a probe that is to be made before the next step, with the alarm that it answers; None when there is none.
        recovery: first step, length and end of the way back of the product of interventions; (0, 0, 1) without one.
    """

    watch: dict[str, Any]
    step: int = 0
    examples: int = 0
    lr_scale: float = 1.0
    best: dict[str, float] = field(default_factory=dict)
    evals_without_gain: int = 0
    last_eval: dict[str, float] = field(default_factory=dict)
    last_loss: float = float("nan")
    lost_steps: int = 0
    last_skipped: bool = False
    is_fresh: bool = True
    alarms: int = 0
    actions: tuple[Action, ...] = ()
    status: Status = "running"
    verdict: str = ""
    alarm: Alarm | None = None
    carried: dict[str, float] = field(default_factory=dict)
    meters: dict[str, Any] = field(default_factory=dict)
    updates_kept: int = 0
    clipping: dict[str, Any] = field(default_factory=dict)
    rewarm: tuple[int, int] = (0, 0)
    owed: tuple[Action, Alarm] | None = None
    recovery: tuple[int, int, float] = (0, 0, 1.0)

    @property
    def scale(self) -> float:
        """What the scheduled learning rate of this step is multiplied with.

        lr_scale_now min(1, (step - begin + 1) / length), with begin and length of the latest warmup by a remedy.
        """
        (begin, length), whole = self.rewarm, self.lr_scale_now
        return whole if self.step >= begin + length else whole * (self.step - begin + 1) / length

    @property
    def lr_scale_now(self) -> float:
        """Product of the interventions at this step.

        lr_scale (end / lr_scale)^min(1, (step - begin) / length) on its way back: the same factor at every step.
        """
        begin, length, end = self.recovery
        if not length or self.step <= begin:
            return self.lr_scale
        if self.step >= begin + length:
            return end
        return min(self.lr_scale * math.pow(end / self.lr_scale, (self.step - begin) / length), end)

    def set_lr_scale(self, lr_scale: float, *, begin: int = 0, recovery_steps: int = 0) -> None:
        """Set the product of the interventions; from `begin` on it comes back to what it was in so many steps."""
        self.lr_scale, self.recovery = lr_scale, (begin, recovery_steps, self.lr_scale_now)

    def note_loss(self, loss: float) -> None:
        """Take note of the training loss of a step."""
        self.last_loss, self.lost_steps = loss, 0 if math.isfinite(loss) else self.lost_steps + 1

    def count(self, *, drop: bool) -> None:
        """Count an update, made or dropped."""
        self.is_fresh = self.is_fresh and drop
        self.updates_kept += not drop
        self.step += 1

    def end(self, status: Status, verdict: str) -> None:
        """Mark the run as ended; the first reason counts."""
        if self.status == "running":
            self.status, self.verdict = status, verdict
