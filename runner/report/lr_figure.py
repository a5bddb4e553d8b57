"""The picture of a learning-rate report: losses with their fit, and what was found, a row a group, below them.

matplotlib is imported only when it is drawn.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.curves import AxisRange, axis_range, number
from runner.report.lr_axes import MOST_LOSS, set_losses, set_rates, shade_strip
from runner.report.panels import LEFT_INCHES, RIGHT_INCHES, arrange
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
    SMALL,
    WIDTH_INCHES,
    Handles,
    draw_legend,
    save,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from runner.finding.group import GroupReport
    from runner.finding.observed import Observed
    from runner.finding.report import LRReport

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, BLACK, SKY)
MOST_GROUPS = len(_COLOURS)
_MARKERS = ("o", "s", "^", "D", "v", "P")
_PANEL_INCHES, _ROW_INCHES = 3.2, 0.34
_CROSS_INCHES = 0.13
_MOST_NAMED = 400  # runs that can be told apart in the page; more are one mark a group
_LONGEST_NAME = 40
_WIDE = 3.0  # largest loss over the smallest, from which on the axis is logarithmic


def write_lr_figure(report: LRReport, path: Path, *, title: str, verdict: str) -> None:
    """Draw a report as a PNG, which appears whole or not at all.

    Args:
        report: what was found.
        path: the PNG to write.
        title: what was swept.
        verdict: what was found, in one sentence.
    Raises:
        OSError: the file cannot be written.
    """
    save(_figure(report, title=title, verdict=verdict), path)


def lr_svg(report: LRReport, *, titles: Mapping[str, str]) -> str:
    """Draw a report as SVG to stand inside a page, its text as text.

    Args:
        report: what was found.
        titles: place of a run in `report.runs`, as "run-0" -> what is shown when the mouse is over its mark.
    """
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "stepsize"}):
        empty = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        _figure(report, title="", verdict="").savefig(text, format="svg", metadata=empty)
    drawn = text.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    for name, title in titles.items():
        drawn = drawn.replace(f'<g id="{name}">', f'<g id="{name}"><title>{escape(title)}</title>', 1)
    return re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)


def _figure(report: LRReport, *, title: str, verdict: str) -> Figure:
    """Draw the losses of at most six groups, and below them a row for each with what was found."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = report.groups[:MOST_GROUPS]
    shown_names = {group.name for group in groups}
    runs = [(f"run-{nth}", run) for nth, run in enumerate(report.runs) if run.group in shown_names]
    heights = [_PANEL_INCHES, _ROW_INCHES * (len(groups) + 0.4)]
    figure = Figure(figsize=(WIDTH_INCHES, sum(heights) + 1), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    grid = {"left": LEFT_INCHES / WIDTH_INCHES, "right": 1 - RIGHT_INCHES / WIDTH_INCHES, "height_ratios": heights}
    panels: list[Axes] = list(figure.subplots(2, 1, sharex=True, gridspec_kw=grid))
    set_rates(panels[1], [rate.lr for group in groups for rate in group.rates] or [1.0], label=report.key)
    looks = {group.name: (_COLOURS[i], _MARKERS[i]) for i, group in enumerate(groups)}
    handles = _draw_losses(panels[0], groups, runs, looks, loss=report.loss)
    if len(groups) > 1:
        inches = WIDTH_INCHES * panels[0].get_position().width
        draw_legend(panels[0].legend, handles, inches=inches)
    _draw_rows(panels[1], groups, looks)
    hidden = len(report.groups) - len(groups)
    verdict += f"; {hidden} groups with larger losses not drawn" if hidden else ""
    draw_legend(figure.legend, _key(groups), inches=WIDTH_INCHES - 2 * RIGHT_INCHES)
    arrange(figure, panels, heights, title=title, verdict=verdict)
    return figure


def _draw_losses(
    ax: Axes,
    groups: Sequence[GroupReport],
    runs: Sequence[tuple[str, Observed]],
    looks: Mapping[str, tuple[str, str]],
    *,
    loss: str,
) -> Handles:
    """Draw every run, the fits, and crosses in a strip at the top for what failed; return a handle a group."""
    ended = [(name, run) for name, run in runs if run.status == "finished" and math.isfinite(run.loss)]
    failed = [run for _, run in runs if run.has_failed]
    losses = [run.loss for _, run in ended]
    near = [value for value in losses if abs(value) <= MOST_LOSS]
    is_wide = bool(near) and min(near) > 0 and max(near) > _WIDE * min(near)
    shown = axis_range([[value] for value in near], log=is_wide or None)
    lost = [group.name for group in groups if any(run.group == group.name for run in failed)]
    strip = _CROSS_INCHES * (len(lost) + 1) / _PANEL_INCHES if lost else 0.0
    _draw_runs(ax, ended, looks, shown)
    handles = [_draw_group(ax, group, looks[group.name], shown) for group in groups]
    if len(groups) == 1:
        _shade(ax, groups[0])
    set_losses(ax, losses, shown, loss=loss, strip=strip)
    ax.tick_params(which="both", labelbottom=False)
    ax.tick_params(which="minor", bottom=False)
    if lost:
        shade_strip(ax, strip, label="failed")
    for row, name in enumerate(lost, start=1):
        rates = sorted({run.lr for run in failed if run.group == name})
        height = 1 - strip * row / (len(lost) + 1)
        look: dict[str, Any] = {"ls": "none", "marker": "x", "ms": 6, "mew": 1.6, "color": looks[name][0], "zorder": 5}
        ax.plot(rates, [height] * len(rates), transform=ax.get_xaxis_transform(), **look)
    return handles


def _draw_runs(
    ax: Axes, runs: Sequence[tuple[str, Observed]], looks: Mapping[str, tuple[str, str]], shown: AxisRange
) -> None:
    """Draw a mark for every run, hollow where it was a shorter one; a triangle at the edge where it is off the axis."""
    full = {name: max((run.planned_steps for _, run in runs if run.group == name), default=0) for name in looks}
    for nth, (name, run) in enumerate(runs):
        colour, marker = looks[run.group]
        is_short = run.planned_steps < full[run.group]
        look: dict[str, Any] = {"ls": "none", "ms": 4.5, "mew": 0.8 if is_short else 0, "color": colour, "zorder": 4}
        look |= {"mfc": "none"} if is_short else {"alpha": 0.6}
        height = run.loss
        if not shown.shows(run.loss):
            marker, height = ("^", shown.high) if run.loss > shown.high else ("v", shown.low)
            look |= {"ms": 7, "clip_on": False}
        ax.plot([run.lr], [height], marker=marker, gid=name if nth < _MOST_NAMED else None, **look)


def _draw_group(ax: Axes, group: GroupReport, look: tuple[str, str], shown: AxisRange) -> Any:
    """Draw the means as a thin line, the fit as a thick one, the recommendation as a vertical one; return a handle."""
    from matplotlib.lines import Line2D

    colour, marker = look
    means = [(rate.lr, rate.mean) for rate in group.rates if not math.isnan(rate.mean)]
    ax.plot([lr for lr, _ in means], shown.clamp([mean for _, mean in means]), color=colour, lw=0.9, ls=":", zorder=2)
    if group.advice.fit.quadratic is not None and group.advice.fit.is_vertex:
        low, high = group.advice.fit.window
        rates = [low * (high / low) ** (i / 60) for i in range(61)]
        ax.plot(rates, shown.clamp([group.advice.fit.loss_at(lr) for lr in rates]), color=colour, lw=1.8, zorder=3)
    if not math.isnan(group.recommended):
        ax.axvline(group.recommended, color=colour, lw=1.2, ls="--", zorder=2.5)
    name = group.name if len(group.name) <= _LONGEST_NAME else f"{group.name[: _LONGEST_NAME - 1]}…"
    return Line2D([], [], color=colour, marker=marker, ms=4.5, lw=1.8, label=name or "all runs")


def _shade(ax: Axes, group: GroupReport) -> None:
    """Shade where losses are near-optimal, and where runs failed."""
    if group.basin is not None and group.basin.high > group.basin.low:
        ax.axvspan(group.basin.low, group.basin.high, facecolor=GREEN, alpha=0.13, lw=0, zorder=0.5)
    if group.advice.edge.is_known:
        ax.axvspan(group.advice.edge.first_failing, ax.get_xlim()[1], facecolor=RED, alpha=0.08, lw=0, zorder=0.5)


def _draw_rows(ax: Axes, groups: Sequence[GroupReport], looks: Mapping[str, tuple[str, str]]) -> None:
    """Draw what was found, a row a group: basin, interval, recommendation, and from where on runs failed."""
    right = ax.get_xlim()[1]
    for row, group in enumerate(groups):
        colour = looks[group.name][0]
        if group.basin is not None:
            low, high = group.basin.low, group.basin.high
            ax.plot([low, high], [row, row], color=GREEN, lw=7, alpha=0.35, solid_capstyle="butt", zorder=2)
        if group.advice.edge.is_known:
            look: dict[str, Any] = {"color": RED, "lw": 7, "alpha": 0.25, "solid_capstyle": "butt", "zorder": 1}
            ax.plot([group.advice.edge.first_failing, right], [row, row], **look)
        if group.interval is not None:
            low, high = group.interval.low, group.interval.high
            ax.plot([low, high], [row, row], color=colour, lw=1.6, marker="|", ms=7, mew=1.6, zorder=3)
        if not math.isnan(group.recommended):
            ax.plot([group.recommended], [row], color=colour, marker="D", ms=6, mec="white", mew=0.8, zorder=4)
            look = {"va": "bottom", "ha": "center", "fontsize": SMALL, "color": BLACK, "xytext": (0, 4), "zorder": 6}
            ax.annotate(number(group.recommended), (group.recommended, row), textcoords="offset points", **look)
    ax.set_ylim(len(groups) - 0.5, -0.8)
    ax.set_yticks([])
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(labelsize=SMALL)
    ax.grid(axis="x", color="#DDDDDD", lw=0.6)
    ax.set_axisbelow(True)


def _key(groups: Sequence[GroupReport]) -> Handles:
    """Return what the marks of the rows mean."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    mark: dict[str, Any] = {"color": GREY, "lw": 1.6}
    handles: Handles = []
    if any(not math.isnan(group.recommended) for group in groups):
        handles.append(Line2D([], [], color=GREY, ls="none", marker="D", ms=6, label="recommended"))
    levels = {group.interval.level for group in groups if group.interval is not None}
    if levels:
        what = "95% interval of the best" if 0.95 in levels else "neighbours of the best"
        handles.append(Line2D([], [], marker="|", ms=7, mew=1.6, label=what, **mark))
    if any(group.basin is not None and group.basin.high > group.basin.low for group in groups):
        handles.append(Patch(facecolor=GREEN, alpha=0.35, lw=0, label="near-optimal"))
    if any(group.advice.edge.is_known for group in groups):
        handles.append(Patch(facecolor=RED, alpha=0.25, lw=0, label="runs failed"))
    if any(group.advice.fit.is_vertex for group in groups):
        handles.append(Line2D([], [], color=GREY, lw=1.8, label="fit"))
    if any(not math.isnan(rate.mean) for group in groups for rate in group.rates):
        handles.append(Line2D([], [], color=GREY, lw=0.9, ls=":", label="mean"))
    return handles
