"""How fast a run has been lately, and when it will be over."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from runner.records import StepRecord

SECONDS_OF_PACE = 15.0


class _Sample(NamedTuple):
    seconds: float
    step: int
    examples: int


class Pace:
    """The samples of the last seconds; nothing is known from fewer than two."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque()

    def add(self, seconds: float, record: StepRecord) -> None:
        """Take a sample, unless this step has one, and forget those that are old."""
        if self._samples and self._samples[-1].step == record.step:
            return
        self._samples.append(_Sample(seconds, record.step, record.examples))
        while len(self._samples) > 2 and self._samples[0].seconds < seconds - SECONDS_OF_PACE:
            self._samples.popleft()

    def examples_per_second(self) -> float | None:
        """Return the examples a second, None until there are two samples."""
        if len(self._samples) < 2:
            return None
        first, last = self._samples[0], self._samples[-1]
        return (last.examples - first.examples) / (last.seconds - first.seconds)

    def seconds_left(self, planned_steps: int) -> float | None:
        """Return the seconds until the last step at this pace, None while there is none."""
        if len(self._samples) < 2:
            return None
        first, last = self._samples[0], self._samples[-1]
        return (planned_steps - last.step - 1) * (last.seconds - first.seconds) / (last.step - first.step)
