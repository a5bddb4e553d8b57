"""A step of the run has come."""

from __future__ import annotations

from pydantic import validate_call

from runner.durations import StepsOrZero
from runner.records import Alarm, EvalRecord, StepRecord


class Milestone:
    """Tell once that a step has come, for a remedy that is due then; it finds nothing.

    Args:
        at: optimizer step, 0-based; a duration. A probe is made after its update.
    """

    needs: frozenset[str] = frozenset()

    @validate_call
    def __init__(self, *, at: StepsOrZero) -> None:
        self.at = at

    def init(self) -> tuple[()]:
        """Return the state before the first record: there is none, since no step comes twice."""
        return ()

    def update(self, state: tuple[()], record: StepRecord | EvalRecord) -> tuple[tuple[()], Alarm | None]:
        """Return an alarm of severity "info" at the step."""
        if isinstance(record, EvalRecord) or record.step != self.at:
            return state, None
        return state, Alarm(record.step, "milestone", "info", {"at": self.at}, f"step {record.step:,} has come")
