"""The picture of a sweep: final loss against the learning rate. matplotlib is imported only when it is drawn."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from runner.curves import AxisRange, axis_range, number
from runner.report.lr_axes import MOST_LOSS, set_losses, set_rates, shade_strip
from runner.report.style import (
    BLACK,
    BLUE,
    DPI,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    TEXT,
    WIDTH_INCHES,
    draw_legend,
    save,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, BLACK, SKY)
_LOOKS = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"))  # one for each round of colours
_MOST_SETTINGS = len(_COLOURS) * len(_LOOKS)
_LEFT_INCHES, _RIGHT_INCHES, _BOTTOM_INCHES = 0.85, 0.2, 0.55
_PANEL_INCHES = 3.4
_ROW_INCHES = 0.13  # of crosses


class Dot(NamedTuple):
    """One run.

    Attributes:
        label: what else varied, as the legend shows it; "" when nothing did.
        lr: base learning rate.
        loss: at the end.
        status: only those that are finished or diverged are drawn.
    """

    label: str
    lr: float
    loss: float
    status: str


def sweep_figure(dots: Sequence[Dot], path: Path, *, title: str, verdict: str, loss: str, legend: str = "") -> None:
    """Draw final losses over the learning rate on a log axis, a line through the means of each setting, as a PNG.

    Losses that span more than 1.5 decades get a log axis. One above 1e75, or 0 on a log axis, is a triangle at the edge
    beyond which it lies, and the note says how far. Diverged runs are crosses in a strip at the top, a row for each
    setting that has any. At most 24 settings are drawn, those with the smallest losses.

    Args:
        dots: the runs.
        path: the PNG to write; it appears whole or not at all.
        title: what was swept.
        verdict: how the runs ended.
        loss: name of the loss.
        legend: names of what the labels are values of.
    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, _PANEL_INCHES + 1.2), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    ax = figure.add_axes((_LEFT_INCHES / WIDTH_INCHES, 0.1, 1 - (_LEFT_INCHES + _RIGHT_INCHES) / WIDTH_INCHES, 0.7))
    settings = _settings(dots)
    looks = {
        label: (_COLOURS[i % len(_COLOURS)], *_LOOKS[i // len(_COLOURS)]) for i, label in enumerate(sorted(settings))
    }
    finished = [dot.loss for runs in settings.values() for dot in runs if _counts(dot)]
    lost = [label for label, runs in settings.items() if any(dot.status == "diverged" for dot in runs)]
    strip = _ROW_INCHES * (len(lost) + 1) / _PANEL_INCHES if lost else 0.0
    set_rates(ax, [dot.lr for dot in dots])
    shown = axis_range([[value] for value in finished if abs(value) <= MOST_LOSS])
    handles = [_draw_setting(ax, runs, looks[label], label, shown) for label, runs in sorted(settings.items())]
    set_losses(ax, finished, shown, loss=loss, strip=strip)
    for label, runs in sorted(settings.items()):
        _draw_strays(ax, runs, looks[label][0], shown)
    if lost:
        _draw_diverged(ax, {label: settings[label] for label in sorted(lost)}, looks, strip)
    if len(settings) > 1:
        draw_legend(ax.legend, handles, inches=WIDTH_INCHES * ax.get_position().width)
    hidden = len({dot.label for dot in dots}) - len(settings)
    notes = [verdict, *_off_axis(finished, shown), *([f"lines: {legend}"] if legend else [])]
    notes += [f"{hidden} settings not drawn"] if hidden else []
    _arrange(figure, ax, title=title, note="; ".join(notes))
    save(figure, path)


def _counts(dot: Dot) -> bool:
    return dot.status == "finished" and math.isfinite(dot.loss)


def _settings(dots: Sequence[Dot]) -> dict[str, list[Dot]]:
    """Return label -> runs, the settings with the smallest losses."""
    found: dict[str, list[Dot]] = {}
    for dot in dots:
        found.setdefault(dot.label, []).append(dot)
    best = {label: min([dot.loss for dot in runs if _counts(dot)], default=math.inf) for label, runs in found.items()}
    return {label: found[label] for label in sorted(found, key=best.__getitem__)[:_MOST_SETTINGS]}


def _off_axis(losses: Sequence[float], shown: AxisRange) -> list[str]:
    """Return what the note says of losses above and below the axis."""
    above, below = [v for v in losses if v > shown.high], [v for v in losses if v < shown.low]
    notes = [f"{len(above)} finished above the axis (up to {number(max(above))})"] if above else []
    return notes + ([f"{len(below)} finished below the axis (down to {number(min(below))})"] if below else [])


def _draw_strays(ax: Axes, runs: Sequence[Dot], color: str, shown: AxisRange) -> None:
    """Draw a triangle at the edge of the axis for every run beyond it."""
    strays = [dot for dot in runs if _counts(dot) and not shown.shows(dot.loss)]
    for marker, edge in (("^", shown.high), ("v", shown.low)):
        rates = sorted({dot.lr for dot in strays if (dot.loss > edge if marker == "^" else dot.loss < edge)})
        look: dict[str, Any] = {"ls": "none", "ms": 7, "mew": 0, "color": color, "zorder": 5, "clip_on": False}
        ax.plot(rates, [edge] * len(rates), marker=marker, **look)


def _draw_setting(ax: Axes, runs: Sequence[Dot], look: tuple[str, Any, str], label: str, shown: AxisRange) -> Any:
    """Draw a dot for every run on the axis and a line through their means; return the line."""
    color, line, marker = look
    by_lr: dict[float, list[float]] = {}
    for dot in sorted(runs, key=lambda dot: dot.lr):
        if _counts(dot) and shown.shows(dot.loss):
            by_lr.setdefault(dot.lr, []).append(dot.loss)
    several = [(lr, loss) for lr, losses in by_lr.items() if len(losses) > 1 for loss in losses]
    ax.plot(*_columns(several), ls="none", marker="o", ms=3.5, mew=0, color=color, alpha=0.45, zorder=3)
    means = [(lr, statistics.fmean(losses)) for lr, losses in by_lr.items()]
    style: dict[str, Any] = {"ls": line, "lw": 1.6, "marker": marker, "ms": 5, "color": color, "zorder": 4}
    return ax.plot(*_columns(means), label=label, **style)[0]


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in pairs], [y for _, y in pairs]


def _draw_diverged(ax: Axes, lost: dict[str, list[Dot]], looks: dict[str, tuple[str, Any, str]], strip: float) -> None:
    """Draw a cross where any run of a setting diverged, in a strip at the top edge."""
    across = ax.get_xaxis_transform()
    shade_strip(ax, strip, label="diverged")
    for row, (label, runs) in enumerate(lost.items(), start=1):
        rates = sorted({dot.lr for dot in runs if dot.status == "diverged"})
        height = 1 - strip * row / (len(lost) + 1)
        look: dict[str, Any] = {"ls": "none", "marker": "x", "ms": 6, "mew": 1.6, "color": looks[label][0], "zorder": 5}
        ax.plot(rates, [height] * len(rates), transform=across, **look)


def _arrange(figure: Figure, ax: Axes, *, title: str, note: str) -> None:
    """Write title and note, put the panel below its legend, and give the figure the height this takes."""
    lines = textwrap.wrap(note, 105, max_lines=2, placeholder=" …")
    legend = ax.get_legend()
    top = 0.5 + 0.17 * len(lines) + (legend.get_window_extent().height / DPI if legend else 0)
    total = round(top + _PANEL_INCHES + _BOTTOM_INCHES, 2)
    box = ax.get_position()
    figure.set_size_inches(WIDTH_INCHES, total)
    ax.set_position((box.x0, _BOTTOM_INCHES / total, box.width, _PANEL_INCHES / total))
    name = textwrap.wrap(title, 66, max_lines=1, placeholder=" …") or [""]
    look: dict[str, Any] = {"x": 0.15 / WIDTH_INCHES, "va": "top", "parse_math": False}
    figure.text(y=1 - 0.12 / total, s=name[0], fontsize=11.5, fontweight="bold", **look)
    figure.text(y=1 - 0.36 / total, s="\n".join(lines), fontsize=TEXT, color=GREY, **look)
