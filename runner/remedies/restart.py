"""Begin anew from the initial weights, at a much lower learning rate."""

from __future__ import annotations

from runner.records import Alarm
from runner.remedies.protocol import INITIAL
from runner.remedies.rollback import Rollback


class Restart(Rollback):
    """At each alarm of its detectors go on from the initial weights, with an empty optimizer state and a lower rate.

    The step stays: what is left of the run is trained with what is left of the schedule, on batches that were not seen.
    Where the initial weights are not kept it leaves the alarm to the next remedy.

    The arguments are those of `Rollback`; the page asks for a tenth of the rate.
    Source: the first debugging step of textbooks: a tenth of the learning rate.
    """

    needs = frozenset({INITIAL})

    def _to_step(self, alarm: Alarm, snapshots: tuple[int, ...]) -> int | None:
        return 0 if 0 in snapshots else None
