"""Durations as people write them, resolved to optimizer steps in one place.

`500` is 500 optimizer steps, `10%` a share of the run, `2ep` epochs, `64000ex` training examples.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, NamedTuple

from pydantic import BeforeValidator, WithJsonSchema

_PATTERN = re.compile(r"(?P<number>\d+(?:\.\d*)?(?:e\+?\d+)?)\s*(?P<unit>%|ep|ex)?", re.IGNORECASE)
_EXAMPLES = "such as 500 (steps), 10%, 2ep or 64000ex"
LONGEST = 10**12


class Clock(NamedTuple):
    """What it takes to turn a duration into steps.

    Attributes:
        batch_size: examples per optimizer step.
        examples: training examples in an epoch; None when the task has no epochs.
        total_steps: length of the run in steps; None while that itself is being resolved.
        warmup_steps: length of the warmup in steps; 0 while that is being resolved.
    """

    batch_size: int
    examples: int | None = None
    total_steps: int | None = None
    warmup_steps: int = 0

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the data, the last one possibly smaller."""
        if self.examples is None:
            raise ValueError("must be in steps, this task has no epochs or examples to count")
        return math.ceil(self.examples / self.batch_size)


def parse(duration: str | int | float) -> tuple[Fraction, str]:
    """Split a duration into its number and its unit ("", "%", "ep" or "ex").

    Raises:
        ValueError: not a duration, or a negative one.
    """
    match = _PATTERN.fullmatch(str(duration).strip())
    if isinstance(duration, bool) or match is None:
        raise ValueError(f"must be a duration >= 0 {_EXAMPLES}")
    number, unit = Fraction(match["number"]), (match["unit"] or "").lower()
    if unit in ("", "ex") and number.denominator != 1:
        raise ValueError(f"must be a whole number of {'examples' if unit else 'steps'}")
    if number > LONGEST:
        raise ValueError(f"must be a duration of at most {LONGEST:.0e}")
    return number, unit


def to_steps(duration: str | int | float, clock: Clock) -> int:
    """Return the duration in optimizer steps, rounded up.

    steps = n | ceil(n/100 * T) | ceil(n * E) | full epochs * E + ceil(rest / B)
    with T the run's steps, E the steps of an epoch, B the batch size.

    Raises:
        ValueError: not a duration, or one that this clock cannot resolve.
    """
    number, unit = parse(duration)
    if unit == "%":
        if clock.total_steps is None:
            raise ValueError("must not be a share of itself; give it in steps, epochs or examples")
        return math.ceil(number * clock.total_steps / 100)
    if unit == "ep":
        return math.ceil(number * clock.steps_per_epoch)
    if unit == "ex":
        epochs, rest = divmod(int(number), clock.examples or 1)
        return epochs * clock.steps_per_epoch + math.ceil(rest / clock.batch_size)
    return int(number)


def _well_formed(duration: str | int | float) -> str | int:
    number, unit = parse(duration)
    return duration if isinstance(duration, str) and unit else int(number)


def _positive(duration: str | int | float) -> str | int:
    try:
        positive = _well_formed(duration)
    except ValueError as error:
        raise ValueError(str(error).replace(">= 0", "> 0")) from None
    if parse(duration)[0] == 0:
        raise ValueError(f"must be a duration > 0 {_EXAMPLES}")
    return positive


_IN_WORDS = WithJsonSchema({"type": "string", "format": "duration"})

Duration = Annotated[str | int, BeforeValidator(_well_formed), _IN_WORDS]
"""A field of the configuration that takes a duration."""

PositiveDuration = Annotated[str | int, BeforeValidator(_positive), _IN_WORDS]
"""A duration that must not be zero."""

Steps = Annotated[int, PositiveDuration]
"""An argument of a factory: written as a duration > 0, received as optimizer steps; also as a member of a list."""

StepsOrZero = Annotated[int, Duration]
"""An argument of a factory: written as a duration, zero allowed, received as optimizer steps; also in a list."""


@dataclass(frozen=True)
class FromRun:
    """Marks an argument that is not written on the page: the runner fills it in, wherever the factory stands."""

    name: str


TotalSteps = Annotated[int, FromRun("total_steps")]
"""Filled in: T, optimizer steps that the schedule is made for, those of the run unless it says otherwise."""

WarmupSteps = Annotated[int, FromRun("warmup_steps")]
"""Filled in: W, optimizer steps of the warmup; 0 without one."""

BaseLR = Annotated[float, FromRun("base_lr")]
"""Filled in: `optimizer.lr`, for the few formulas that speak of absolute learning rates."""

RunSeed = Annotated[int, FromRun("seed")]
"""Filled in: `seed`."""

PriorEntropy = Annotated[float | None, FromRun("prior_entropy")]
"""Filled in: `Task.prior_entropy`, nats; None where the task has none."""

ClipNorm = Annotated[float | None, FromRun("clip_norm")]
"""Filled in: `train.clip_norm`; None without clipping."""

RunClock = Annotated[Clock, FromRun("clock")]
"""Filled in: what turns durations into steps, for a factory that makes its parts for stretches of the run."""
