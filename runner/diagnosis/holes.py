"""Losses that are no numbers, and that a curve began with or came back from, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.curves import number
from runner.diagnosis.verdict import Stretch

if TYPE_CHECKING:
    from runner.diagnosis.series import Hole, Series

_MOST_NAMED = 4  # stretches in a sentence
_MOST_MARKED = 8


def holes_text(series: Series) -> str:
    """Return where the losses are that are no numbers, "" where there are none."""
    holes = series.holes
    if not holes:
        return ""
    first, later = holes[0], holes[1:]
    if not begins_with_hole(series):
        what = f"the loss is {first.value} at {_span(first)}"
        goes_on = ", and the curve goes on after it"
        return f"{what}{_named(later)}{goes_on}"
    many = f"the first {first.count:,} losses are" if first.count > 1 else "the first loss is"
    begin = f"{many} {first.value}, no number, at {_span(first)}"
    return f"{begin}, and the curve goes on with {number(series.rows.losses[0])} at step {series.steps[0]:,}" + (
        f"; it is {later[0].value} again at {_span(later[0])}{_named(later[1:])}" if later else ""
    )


def hole_marks(series: Series) -> tuple[Stretch, ...]:
    """Return the stretches of losses that are no numbers, the first of many."""
    return tuple(Stretch(hole.first, hole.last, f"loss {hole.value}") for hole in series.holes[:_MOST_MARKED])


def begins_with_hole(series: Series) -> bool:
    """Whether the first loss is no number."""
    return bool(series.holes) and series.holes[0].first < series.steps[0]


def _named(holes: list[Hole]) -> str:
    names = "".join(f", {_span(hole)}" for hole in holes[: _MOST_NAMED - 1])
    more = sum(hole.count for hole in holes[_MOST_NAMED - 1 :])
    return names + (f" and {more:,} more loss{'es' if more > 1 else ''}" if more else "")


def _span(hole: Hole) -> str:
    return f"step {hole.first:,}" if hole.count == 1 else f"steps {hole.first:,} to {hole.last:,}"
