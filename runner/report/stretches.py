"""The steps that a diagnosis rests on, marked in a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from runner.report.style import PURPLE, Handles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from runner.diagnosis.verdict import Stretch

_TOP, _BOTTOM = 1.0, 0.965  # of the panel
_MOST = 3  # kinds named in the legend


def draw_stretches(ax: Axes, stretches: Sequence[Stretch]) -> Handles:
    """Draw a bar along the top edge of a panel for each stretch, and return a handle of the legend for each kind.

    A stretch of one step is as wide as can be seen.
    """
    left, right = ax.get_xlim()
    least = 0.004 * (right - left)
    kinds: dict[str, list[Stretch]] = {}
    for stretch in stretches:
        kinds.setdefault(stretch.what, []).append(stretch)
    handles: Handles = []
    for what, found in list(kinds.items())[:_MOST]:
        for stretch in found:
            last = max(stretch.last, stretch.first + least)
            bar = ax.axvspan(stretch.first, last, ymin=_BOTTOM, ymax=_TOP, facecolor=PURPLE, alpha=0.8, lw=0)
        first, last = found[0].first, found[-1].last
        bar.set_label(f"{what}, step {first:,}" + (f" to {last:,}" if last > first else ""))
        handles.append(bar)
    return handles
