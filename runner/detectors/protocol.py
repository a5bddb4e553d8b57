"""What a detector is."""

from __future__ import annotations

from typing import Any, Protocol

from runner.records import Alarm, EvalRecord, StepRecord

State = tuple[Any, ...]
"""A NamedTuple of int, float, bool or tuples of these, so that it survives JSON and a checkpoint."""

made = tuple.__new__
"""`made(State, (...))` is `State(...)` in half the time, for a state that changes at every step."""


class Detector(Protocol):
    """Reads the records of a run one by one and raises an alarm when it finds what it is for.

    Pure: `update` depends on its arguments alone, so a live run, a lane and a CSV file look the same to it.

    Attributes:
        needs: what it cannot do without beyond the training loss: "lr", "grad_norm", "clipped", "eval" (evaluations) or
            the name of a signal. A curve that lacks one of them is not shown to it.
    """

    @property
    def needs(self) -> frozenset[str]: ...

    def init(self) -> Any:
        """Return the state before the first record."""
        ...

    def update(self, state: Any, record: StepRecord | EvalRecord) -> tuple[Any, Alarm | None]:
        """Return the state after this record, and the alarm it sets off, if any."""
        ...
