"""Begin anew from the initial weights, at a much lower learning rate."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt
from pydantic import validate_call

from runner.durations import StepsOrZero
from runner.records import Alarm
from runner.remedies.protocol import INITIAL
from runner.remedies.rollback import Rollback


class Restart(Rollback):
    """At each alarm of its detectors go on from the initial weights, with an empty optimizer state and a lower rate.

    The step stays: what is left of the run is trained with what is left of the schedule, on batches that were not seen.
    Where the initial weights are not kept it leaves the alarm to the next remedy.

    The arguments are those of `Rollback`.
    Source: the first debugging step of textbooks: a tenth of the learning rate.
    """

    needs = frozenset({INITIAL})

    @validate_call
    def __init__(
        self,
        *,
        detectors: tuple[str, ...] = ("non_finite", "divergence"),
        factor: Annotated[float, Gt(0), Lt(1)] = 0.1,
        min_scale: Annotated[float, Ge(0), Le(1)] = 0.0,
        eps: Annotated[float, Ge(0)] = 1e-8,
        max_cuts: Annotated[int, Ge(1)] | None = 2,
        rewarm: StepsOrZero = 0,
    ) -> None:
        super().__init__(
            detectors=detectors, factor=factor, min_scale=min_scale, eps=eps, max_cuts=max_cuts, rewarm=rewarm
        )

    def _to_step(self, alarm: Alarm, snapshots: tuple[int, ...]) -> int | None:
        return 0 if 0 in snapshots else None
