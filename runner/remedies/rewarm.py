"""Let the learning rate rise anew."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from pydantic import validate_call

from runner.durations import Steps
from runner.records import Action, Alarm
from runner.remedies.protocol import URGENT, History


class Rewarm:
    """At an alarm of its detectors begin a short linear warmup, with the weights and the optimizer state as they are.

    factor of the k-th step after the alarm = min(k / duration, 1), times schedule and lr_scale

    While the rate rises alarms of its detectors are not raised, except those of "non_finite", so that the next remedy
    waits until it has had its time.

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
        if alarm.detector not in self.detectors or alarm.severity == "info":
            return None
        before = [action for action in history.actions if action.type == "Rewarm"]
        if self._is_rising(alarm, history) or len(before) >= self.max_times:
            return None
        message = f"learning rate rises anew over {self.duration:,} steps"
        cause = (alarm.detector, alarm.step)
        return Action(alarm.step, "rewarm", "Rewarm", {"rewarm_steps": self.duration}, cause, message)

    def rests(self, alarm: Alarm, history: History) -> bool:
        """Return whether the alarm comes while the rate still rises, and is of what is judged slowly."""
        is_slow = alarm.detector in self.detectors and alarm.detector not in URGENT
        return is_slow and self._is_rising(alarm, history)

    def _is_rising(self, alarm: Alarm, history: History) -> bool:
        latest = next((action for action in reversed(history.actions) if action.type == "Rewarm"), None)
        return latest is not None and alarm.step <= latest.step + self.duration
