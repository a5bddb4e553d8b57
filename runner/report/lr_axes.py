"""Axes of learning rates and of final losses, with a strip at the top for runs that failed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from runner.curves import AxisRange, labels, number, ticks
from runner.report.style import GREY, PALE, RED, SMALL, TEXT, set_y

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LOSS = 1e75  # a finished run above it is off the axis


def set_rates(ax: Axes, rates: Sequence[float], *, label: str = "optimizer.lr") -> None:
    """Set the axis of learning rates: ticks at the rates that were used, where they can be told apart."""
    used = sorted(set(rates)) or [1.0]
    room = max(1.35, (used[-1] / used[0]) ** 0.06)
    shown = AxisRange(used[0] / room, used[-1] * room, log=True)
    apart = math.log(shown.high / shown.low) / 11
    places: list[float] = []
    for rate in used:
        if not places or math.log(rate / places[-1]) > apart:
            places.append(rate)
    if len(places) > 9:
        places = ticks(shown, most=8)
    ax.set_xscale("log")
    ax.set_xlim(shown.low, shown.high)
    ax.set_xticks(places, labels=[number(place, digits=6) for place in places])
    ax.tick_params(which="minor", labelbottom=False, bottom=False)
    ax.set_xlabel(label, fontsize=TEXT)


def set_losses(ax: Axes, losses: Sequence[float], shown: AxisRange, *, loss: str, strip: float) -> None:
    """Set the axis of losses so that the strip at the top stays free."""
    share = strip / (1 - strip)
    if shown.log:
        high = shown.high * (shown.high / shown.low) ** share
    else:
        high = shown.high + share * (shown.high - shown.low)
    set_y(ax, shown._replace(high=high))
    places = ticks(shown, most=8)
    ax.set_yticks(places, labels=labels(places))
    ax.set_ylabel(f"final {loss}", fontsize=TEXT)
    ax.tick_params(labelsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color=PALE, lw=0.6)
    ax.set_axisbelow(True)
    if not any(shown.shows(value) for value in losses):
        ax.set_yticks([])
        text = (
            "no run finished with a finite loss" if not losses else f"every finished run is beyond {number(MOST_LOSS)}"
        )
        ax.text(0.5, 0.45, text, transform=ax.transAxes, ha="center", color=GREY, fontsize=TEXT)


def shade_strip(ax: Axes, strip: float, *, label: str) -> None:
    """Shade the strip at the top edge in which runs that failed are marked, and name it.

    Args:
        ax: the panel.
        strip: height, as a share of that of the panel.
        label: what is in it.
    """
    from matplotlib.patches import Rectangle

    shade: dict[str, Any] = {"facecolor": RED, "alpha": 0.08, "lw": 0, "zorder": 1}
    ax.add_patch(Rectangle((0, 1 - strip), 1, strip, transform=ax.transAxes, **shade))
    look: dict[str, Any] = {"transform": ax.transAxes, "ha": "right", "va": "center", "color": RED, "fontsize": SMALL}
    ax.text(-0.01, 1 - 0.5 * strip, label, **look)
