"""Reduce the learning rate."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt
from pydantic import validate_call

from runner.durations import Steps
from runner.records import Action, Alarm
from runner.remedies.protocol import History
from runner.remedies.scale_lr import scale_to


class ReduceLR:
    """Multiply the learning rate by a factor at each alarm of the detectors that it answers, good news excepted.

    lr_scale <- max(factor * lr_scale, min_scale), unless that is a change of eps or less.
    lr_scale multiplies what the schedule says for each parameter group, so ratios between groups stay as they are:
    torch's `min_lr` can stop one group before another, `min_scale` stops all at once.

    With `recovery` it comes back from the step after the alarm on, by the same factor at every step, to what it was at
    the alarm, and no further; an alarm on the way cuts what it is then, and leads back there. Meant for what passes, as
    a bad stretch of data; where the rate is too high the trouble comes back with it, at a lower rate each time.

    Args:
        detectors: names of the detectors whose alarms it answers, of severity "warn" or "stop".
        factor: in (0, 1), unitless.
        min_scale: lowest share of the scheduled rate; in [0, 1]. torch's min_lr is min_scale * optimizer.lr.
        eps: a smaller change of lr_scale is not made; >= 0. torch's eps is eps * optimizer.lr.
        max_cuts: cuts for these detectors, by any remedy, after which it makes no more; None for no end.
        recovery: optimizer steps in which the rate comes back; None leaves it cut.
    Source: torch.optim.lr_scheduler.ReduceLROnPlateau; `recovery` is a proposal.
    """

    @validate_call
    def __init__(
        self,
        *,
        detectors: tuple[str, ...] = ("plateau",),
        factor: Annotated[float, Gt(0), Lt(1)] = 0.1,
        min_scale: Annotated[float, Ge(0), Le(1)] = 0.0,
        eps: Annotated[float, Ge(0)] = 1e-8,
        max_cuts: Annotated[int, Ge(1)] | None = None,
        recovery: Steps | None = None,
    ) -> None:
        self.detectors = detectors
        self.factor = factor
        self.min_scale = min_scale
        self.eps = eps
        self.max_cuts = max_cuts
        self.recovery = recovery

    def propose(self, alarm: Alarm, history: History) -> Action | None:
        """Return a ScaleLR for an alarm of its detectors while there is something left to cut, otherwise None."""
        if alarm.detector not in self.detectors or alarm.severity == "info":
            return None
        if self.max_cuts is not None and self._cuts(history) >= self.max_cuts:
            return None
        lr_scale = max(history.lr_scale * self.factor, self.min_scale)
        if not history.lr_scale - lr_scale > self.eps:
            return None
        cut = scale_to(lr_scale, alarm, history, remedy="reduce_lr")
        if self.recovery is None:
            return cut
        message = f"{cut.message}, back at {history.lr_scale:.4g} in {self.recovery:,} steps"
        return replace(cut, arguments={**cut.arguments, "recovery_steps": self.recovery}, message=message)

    def _cuts(self, history: History) -> int:
        answers = [action for action in history.actions if action.cause and action.cause[0] in self.detectors]
        return sum(action.arguments.get("factor", 1.0) < 1.0 for action in answers)
