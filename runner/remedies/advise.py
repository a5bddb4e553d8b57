"""Say what to try, and change nothing."""

from __future__ import annotations

import shlex

from runner.durations import BaseLR
from runner.records import Action, Alarm
from runner.remedies.protocol import History

_TENTH = 10.0


class Advise:
    """At the first alarm of each detector name the overrides to try. The next remedy is asked all the same.

    A tenth of the learning rate for what a rate that is too high does; the 90th percentile of the gradient norms as
    `train.clip_norm` where the alarm gives it; the ladder of rollbacks for what rises suddenly.

    Args:
        base_lr: `optimizer.lr`.
    """

    def __init__(self, *, base_lr: BaseLR) -> None:
        self.base_lr = base_lr

    def propose(self, alarm: Alarm, history: History) -> Action | None:
        """Return an Advise for a detector's first alarm of severity "warn" or "stop", otherwise None."""
        given = (action for action in history.actions if action.type == "Advise" and action.cause)
        if alarm.severity == "info" or any(action.cause and action.cause[0] == alarm.detector for action in given):
            return None
        overrides = self._overrides(alarm, history)
        if not overrides:
            return None
        cause, message = (alarm.detector, alarm.step), f"try {shlex.join(overrides)}"
        return Action(alarm.step, "advise", "Advise", cause=cause, message=message, overrides=overrides)

    def _overrides(self, alarm: Alarm, history: History) -> tuple[str, ...]:
        norm = alarm.evidence.get("p90")
        if alarm.detector == "grad_explosion" and norm is not None:
            return (f"train.clip_norm={norm:.3g}",)
        if alarm.detector in ("loss_spike", "blow_up", "grad_explosion"):
            return ("remedy=[rollback_ladder]",)
        if alarm.detector in ("plateau", "streak"):
            return ("remedy=[reduce_lr,stop]",)
        if alarm.severity == "stop" or alarm.detector == "stuck_at_prior":
            return (f"optimizer.lr={self.base_lr * history.lr_scale / _TENTH:.3g}",)
        return ()
