"""The picture of what the learning rate will be. matplotlib is imported only when it is drawn."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from runner.curves import AxisRange, axis_range, downsample, labels, ticks
from runner.report.style import (
    BLACK,
    BLUE,
    DPI,
    GREEN,
    GREY,
    ORANGE,
    PALE,
    PURPLE,
    RED,
    SKY,
    SMALL,
    TEXT,
    WIDTH_INCHES,
    Handles,
    draw_legend,
    save,
    set_y,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_IN_ONE = 6  # schedules in one panel; more get a small panel each
_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY, BLACK)
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1, 1.5)))
_LOG_DECADES = 2.5
_POINTS = 3000  # of one line, at most
_LEFT_INCHES, _RIGHT_INCHES, _BOTTOM_INCHES, _GAP_INCHES = 0.85, 0.25, 0.5, 0.2
_PANEL_INCHES, _OTHER_INCHES = 3.0, 1.0
_COLUMNS, _SMALL_INCHES, _SMALL_GAP_INCHES = 5, 0.82, 0.34


class Curves(NamedTuple):
    """What one schedule gives.

    Attributes:
        label: what tells it from the others of the figure; "" when it is alone.
        steps: optimizer steps, in order.
        rates: hyperparameter, "lr" first -> groups that share it -> value at each of the steps.
        total_steps: T.
        warmup_steps: W; 0 without one.
    """

    label: str
    steps: Sequence[int]
    rates: Mapping[str, Mapping[str, Sequence[float]]]
    total_steps: int
    warmup_steps: int

    @property
    def lrs(self) -> dict[str, Sequence[float]]:
        """Label -> learning rate at each of the steps; groups are named where several differ."""
        found = self.rates["lr"]
        return {
            " ".join(part for part in (self.label, groups if len(found) > 1 else "") if part): values
            for groups, values in found.items()
        }


def schedule_figure(schedules: Sequence[Curves], path: Path, *, title: str, note: str) -> None:
    """Draw learning rates over the steps as a PNG: one schedule with its other hyperparameters, or several.

    Up to 6 schedules share a panel; more get a small panel each, with an axis of its own. An axis is logarithmic where
    nine tenths of the values above 0 span more than 2.5 decades. Dotted lines mark the end of a warmup and T.

    Args:
        schedules: at least one.
        path: the PNG to write; it appears whole or not at all.
        title: what is shown.
        note: a line below it.
    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, 4.5), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    if len(schedules) > MOST_IN_ONE:
        _draw_many(figure, schedules, title=title, note=note)
    else:
        _draw_few(figure, schedules, title=title, note=note)
    save(figure, path)


def _is_log(curves: Iterable[Sequence[float]]) -> bool:
    """Return whether nine tenths of the values above 0 span more than 2.5 decades."""
    positive = sorted(value for values in curves for value in values if value > 0)
    if not positive:
        return False
    low, high = positive[round(0.05 * (len(positive) - 1))], positive[round(0.95 * (len(positive) - 1))]
    return math.log10(high / low) > _LOG_DECADES


