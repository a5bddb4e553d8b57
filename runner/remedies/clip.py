"""Clip the gradient from now on."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt
from pydantic import validate_call

from runner.records import Action, Alarm
from runner.remedies.protocol import History


class Clip:
    """At an alarm of its detectors set the largest gradient norm.

    Args:
        detectors: names of the detectors whose alarms it answers, of severity "warn" or "stop".
        norm: global L2 norm; None takes the 90th percentile of recent norms from the alarm's evidence ("p90"), and
            leaves alarms without it to the next remedy.
        max_times: settings after which it makes no more; one that would not lower the norm is none.
    Source: google-research/tuning_playbook (the 90th percentile).
    """

    @validate_call
    def __init__(
        self,
        *,
        detectors: tuple[str, ...] = ("divergence",),
        norm: Annotated[float, Gt(0)] | None = 1.0,
        max_times: Annotated[int, Ge(1)] = 3,
    ) -> None:
        self.detectors = detectors
        self.norm = norm
        self.max_times = max_times

    def propose(self, alarm: Alarm, history: History) -> Action | None:
        """Return a Clip that lowers the norm, otherwise None."""
        if alarm.detector not in self.detectors or alarm.severity == "info":
            return None
        norm = self.norm if self.norm is not None else alarm.evidence.get("p90")
        before = [action.arguments["clip_norm"] for action in history.actions if action.type == "Clip"]
        if norm is None or not 0 < norm < min(before, default=float("inf")) or len(before) >= self.max_times:
            return None
        message = f"gradient norm at most {norm:.4g}"
        return Action(alarm.step, "clip", "Clip", {"clip_norm": norm}, (alarm.detector, alarm.step), message)
