"""One training among those of a pass: what it is made of, and what became of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from runner.lanes.first_update import Before
from runner.lanes.fused import FusedUpdate
from runner.tasks.closing import without_exit
from runner.train.act import OnRecord, Run
from runner.train.checkpoint import Checkpoints
from runner.train.clipping import Fixed
from runner.train.course import Course, Interrupted, begin, finish, make_ready
from runner.train.logits import Logits
from runner.train.seeding import set_torch_generators, torch_generators
from runner.train.state import TrainState


@dataclass(frozen=True, slots=True)
class Lane:
    """What `fit` takes for one training.

    Attributes:
        parts: task, model, optimizer, schedules, plan, watch, meters, clipping; as `Experiment.parts()` gives them.
        checkpoints, on_record, interrupted: as `fit` takes them.
    """

    parts: Mapping[str, Any]
    checkpoints: Checkpoints
    on_record: OnRecord
    interrupted: Interrupted = lambda: None


Outcome = TrainState | Exception
"""how a lane has ended: its state, or what broke it"""


class Running:
    """A lane under way; what it raises ends it alone.

    Args:
        index: place among the lanes that were given.
        lane: what it is made of.
    Attributes:
        error: what it has raised.
        owed: its first update, where that has found no room yet; the watch has seen the gradient.
    """

    def __init__(self, index: int, lane: Lane) -> None:
        self.index = index
        self.error: Exception | None = None
        self.owed: Before | None = None
        self.parts = lane.parts
        parts = {**lane.parts}
        given_clipping = parts.pop("clipping", None)
        self.run = Run(**parts, checkpoints=lane.checkpoints, on_record=lane.on_record, given_clipping=given_clipping)
        lane.checkpoints.let_best_wait()
        self.course: Course = begin(self.run, lane.interrupted)
        self.fused = FusedUpdate(self.run.optimizer, self.run.model) if FusedUpdate.takes(self.run.optimizer) else None
        self._meters_are_blind = all(isinstance(meter, Logits) for meter in self.run.meters)
        self._generators = None if _draws_nothing(self.run.optimizer) else torch_generators()
        self._put_off_at = 0.0

    @property
    def reads_gradients(self) -> bool:
        """Whether anything looks at the gradients in the parameters; a fused update takes them as they come."""
        is_blind = self._meters_are_blind and isinstance(self.run.clipping, Fixed)
        return self.fused is None or not (is_blind and self.fused.is_ready)

    @property
    def is_over(self) -> bool:
        """Whether no step is left to be made."""
        return self.error is not None or not self.course.is_running

    def attempt(self, what: Callable[..., Any], *given: Any) -> Any:
        """Return what a function makes of this lane's course; None where it fails, and the lane with it."""
        try:
            return what(self.course, *given)
        except (Exception, SystemExit) as error:
            self.error = without_exit(error)
            return None

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Let an update inside draw the random numbers that it would draw in a run alone, again after it has failed."""
        if self._generators is None:
            yield
            return
        shared = torch_generators()
        set_torch_generators(self._generators)
        try:
            yield
            self._generators = torch_generators()
        finally:
            set_torch_generators(shared)

    def end_owing(self) -> None:
        """End, as there is no room for the update that is owed."""
        if self.owed is not None:
            self.error, self.owed = self.owed.problem, None

    def put_off(self) -> None:
        """Wait; the time until it is taken up does not count."""
        self._put_off_at = time.monotonic()

    def take_up(self) -> None:
        """Go on after having waited."""
        self.course.deadline += time.monotonic() - self._put_off_at

    def make_ready(self) -> None:
        """Come to the next step, past probes that are made in place of one."""
        while not self.is_over and not self.attempt(make_ready):
            pass

    def end(self) -> Outcome:
        """Return how it has ended."""
        if self.error is None:
            self.attempt(finish)
        return self.course.state if self.error is None else self.error


def _draws_nothing(optimizer: Optimizer) -> bool:
    return type(optimizer).__module__.startswith("torch.optim.")