def _draw_few(figure: Figure, schedules: Sequence[Curves], *, title: str, note: str) -> None:
    """Draw all learning rates into one panel and, of a single schedule, other hyperparameters into panels below it."""
    first = schedules[0]
    others = {name: rates for name, rates in first.rates.items() if name != "lr" and len(schedules) == 1}
    heights = [_PANEL_INCHES, *(_OTHER_INCHES for _ in others)]
    panels: list[Axes] = list(figure.subplots(len(heights), 1, sharex=True, squeeze=False)[:, 0])
    _set_x(panels[-1], max(curves.total_steps for curves in schedules), most=8)
    panels[-1].set_xlabel("optimizer step", fontsize=TEXT)
    shown = rate_range([values for curves in schedules for values in curves.lrs.values()])
    handles: Handles = []
    for index, curves in enumerate(schedules):
        for nth, (name, values) in enumerate(curves.lrs.items()):
            colour, dash = (nth, nth // len(_COLOURS)) if len(schedules) == 1 else (index, nth)
            look = {"color": _COLOURS[colour % len(_COLOURS)], "ls": _DASHES[dash % len(_DASHES)], "label": name}
            handles += _draw_line(panels[0], curves.steps, values, shown, **look)
    for ax, (name, rates) in zip(panels[1:], others.items(), strict=True):
        ends = min(map(min, rates.values())), max(map(max, rates.values()))
        of_other = axis_range([[end] for end in ends], log=False)
        for nth, values in enumerate(rates.values()):
            _draw_line(ax, first.steps, values, of_other, color=_COLOURS[nth % len(_COLOURS)])
        _finish(ax, of_other, label=name.replace("_", " "))
    _finish(panels[0], shown, label="learning rate")
    for ax in panels:
        _mark(ax, schedules, with_names=ax is panels[0])
    if len(handles) > 1:
        draw_legend(panels[0].legend, handles, inches=WIDTH_INCHES - _LEFT_INCHES - _RIGHT_INCHES)
    _stack(figure, panels, heights, title=title, note=note)


def _draw_many(figure: Figure, schedules: Sequence[Curves], *, title: str, note: str) -> None:
    """Draw a small panel for each schedule, from left to right."""
    rows = -(-len(schedules) // _COLUMNS)
    top = 0.72
    total = top + rows * (_SMALL_INCHES + _SMALL_GAP_INCHES)
    figure.set_size_inches(WIDTH_INCHES, total)
    cell = (WIDTH_INCHES - 0.3) / _COLUMNS
    for index, curves in enumerate(schedules):
        row, column = divmod(index, _COLUMNS)
        x, y = 0.15 + column * cell + 0.42, total - top - row * (_SMALL_INCHES + _SMALL_GAP_INCHES) - _SMALL_INCHES
        ax = figure.add_axes((x / WIDTH_INCHES, y / total, (cell - 0.5) / WIDTH_INCHES, _SMALL_INCHES / total))
        shown = rate_range(curves.lrs.values())
        for nth, values in enumerate(curves.lrs.values()):
            _draw_line(ax, curves.steps, values, shown, color=_COLOURS[nth % len(_COLOURS)])
        _finish(ax, shown, label="")
        _mark(ax, [curves], with_names=False)
        _set_x(ax, curves.total_steps, most=3)
        places = ticks(shown, most=3)
        ax.set_yticks(places, labels=labels(places))
        ax.tick_params(labelsize=6, length=2, pad=1.5)
        ax.tick_params(which="minor", left=False)
        if row < rows - 1 and index + _COLUMNS < len(schedules):
            ax.tick_params(labelbottom=False)
        name = f"{curves.label} (log)" if shown.log else curves.label
        ax.set_title(name, fontsize=7.5, loc="left", pad=3, parse_math=False)
    _write_title(figure, total, title=title, note=note)


def rate_range(curves: Iterable[Sequence[float]]) -> AxisRange:
    """Return the range that shows every value; a linear axis begins at 0."""
    known = list(curves)
    log = _is_log(known)
    ends = [min(v for values in known for v in values if v > 0 or not log), max(map(max, known))]
    return axis_range([[end] for end in (ends if log else [0.0, *ends])], log=log)  # one by one, none is far out


def _draw_line(ax: Axes, steps: Sequence[int], values: Sequence[float], shown: AxisRange, **look: Any) -> Handles:
    """Draw a line of as many points as can be seen; 0 lies below a logarithmic axis."""
    points = downsample(steps, shown.clamp(values), most=_POINTS)
    return list(ax.plot(*points, lw=1.5, zorder=3, marker="." if len(steps) <= 25 else "", **look))


def _mark(ax: Axes, schedules: Sequence[Curves], *, with_names: bool) -> None:
    """Mark the ends of the warmups and of the run."""
    ends = {curves.total_steps for curves in schedules}
    warmups = {curves.warmup_steps for curves in schedules if curves.warmup_steps} - ends
    look: dict[str, Any] = {"transform": ax.get_xaxis_transform(), "fontsize": SMALL, "color": GREY, "ha": "center"}
    for places, name in ((warmups, "W"), (ends, "T")):
        for step in places:
            ax.axvline(step, color=GREY, lw=0.8, ls=":", zorder=2)
            if with_names:
                ax.text(step, 1.0, name, va="bottom", **look)


def _finish(ax: Axes, shown: AxisRange, *, label: str) -> None:
    ax.set_ylabel(label, fontsize=TEXT)
    ax.tick_params(labelsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color=PALE, lw=0.6)
    ax.set_axisbelow(True)
    set_y(ax, shown)


def _set_x(ax: Axes, total_steps: int, *, most: int) -> None:
    """Set range and ticks of the step axis."""
    room = max(0.5, 0.012 * total_steps)
    shown = AxisRange(-room, total_steps + room, log=False)
    places = [step for step in ticks(shown, most=most) if step == round(step)]
    ax.set_xlim(shown.low, shown.high)
    ax.set_xticks(places, labels=[f"{step:,.0f}" for step in places])


def _stack(figure: Figure, panels: Sequence[Axes], heights: Sequence[float], *, title: str, note: str) -> None:
    """Put the panels below each other, the legend on top, and give the figure the height this takes."""
    legend = panels[0].get_legend()
    top = 0.78 + (legend.get_window_extent().height / DPI + 0.1 if legend else 0.0)
    total = round(top + sum(heights) + _GAP_INCHES * (len(heights) - 1) + _BOTTOM_INCHES, 2)
    width = 1 - (_LEFT_INCHES + _RIGHT_INCHES) / WIDTH_INCHES
    for ax, height in zip(panels, heights, strict=True):
        ax.set_position((_LEFT_INCHES / WIDTH_INCHES, 1 - (top + height) / total, width, height / total))
        ax.yaxis.set_label_coords(-0.65 / (WIDTH_INCHES * width), 0.5)
        top += height + _GAP_INCHES
    if legend:
        legend.set_bbox_to_anchor((0, 1 + 0.17 / heights[0]), transform=panels[0].transAxes)
    figure.set_size_inches(WIDTH_INCHES, total)
    _write_title(figure, total, title=title, note=note)


def _write_title(figure: Figure, height: float, *, title: str, note: str) -> None:
    name = textwrap.wrap(title, 78, max_lines=1, placeholder=" …") or [""]
    line = textwrap.wrap(note, 110, max_lines=1, placeholder=" …") or [""]
    look: dict[str, Any] = {"x": 0.15 / WIDTH_INCHES, "va": "top", "parse_math": False}
    figure.text(y=1 - 0.12 / height, s=name[0], fontsize=11.5, fontweight="bold", **look)
    figure.text(y=1 - 0.36 / height, s=line[0], fontsize=TEXT, color=GREY, **look)
