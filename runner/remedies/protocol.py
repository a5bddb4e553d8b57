"""What a remedy is."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from runner.records import Action, Alarm


class History(NamedTuple):
    """What happened before, as far as a remedy may ask.

    Attributes:
        actions: actions taken so far in this run, oldest first.
        lr_scale: product of the interventions so far.
        best_step: updates that the best evaluation so far stands for, whose weights are kept; None before the first.
    """

    actions: tuple[Action, ...] = ()
    lr_scale: float = 1.0
    best_step: int | None = None


class Remedy(Protocol):
    """Answers an alarm with an action, or leaves it to the next remedy. Pure."""

    def propose(self, alarm: Alarm, history: History) -> Action | None:
        """Return what to do about the alarm, or None."""
        ...
