"""What panels over the steps are made of: lines, strays, marks, axes, legends, and how they are stacked."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from runner.curves import AxisRange, downsample, ema, number, roughness, ticks
from runner.report.style import BLUE, DPI, GREY, PALE, RED, SMALL, TEXT, WIDTH_INCHES, Handles, draw_legend, set_y

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEFT_INCHES, RIGHT_INCHES = 0.8, 0.2
FEW = 25  # values or fewer are drawn as points
_POINTS = 6000  # of one line, at most
_PLACES = 400  # for marks along the step axis
_ROUGH = 4.0  # an average is drawn where the curve is rougher

Steps = Sequence[int]
Floats = Sequence[float]


def draw_line(ax: Axes, steps: Steps, values: Floats, **look: Any) -> Handles:
    """Draw a line of as many points as can be seen."""
    return list(ax.plot(*downsample(steps, values, most=_POINTS), **look))


def draw_curve(ax: Axes, steps: Steps, values: Floats, *, shown: AxisRange, name: str) -> Handles:
    """Draw every value, faintly with the average over it where the values are noisy."""
    near = [(step, value) for step, value in zip(steps, values, strict=True) if shown.shows(value)]
    look: dict[str, Any] = {"color": BLUE, "lw": 1.5, "zorder": 3}
    if not near:
        return []
    if roughness([math.log10(value) if shown.log else value for _, value in near]) < _ROUGH:
        return draw_line(ax, steps, shown.clamp(values), marker="." if len(near) <= FEW else "", label=name, **look)
    decay = max(0.8, 1 - float(f"{150 / len(near):.1g}"))
    averages = ema([value for _, value in near], decay=decay)
    handles = draw_line(ax, steps, shown.clamp(values), color=BLUE, lw=0.7, alpha=0.35, label=name, zorder=2)
    return handles + draw_line(ax, [step for step, _ in near], averages, label=f"EMA {decay:.6g}", **look)


def draw_strays(ax: Axes, steps: Steps, values: Floats, *, shown: AxisRange, color: str, name: str) -> Handles:
    """Mark values outside the panel with arrows at its edge, and non-finite ones with crosses on the x axis."""
    handles: Handles = []
    above, below, lost = shown.strays(steps, values)
    for far, worst, word, marker, height in ((above, max, "up", "^", 0.965), (below, min, "down", "v", 0.035)):
        if far:
            label = f"{name}off scale ({len(far):,}), {word} to {number(worst(value for _, value in far))}"
            handles.append(draw_marks(ax, [step for step, _ in far], height, marker=marker, color=color, label=label))
    if lost:
        label = f"{name}not finite ({len(lost):,})"
        handles.append(draw_marks(ax, [step for step, _ in lost], 0.0, marker="x", color=RED, label=label))
    return handles


def finish_panel(ax: Axes, shown: AxisRange, *, label: str, handles: Handles, empty: str) -> None:
    """Set the y axis, its label and the legend above the panel; `empty` is written where no curve is."""
    width_inches = WIDTH_INCHES * ax.get_position().width
    ax.set_ylabel(label, fontsize=TEXT)
    ax.yaxis.set_label_coords(-0.6 / width_inches, 0.5)
    ax.tick_params(labelsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color=PALE, lw=0.6)
    set_y(ax, shown)
    if empty:
        ax.text(0.5, 0.5, empty, transform=ax.transAxes, ha="center", va="center", color=GREY, fontsize=TEXT)
        ax.set_yticks([])
    if handles:
        draw_legend(ax.legend, handles, inches=width_inches)


def set_steps(ax: Axes, steps: Steps) -> None:
    """Set range, ticks and label of the step axis that all panels share."""
    first, last = min(steps, default=0), max(steps, default=0)
    room = max(0.5, 0.012 * (last - first))
    shown = AxisRange(first - room, last + room, log=False)
    places = [step for step in ticks(shown, most=8) if step == round(step)]
    ax.set_xlim(shown.low, shown.high)
    ax.set_xticks(places, labels=[f"{step:,.0f}" for step in places])
    ax.set_xlabel("optimizer step", fontsize=TEXT)


def arrange(figure: Figure, panels: Sequence[Axes], heights: Floats, *, title: str, verdict: str) -> None:
    """Write title and verdict, stack the panels under their legends, and give the figure the height this takes."""
    lines = textwrap.wrap(verdict, 105, max_lines=2, placeholder=" …")
    top = (0.4 if title else 0.0) + 0.17 * len(lines)
    places = []
    for ax, height in zip(panels, heights, strict=True):
        legend = ax.get_legend()
        top += legend.get_window_extent().height / DPI + 0.12 if legend else 0.14
        places.append((ax, top, height))
        top += height
    total = round(top + 0.48 + sum(legend.get_window_extent().height / DPI + 0.08 for legend in figure.legends), 2)
    for ax, start, height in places:
        ax.set_position((ax.get_position().x0, 1 - (start + height) / total, ax.get_position().width, height / total))
    figure.set_size_inches(WIDTH_INCHES, total)
    for legend in figure.legends:
        legend.set_bbox_to_anchor((RIGHT_INCHES / WIDTH_INCHES, 0.0), transform=figure.transFigure)
    name = textwrap.wrap(title, 66, max_lines=1, placeholder=" …") or [""]
    look: dict[str, Any] = {"x": 0.15 / WIDTH_INCHES, "va": "top", "parse_math": False}
    figure.text(y=1 - 0.12 / total, s=name[0], fontsize=11.5, fontweight="bold", **look)
    figure.text(y=1 - 0.36 / total, s="\n".join(lines), fontsize=TEXT, color=GREY, **look)


def draw_marks(ax: Axes, steps: Steps, height: float, *, marker: str, color: str, label: str = "") -> Any:
    """Draw one marker for each place that has any of the steps, at a height of the panel (0 bottom, 1 top)."""
    width = max(1, (max(steps) - min(steps)) // _PLACES)
    xs = list({step // width: step for step in steps}.values())
    look: dict[str, Any] = {"ls": "none", "ms": 5, "mew": {"x": 1.3, "|": 0.7}.get(marker, 0.5), "zorder": 5}
    look |= {"transform": ax.get_xaxis_transform(), "clip_on": False, "marker": marker, "color": color}
    return ax.plot(xs, [height] * len(xs), label=label, **look)[0]
