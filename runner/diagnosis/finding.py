"""What a rule returns, and how it words numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.curves import number
from runner.diagnosis.verdict import Cause, Stretch

if TYPE_CHECKING:
    from runner.diagnosis.features import Features


@dataclass(frozen=True, slots=True)
class Finding:
    """How much speaks for a cause.

    Attributes:
        cause: which.
        score: 0 nothing speaks for it, 1 nothing else could be.
        summary: one sentence with the numbers.
        rests_on: what it rests on, a sentence each.
        stretches: the steps that show it.
    """

    cause: Cause
    score: float
    summary: str
    rests_on: tuple[str, ...] = ()
    stretches: tuple[Stretch, ...] = ()


Rule = Callable[["Features"], Finding | None]


def loss_text(value: float) -> str:
    """Write a loss."""
    return number(value, 3) if math.isfinite(value) else str(value)


def factor_text(logarithm: float) -> str:
    """Write a factor that is given by its logarithm."""
    return f"{number(math.exp(min(logarithm, 690.0)), 2)} times"


def share_text(share: float) -> str:
    """Write a share as a percentage."""
    return f"{100 * share:.2g}%" if 0 < share < 0.1 else f"{100 * share:.0f}%"


def times_text(count: int, noun: str) -> str:
    """Write a number of things."""
    return f"{count:,} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"


def clamp(score: float) -> float:
    """Return the score, at least 0 and at most 1."""
    return min(max(score, 0.0), 1.0)


def sentences(found: Iterable[str | None]) -> tuple[str, ...]:
    """Return those that there are."""
    return tuple(text for text in found if text)
