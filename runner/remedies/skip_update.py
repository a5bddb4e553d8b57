"""Drop the update of a bad gradient."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from pydantic import validate_call

from runner.records import Action, Alarm
from runner.remedies.protocol import History


class SkipUpdate:
    """At an alarm of its detectors drop the update of the step, so that its gradient reaches neither weights nor state.

    It helps against single bad batches. It does not cure a learning rate that is too high: the weights stay where the
    next batch is as bad.

    Args:
        detectors: names of the detectors whose alarms it answers, of severity "warn" or "stop".
        in_a_row: updates dropped one after the other, after which the next remedy is asked.
        max_skips: updates dropped in the whole run, after which the next remedy is asked.
    Source: SkipStepOptimizer of OLMo-core.
    """

    @validate_call
    def __init__(
        self,
        *,
        detectors: tuple[str, ...] = ("non_finite",),
        in_a_row: Annotated[int, Ge(1)] = 5,
        max_skips: Annotated[int, Ge(1)] = 100,
    ) -> None:
        self.detectors = detectors
        self.in_a_row = in_a_row
        self.max_skips = max_skips

    def propose(self, alarm: Alarm, history: History) -> Action | None:
        """Return a SkipUpdate, or None for an alarm of another detector or when its bounds are used up."""
        if alarm.detector not in self.detectors or alarm.severity == "info":
            return None
        skipped = [action.step for action in history.actions if action.type == "SkipUpdate"]
        if len(skipped) >= self.max_skips or skipped[-self.in_a_row :] == list(
            range(alarm.step - self.in_a_row, alarm.step)
        ):
            return None
        cause = (alarm.detector, alarm.step)
        return Action(alarm.step, "skip_update", "SkipUpdate", cause=cause, message="its gradient is not used")
