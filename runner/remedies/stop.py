"""End the run."""

from __future__ import annotations

from runner.records import Action, Alarm
from runner.remedies.protocol import History


class Stop:
    """Stop the run when an alarm is severe enough to make going on useless."""

    def propose(self, alarm: Alarm, history: History) -> Action | None:
        """Return a Stop for an alarm of severity "stop", otherwise None."""
        if alarm.severity != "stop":
            return None
        return Action(alarm.step, "stop", "Stop", cause=(alarm.detector, alarm.step))
