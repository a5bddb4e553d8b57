"""The picture of a range test. matplotlib is imported only when it is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runner.curves import AxisRange, axis_range, labels, number, ticks
from runner.finding.ramp import Ramp
from runner.finding.range_curve import Curve, RangeFound
from runner.report.panels import LEFT_INCHES, RIGHT_INCHES, arrange, finish_panel
from runner.report.style import (
    BLACK,
    BLUE,
    DPI,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    TEXT,
    WIDTH_INCHES,
    Handles,
    save,
)  # fmt: skip

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANEL_INCHES = 3.2
_MARKS = {
    "valley": (GREEN, "-"),
    "minimum/10": (PURPLE, "-"),
    "steep": (ORANGE, "-"),
    "slide": (SKY, "--"),
    "lightning": (GREY, "--"),
    "smith low": (BLACK, ":"),
    "smith high": (BLACK, "-."),
    "stop": (RED, "-"),
}


def range_figure(ramps: Sequence[Ramp], found: RangeFound, path: Path, *, title: str, verdict: str) -> None:
    """Draw the losses of all ramps over the learning rate, smoothed too, the rules and the bracket, as a PNG.

    Args:
        ramps: what was recorded.
        found: what they tell.
        path: the PNG to write; it appears whole or not at all.
        title, verdict: what was tested, and what came out.
    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, _PANEL_INCHES), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    grid = {"left": LEFT_INCHES / WIDTH_INCHES, "right": 1 - RIGHT_INCHES / WIDTH_INCHES}
    ax: Axes = figure.subplots(1, 1, gridspec_kw=grid)
    smoothed = [curve.smoothed for curve in found.curves]
    shown = axis_range(map(_near, smoothed) if found.nothing is None else smoothed, log=False)
    handles = _draw_curves(ax, ramps, found.curves, shown)
    if found.nothing is None:
        label = f"bracket {number(found.low, 2)} to {number(found.high, 2)}"
        handles.append(ax.axvspan(found.low, found.high, color=BLUE, alpha=0.12, lw=0, zorder=0, label=label))
    for name, (color, style) in _MARKS.items():
        if name in found.rules:
            middle = found.rules[name].middle
            handles.append(ax.axvline(middle, color=color, ls=style, lw=1.2, label=f"{name} {number(middle, 2)}"))
    _set_rates(ax, [lr for ramp in ramps for lr in (ramp.lrs[0], ramp.stop)])
    finish_panel(ax, shown, label="training loss", handles=handles, empty="" if any(smoothed) else "no finite loss")
    arrange(figure, [ax], [_PANEL_INCHES], title=title, verdict=verdict)
    save(figure, path)


def _near(smoothed: Sequence[float]) -> list[float]:
    """Return the part of a curve that its descent can be seen in: nothing higher above its level than that is deep."""
    if not smoothed:
        return []
    level, lowest = smoothed[0], min(smoothed)
    return [value for value in smoothed if value <= level + max(level - lowest, 0.05 * abs(level))]


def _draw_curves(ax: Axes, ramps: Sequence[Ramp], curves: Sequence[Curve], shown: AxisRange) -> Handles:
    handles: Handles = []
    for ramp, curve in zip(ramps, curves, strict=True):
        (raw,) = ax.plot(ramp.lrs, shown.clamp(ramp.losses), color=BLUE, lw=0.6, alpha=0.35, label="each step")
        (line,) = ax.plot(curve.lrs, shown.clamp(curve.smoothed), color=BLUE, lw=1.4, label="smoothed")
        handles = handles or [raw, line]
        if ramp.losses and not math.isfinite(ramp.losses[-1]):
            ax.plot([ramp.stop], [0.0], "x", color=RED, transform=ax.get_xaxis_transform(), clip_on=False)
    if len(ramps) > 1:
        handles[1].set_label(f"smoothed, {len(ramps)} ramps")
    return handles


def _set_rates(ax: Axes, rates: Sequence[float]) -> None:
    shown = axis_range([rates], log=True)
    ax.set_xscale("log")
    ax.set_xlim(shown.low, shown.high)
    places = ticks(shown, most=9)
    ax.set_xticks(places, labels=labels(places))
    ax.tick_params(axis="x", which="minor", labelbottom=False)
    ax.set_xlabel("optimizer.lr", fontsize=TEXT)
