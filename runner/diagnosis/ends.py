"""Where a curve breaks off though its losses are finite: gradient norms that are no numbers, losses of exactly 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.diagnosis.curve import Curve

_ZEROS = 3  # losses of exactly 0 at the end of a curve that had none: no training falls to that at once
_FALLS = 0.02  # of the first loss: from below that it may
_FROZEN = 3  # losses that are exactly alike: what stands there is no loss
_LONG = 16  # losses on either side of the first norm that is no number
_RISE = 1.3  # times those before it: they do not go on as before
_SPORADIC = 0.1  # of the norms before: more of nan are gaps between those that were recorded
DROPPED = 20  # updates dropped in a row to the end: no search for a scale takes as many (detector non_finite)


@dataclass(frozen=True, slots=True)
class Ending:
    """Where a curve stops being finite for good, or turns into zeros at once.

    Attributes:
        place: values before it.
        step: its step.
        what: "loss" or "gradient norm".
        value: what stands there.
    """

    place: int
    step: int
    what: str
    value: float


def broken_end(curve: Curve, places: Sequence[int]) -> tuple[Sequence[int], Ending | None]:
    """Return the values before gradient norms that stay no numbers, or losses that fall to exactly 0 at once and stay.

    A single norm at the end is that of the update after its loss, which counts. Where the losses go on as before, no
    such gradient reached the weights: a nan was not recorded, an inf was dropped, which is an end where it stays, as
    is what a detector warned of while it ran.
    """
    norms, losses = curve.grad_norms, curve.losses
    first = first_lost(curve)
    if norms is not None and first is not None and not _is_harmless(curve, first):
        before = [place for place in places if place < first] if first < len(norms) - 1 else places
        kept = before or places[:1]
        return kept, Ending(len(kept), curve.steps[first], "gradient norm", norms[first])
    if losses[-1] == 0:
        first = _begin_of_tail(losses, lambda loss: loss == 0)
        before = [place for place in places if place < first]
        is_sudden = bool(before) and losses[before[-1]] > _FALLS * abs(losses[before[0]])
        if len(losses) - first >= _ZEROS and is_sudden and all(losses[place] != 0 for place in before):
            return before, Ending(len(before), curve.steps[first], "loss", losses[first])
    return places, None


def first_lost(curve: Curve) -> int | None:
    """Return the place of the first gradient norm of those that stay no numbers; None where they are only gaps.

    Updates that the scaler of fp16 dropped do not count unless all are.
    """
    norms, skipped = curve.grad_norms, curve.skipped
    if norms is None or not len(norms) or math.isfinite(norms[-1]):
        return None
    first = _begin_of_tail(norms, lambda norm: not math.isfinite(norm))
    gaps = sum(map(math.isnan, norms[:first])) if first else sum(map(math.isnan, norms)) == len(norms)
    if math.isnan(norms[-1]) and gaps > _SPORADIC * first:
        return None
    if skipped is not None:
        first = next((i for i in range(first, len(norms)) if not skipped[i]), first)
    return first


def _is_harmless(curve: Curve, first: int) -> bool:
    """Whether norms that are no numbers from a place on say nothing of the weights."""
    if is_skipped(curve, first):
        return len(curve.losses) - first < DROPPED
    told = any(alarm.detector == "non_finite" and alarm.step >= curve.steps[first] for alarm in curve.alarms)
    if told or first == len(curve.losses) - 1 or not goes_on(curve.losses, first):
        return False
    norms = curve.grad_norms
    is_unknown = norms is not None and all(map(math.isnan, norms[first:]))
    is_short = first > 0 and len(curve.losses) - first < DROPPED
    return is_unknown or is_short or _falls_on(curve.losses, first)


def is_skipped(curve: Curve, first: int) -> bool:
    """Whether the scaler of fp16 dropped all updates from a place on."""
    return curve.skipped is not None and all(curve.skipped[first:])


def goes_on(losses: Sequence[float], first: int) -> bool:
    """Whether the losses after a place are no higher than before, and real ones: neither exactly 0 nor all alike."""
    before = [loss for loss in losses[: first + 1] if math.isfinite(loss)]
    rest = [loss for loss in losses[first + 1 :] if math.isfinite(loss)]
    if not before or not rest or (len(rest) >= _FROZEN and len(set(rest)) == 1):
        return False
    if rest[-1] == 0:
        latest = next((loss for loss in reversed([*before, *rest]) if loss != 0), 0.0)
        if latest > _FALLS * abs(before[0]):
            return False
    usual = max(before[-_LONG:])
    return median(rest[:_LONG]) <= usual + (_RISE - 1) * abs(usual)


def _falls_on(losses: Sequence[float], first: int) -> bool:
    """Whether the last losses are below all of those before a place, and clearly where these are few."""
    before = [loss for loss in losses[max(first + 1 - _LONG, 0) : first + 1] if math.isfinite(loss)]
    rest = [loss for loss in losses[first + 1 :] if math.isfinite(loss)]
    margin = 0.0 if len(before) == _LONG else (_RISE - 1) * abs(min(before))
    return median(rest[-_LONG:]) < min(before) - margin


def _begin_of_tail(values: Sequence[float], is_broken: Callable[[float], bool]) -> int:
    place = len(values)
    while place and is_broken(values[place - 1]):
        place -= 1
    return place
