"""The picture of a diagnosis: the curve with its evidence shaded and numbered."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.curves import AxisRange, axis_range, hugs_zero
from runner.diagnosis.curve import Curve
from runner.diagnosis.verdict import Diagnosis
from runner.report.diagnosis_panel import headline, span
from runner.report.panels import (
    FEW,
    LEFT_INCHES,
    RIGHT_INCHES,
    arrange,
    draw_curve,
    draw_line,
    draw_strays,
    finish_panel,
    set_steps,
)
from runner.report.style import (
    BLACK,
    BLUE,
    DPI,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    SMALL,
    TEXT,
    WIDTH_INCHES,
    Handles,
    draw_legend,
    save,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = (ORANGE, SKY, RED, PURPLE, GREEN)
_LOSS_INCHES, _OTHER_INCHES = 2.9, 1.2
_LONGEST = 100  # characters of a line below the panels
_FEW_EVALS = 60
_MOST_DECADES = 8  # of a logarithmic axis that shows everything
_MOST_RANGES = 4  # of a linear one, in ranges of what is not far out


def diagnosis_figure(curve: Curve, diagnosis: Diagnosis, path: Path, *, title: str) -> None:
    """Draw the loss, and learning rate and gradient norm where they are known, with the evidence, as a PNG.

    Each stretch of the diagnosis is shaded and numbered in every panel; its words stand below them.

    Args:
        curve: what was diagnosed.
        diagnosis: what was found.
        path: the PNG to write; it appears whole or not at all.
        title: what it is about.
    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    beside = {"learning rate": curve.lrs, "gradient norm": curve.grad_norms}
    known = {label: values for label, values in beside.items() if values is not None}
    heights = [_LOSS_INCHES, *(_OTHER_INCHES for _ in known)]
    figure = Figure(figsize=(WIDTH_INCHES, sum(heights)), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    grid = {"left": LEFT_INCHES / WIDTH_INCHES, "right": 1 - RIGHT_INCHES / WIDTH_INCHES, "height_ratios": heights}
    panels: list[Axes] = list(figure.subplots(len(heights), 1, sharex=True, squeeze=False, gridspec_kw=grid)[:, 0])
    set_steps(panels[-1], [*curve.steps, *(step for step, _ in curve.evals)])
    panels[-1].set_xlabel("step", fontsize=TEXT)  # which may be a counted row
    _draw_losses(panels[0], curve)
    for ax, (label, values) in zip(panels[1:], known.items(), strict=True):
        _draw_beside(ax, curve.steps, values, label=label)
    if handles := _draw_stretches(panels, diagnosis):
        draw_legend(figure.legend, handles, inches=WIDTH_INCHES - 2 * RIGHT_INCHES)
    verdict = f"{headline(diagnosis)}: {diagnosis.summary}"
    arrange(figure, panels, heights, title=title, verdict=verdict)
    save(figure, path)


def _draw_losses(ax: Axes, curve: Curve) -> None:
    """Draw training and validation loss."""
    at, evals = [step for step, _ in curve.evals], [value for _, value in curve.evals]
    shown = _range(curve.losses, evals)
    handles = draw_curve(ax, curve.steps, curve.losses, shown=shown, name="loss")
    handles += draw_strays(ax, curve.steps, curve.losses, shown=shown, color=BLUE, name="")
    if evals:
        look: dict[str, Any] = {"marker": "o", "ms": 4.5 if len(evals) <= _FEW_EVALS else 0, "lw": 1.4, "zorder": 4}
        handles += draw_line(ax, at, shown.clamp(evals), color=GREEN, label="validation loss", **look)
        handles += draw_strays(ax, at, evals, shown=shown, color=GREEN, name="validation loss ")
    empty = "" if any(map(math.isfinite, (*curve.losses, *evals))) else "no finite loss"
    finish_panel(ax, shown, label="loss", handles=handles if evals or len(handles) > 1 else [], empty=empty)


def _draw_beside(ax: Axes, steps: Sequence[int], values: Sequence[float], *, label: str) -> None:
    """Draw what was recorded beside the loss."""
    known = [value for value in values if math.isfinite(value)]
    if label == "learning rate":
        log = bool(known) and hugs_zero(known, peak=max(known))
        shown = axis_range([values, *([] if log else [[0.0]])], log=log)
        look: dict[str, Any] = {"color": BLUE, "lw": 1.5, "marker": "." if len(steps) <= FEW else ""}
        draw_line(ax, steps, shown.clamp(values), **look)
        handles: Handles = []
    else:
        shown = _range(values, log=True if any(value > 0 for value in known) else None)
        handles = draw_curve(ax, steps, values, shown=shown, name=label)
        handles += draw_strays(ax, steps, values, shown=shown, color=BLUE, name="")
    finish_panel(
        ax, shown, label=label, handles=handles if len(handles) > 1 else [], empty="" if known else f"no {label}"
    )


def _range(*series: Sequence[float], log: bool | None = None) -> AxisRange:
    """Return the range that shows everything, as what is far out is evidence, or most of it where that is too wide."""
    finite = [value for values in series for value in values if math.isfinite(value) and (value > 0 or not log)]
    whole = axis_range([[min(finite)], [max(finite)]] if finite else [], log=log)
    if whole.log and whole.high <= whole.low * 10**_MOST_DECADES:
        return whole
    usual = axis_range(series, log=log)
    return whole if not whole.log and whole.high - whole.low <= _MOST_RANGES * (usual.high - usual.low) else usual


def _draw_stretches(panels: Sequence[Axes], diagnosis: Diagnosis) -> Handles:
    """Shade and number the evidence; return what stands below the panels."""
    from matplotlib.patches import Patch

    left, right = panels[0].get_xlim()
    least = 0.004 * (right - left)  # what can be seen
    handles: Handles = []
    places: list[float] = []
    for nth, stretch in enumerate(diagnosis.stretches, start=1):
        colour = _COLOURS[(nth - 1) % len(_COLOURS)]
        middle = (stretch.first + stretch.last) / 2
        half = max((stretch.last - stretch.first) / 2, least)
        for ax in panels:
            ax.axvspan(middle - half, middle + half, facecolor=colour, alpha=0.22, lw=0, zorder=1.6)
        near = sum(abs(middle - place) < 0.035 * (right - left) for place in places)
        places.append(middle)
        look: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": SMALL, "color": BLACK, "zorder": 7}
        look["bbox"] = {"boxstyle": "circle,pad=0.18", "facecolor": "white", "edgecolor": colour, "lw": 1.0}
        look["transform"] = panels[0].get_xaxis_transform()
        panels[0].text(middle, 0.955 - 0.1 * (near % 6), str(nth), **look)  # neighbours stand below each other
        words = textwrap.shorten(f"{nth}) {span(stretch)}: {stretch.what}", _LONGEST, placeholder=" …")
        handles.append(Patch(facecolor=colour, alpha=0.4, lw=0, label=words))
    return handles
