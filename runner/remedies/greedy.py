"""Raise the learning rate on a good streak, lower it on a bad one."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from annotated_types import Ge, Gt, Lt
from pydantic import validate_call

from runner.records import Action, Alarm
from runner.remedies.protocol import History
from runner.remedies.scale_lr import scale_to


class Greedy:
    """Follow the streaks of a metric.

    good streak: lr_scale <- min(lr_scale / factor, max_scale);  bad streak: lr_scale <- max(lr_scale * factor,
    min_scale); unless that is a change of eps or less. After `reset_after` bad streaks in a row at min_scale, the one
    that reached it included, lr_scale <- 1.

    Args:
        detectors: names of the detectors of streaks that it answers.
        factor: in (0, 1), unitless.
        min_scale: lowest share of the scheduled learning rate; in [0, 1).
        max_scale: highest multiple of it; >= 1.
        eps: a smaller change of lr_scale is not made; >= 0.
        reset_after: bad streaks; >= 1.
    Source: transformers.GreedyLR (arXiv:2512.14527), whose bounds and eps are learning rates; here they are ratios.
    """

    @validate_call
    def __init__(
        self,
        *,
        detectors: tuple[str, ...] = ("streak",),
        factor: Annotated[float, Gt(0), Lt(1)] = 0.95,
        min_scale: Annotated[float, Ge(0), Lt(1)] = 1e-3,
        max_scale: Annotated[float, Ge(1)] = 10.0,
        eps: Annotated[float, Ge(0)] = 1e-8,
        reset_after: Annotated[int, Ge(1)] = 500,
    ) -> None:
        self.detectors = detectors
        self.factor = factor
        self.min_scale = min_scale
        self.max_scale = max_scale
        self.eps = eps
        self.reset_after = reset_after

    def propose(self, alarm: Alarm, history: History) -> Action | None:
        """Return a ScaleLR for a streak that changes the learning rate, otherwise None."""
        if alarm.detector not in self.detectors:
            return None
        before = history.lr_scale
        if alarm.evidence.get("good", 0) > 0:
            after = min(before / self.factor, self.max_scale)
            return scale_to(after, alarm, history, remedy="greedy") if after - before > self.eps else None
        after = max(before * self.factor, self.min_scale)
        after = after if before - after > self.eps else before
        bad_streaks = alarm.evidence.get("bad_streaks", 1)
        if after <= self.min_scale and self._at_floor(bad_streaks, history) >= self.reset_after:
            after = 1.0
        if after == before:
            return None
        action = scale_to(after, alarm, history, remedy="greedy")
        return replace(action, arguments={**action.arguments, "bad_streaks": bad_streaks})

    def _at_floor(self, bad_streaks: float, history: History) -> float:
        """Return how many bad streaks in a row have ended at the floor, this one included."""
        if history.lr_scale > self.min_scale:
            return 1
        answers = (action for action in reversed(history.actions) if action.cause and action.cause[0] in self.detectors)
        last = next(answers, None)
        return bad_streaks + 1 - (last.arguments.get("bad_streaks", 1) if last is not None else 1)
