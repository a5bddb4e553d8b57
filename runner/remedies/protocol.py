"""What a remedy is."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from runner.records import Action, Alarm


class History(NamedTuple):
    """What happened before, as far as a remedy may ask.

    Attributes:
        actions: actions taken so far in this run, oldest first.
        lr_scale: product of the interventions so far.
        best_step: updates that the best evaluation so far stands for, whose weights are kept; None before the first.
        snapshots: updates that the kept weights stand for, in order; with 0 the initial ones are among them.
        name: the name that the remedy which is asked has here.
    """

    actions: tuple[Action, ...] = ()
    lr_scale: float = 1.0
    best_step: int | None = None
    snapshots: tuple[int, ...] = ()
    name: str = ""


class Remedy(Protocol):
    """Answers an alarm with an action, or leaves it to the next remedy. Pure.

    A remedy that goes back to earlier weights says so by an attribute `needs`: a frozenset of "snapshots" (weights of
    the latest steps) and "initial" (those before the first update). One that keeps alarms quiet for a while after an
    action has a method `rests(alarm, history) -> bool`.
    """

    def propose(self, alarm: Alarm, history: History) -> Action | None:
        """Return what to do about the alarm, or None."""
        ...


@runtime_checkable
class Resting(Protocol):
    """A remedy after whose actions there is nothing new to judge for a while."""

    def rests(self, alarm: Alarm, history: History) -> bool:
        """Return whether the alarm comes too early to be one."""
        ...


SNAPSHOTS, INITIAL = "snapshots", "initial"
URGENT = ("non_finite",)
"""names of detectors whose alarms count at once, whatever was done before"""
