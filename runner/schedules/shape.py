"""What all schedules share: their types, how far a run has come, and the curves that they fall along.

Convention: factor(t) is used for update t = 0 .. T-1. A warmup of W steps ends at t0 = max(W-1, 0), where the
body begins; the body's end value belongs to t = T and is held after. So every update learns, also for T = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

from annotated_types import Ge, Gt, Le

from runner.errors import refused

Schedule = Callable[[int], float]
"""optimizer step (0-based) -> unitless factor on the base learning rate"""

ASchedule = Annotated[Schedule, "what a schedule factory returns"]
"""An argument that takes another schedule, itself a section with a target."""

Curve = Callable[[float], float]
"""share of the way, 0 to 1 -> what is left of the height, 1 to 0"""

Fraction = Annotated[float, Ge(0), Le(1)]
"""A number in [0, 1]."""

Divisor = Annotated[float, Ge(1)]
"""A number >= 1 that a factor is divided by."""

Decay = Annotated[float, Gt(0), Le(1)]
"""A factor in (0, 1]."""

Factor = Annotated[float, Gt(0)]
"""A factor > 0."""

Shape = Literal["linear", "cosine", "1-sqrt", "sqrt", "square", "lowering_square", "mirror_cosine", "exponential"]
"""How a cooldown falls; the formulas are those of `curve`."""


LONGEST_TABLE = 20_000_000
"""Most values that a schedule computes beforehand, in some 10 s."""


class Warmup(NamedTuple):
    """A rise at the start of a run.

    Attributes:
        factor: step -> factor, 1 from step `steps` - 1 on.
        steps: W; the body begins at its last step. 0 where the body begins at once.
    """

    factor: Schedule
    steps: int


def progress(step: int, *, total_steps: int, warmup_steps: int) -> float:
    """Return how much of the body is done: p = (t - t0) / (T - t0), clamped to [0, 1]; t0 = max(W - 1, 0)."""
    start = max(warmup_steps - 1, 0)
    if step <= start:
        return 0.0
    return min(1.0, (step - start) / (total_steps - start)) if step < total_steps else 1.0


def cosine_between(start: float, end: float, fraction: float) -> float:
    """Return the half-cosine from start to end: end + (start - end) (1 + cos(pi p)) / 2."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * fraction))


def between(start: float, end: float, fraction: float) -> float:
    """Return the straight line from start to end: start + (end - start) p."""
    return start + (end - start) * fraction


def curve(shape: Shape, *, floor: float) -> Curve:
    """Return the curve of a cooldown, from 1 at q = 0 to the floor r at q = 1.

    linear           r + (1 - r) (1 - q)
    cosine           r + (1 - r) (1 + cos(pi q)) / 2
    1-sqrt           r + (1 - r) (1 - sqrt(q))
    sqrt             r + (1 - r) sqrt(1 - q)
    square           r + (1 - r) (1 - q^2)
    lowering_square  r + (1 - r) (1 - q)^2
    mirror_cosine    r + (1 - r) (2 (1 - q) - (1 + cos(pi q)) / 2)
    exponential      r^q

    Raises:
        ValueError: an exponential one to a floor of 0.
    Source: Hagele et al. 2024, arXiv:2405.18392, and the code published with it.
    """
    if shape == "exponential":
        if floor == 0:
            raise refused("floor", "must be > 0 for an exponential shape, got 0", "Set .floor=0.01")
        return lambda q: floor**q
    falls: dict[str, Curve] = {
        "linear": lambda q: 1.0 - q,
        "cosine": lambda q: 0.5 * (1.0 + math.cos(math.pi * q)),
        "1-sqrt": lambda q: 1.0 - math.sqrt(q),
        "sqrt": lambda q: math.sqrt(1.0 - q),
        "square": lambda q: 1.0 - q * q,
        "lowering_square": lambda q: (1.0 - q) ** 2,
        "mirror_cosine": lambda q: 2.0 * (1.0 - q) - 0.5 * (1.0 + math.cos(math.pi * q)),
    }
    fall = falls[shape]
    return lambda q: floor + (1.0 - floor) * fall(q)


def in_order(name: str, steps: Sequence[int], *, total_steps: int) -> list[int]:
    """Return steps of the run, refused where they are out of order or beyond it.

    Raises:
        FactoryError: they are; the fix has them in order and inside the run.
    """
    shown = ", ".join(map(str, steps))
    rules = []
    if any(second < first for first, second in pairwise(steps)):
        rules.append("must be in order")
    if any(step > total_steps for step in steps):
        rules.append(f"must lie inside the {total_steps} steps that it is made for")
    if rules:
        right = ",".join(str(min(step, total_steps)) for step in sorted(steps))
        raise refused(name, f"{' and '.join(rules)}, got {shown} steps", f"Set .{name}=[{right}]")
    return list(steps)


def refuse_table(total_steps: int) -> None:
    """Refuse a run that is too long for a schedule that is computed beforehand, step by step.

    Raises:
        FactoryError: it has more than 20,000,000 steps.
    """
    if total_steps > LONGEST_TABLE:
        rule = f"must be made for at most {LONGEST_TABLE:,} steps, which are computed beforehand, got {total_steps:,}"
        raise refused("", rule, "Set a shorter train.duration, or take another one")


def tail_start(decay: int, *, total_steps: int, warmup_steps: int) -> int:
    """Return the step at which the last `decay` steps begin: T - D.

    Raises:
        ValueError: they are more than the warmup leaves of the run.
    """
    rest = total_steps - max(warmup_steps - 1, 0)
    if decay > rest:
        rule = f"must not be longer than the {rest} steps after the warmup, got {decay}"
        raise refused("decay", rule, f"Set .decay={rest} or less")
    return total_steps - decay
