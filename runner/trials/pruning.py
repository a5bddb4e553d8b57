"""A run that is given up on its way: whoever asked for it looks at its evaluations and says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from runner.records import EvalRecord, Record

GiveUp = Callable[[int, int, Mapping[str, float]], bool]
"""updates made, updates declared, metrics of the val split -> whether the run is given up"""


class Pruning:
    """Shows the evaluations of a run to whoever may give it up.

    Args:
        give_up: None gives nothing up.
        planned_steps: updates declared.
    """

    def __init__(self, give_up: GiveUp | None, planned_steps: int) -> None:
        self._give_up = give_up
        self._planned_steps = planned_steps
        self.is_due = False

    def show(self, record: Record) -> None:
        """Show one record; `is_due` is true once the run is given up."""
        if self._give_up is not None and isinstance(record, EvalRecord) and record.split == "val":
            self.is_due = self._give_up(record.step, self._planned_steps, record.metrics) or self.is_due
