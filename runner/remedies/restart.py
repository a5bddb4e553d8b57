"""Begin anew from the initial weights, at a much lower learning rate."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt
from pydantic import validate_call

from runner.durations import StepsOrZero
from runner.records import Action, Alarm
from runner.remedies.protocol import INITIAL, History
from runner.remedies.reduce_lr import ReduceLR
from runner.remedies.rollback import going_back


class Restart(ReduceLR):
    """At each alarm of its detectors go on from the initial weights, with an empty optimizer state and a lower rate.

    lr_scale <- max(factor * lr_scale, min_scale)
    The step stays: what is left of the run is trained with what is left of the schedule, on batches that were not seen.

    Args:
        detectors: names of the detectors whose alarms it answers, of severity "warn" or "stop".
        factor: on the learning rate; in (0, 1).
        min_scale: lowest share of the scheduled rate; in [0, 1].
        eps: a smaller change of lr_scale is not made; >= 0.
        max_cuts: cuts for these detectors, by any remedy, after which it makes no more; None for no end.
        rewarm: optimizer steps over which the learning rate rises anew; 0 starts at its full height.
    Source: the first debugging step of textbooks: a tenth of the learning rate.
    """

    needs = frozenset({INITIAL})

    @validate_call
    def __init__(
        self,
        *,
        detectors: tuple[str, ...] = ("non_finite", "divergence", "stuck_at_prior"),
        factor: Annotated[float, Gt(0), Lt(1)] = 0.1,
        min_scale: Annotated[float, Ge(0), Le(1)] = 0.0,
        eps: Annotated[float, Ge(0)] = 1e-8,
        max_cuts: Annotated[int, Ge(1)] | None = None,
        rewarm: StepsOrZero = 0,
    ) -> None:
        super().__init__(detectors=detectors, factor=factor, min_scale=min_scale, eps=eps, max_cuts=max_cuts)
        self.rewarm = rewarm

    def propose(self, alarm: Alarm, history: History) -> Action | None:
        """Return a Rollback to step 0, or None when nothing is left to cut or the initial weights are not kept."""
        cut = super().propose(alarm, history)
        return None if cut is None or 0 not in history.snapshots else going_back(cut, 0, rewarm=self.rewarm)
