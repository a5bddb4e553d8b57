"""Go back to the best weights, and reduce the learning rate."""

from __future__ import annotations

from dataclasses import replace

from runner.records import Action, Alarm
from runner.remedies.protocol import History
from runner.remedies.reduce_lr import ReduceLR


class RestoreBest(ReduceLR):
    """At each alarm of its detectors go on from the best weights, with an empty optimizer state and a lower rate.

    The step stays, so the batches of the stretch that is undone are not seen again. Before the first evaluation there
    are no best weights, and a warning may come with the best weights themselves: then only the learning rate falls. An
    alarm that wants a stop there drops the update and empties the optimizer all the same. What cannot be cut any
    further is not restored either.

    The arguments are those of `ReduceLR`.
    """

    def propose(self, alarm: Alarm, history: History) -> Action | None:
        """Return a Rollback to the best weights, a ScaleLR without need of them, None when nothing is left to cut."""
        cut = super().propose(alarm, history)
        if cut is None:
            return None
        if history.best_step is None:
            return replace(cut, remedy="restore_best", message=f"no best weights yet, so only the {cut.message}")
        if alarm.step == history.best_step and alarm.severity != "stop":
            return replace(cut, remedy="restore_best", message=f"these are the best weights, so only the {cut.message}")
        return replace(
            cut,
            remedy="restore_best",
            type="Rollback",
            arguments={**cut.arguments, "to_step": history.best_step},
            message=f"weights of step {history.best_step:,}, empty optimizer state, {cut.message}",
        )
