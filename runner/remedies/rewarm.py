"""Let the learning rate rise anew."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from pydantic import validate_call

from runner.durations import Steps
from runner.records import Action, Alarm
from runner.remedies.protocol import History


class Rewarm:
    """At an alarm of its detectors begin a short linear warmup, with the weights and the optimizer state as they are.

    factor of the k-th step after the alarm = min(k / duration, 1), times schedule and lr_scale

    Args:
        detectors: names of the detectors whose alarms it answers, of severity "warn" or "stop".
        duration: optimizer steps until the full height.
        max_times: warmups after which it begins no more.
    """

    @validate_call
    def __init__(
        self,
        *,
        detectors: tuple[str, ...] = ("divergence",),
        duration: Steps = 50,
        max_times: Annotated[int, Ge(1)] = 3,
    ) -> None:
        self.detectors = detectors
        self.duration = duration
        self.max_times = max_times

    def propose(self, alarm: Alarm, history: History) -> Action | None:
        """Return a Rewarm, or None for an alarm of another detector, within a warmup, or when all are used up."""
        before = [action for action in history.actions if action.type == "Rewarm"]
        is_rising = bool(before) and alarm.step <= before[-1].step + self.duration
        if alarm.detector not in self.detectors or alarm.severity == "info":
            return None
        if is_rising or len(before) >= self.max_times:
            return None
        message = f"learning rate rises anew over {self.duration:,} steps"
        cause = (alarm.detector, alarm.step)
        return Action(alarm.step, "rewarm", "Rewarm", {"rewarm_steps": self.duration}, cause, message)
