"""What the figures share: size, colours, axes, legends, and a file that appears whole or not at all."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.curves import AxisRange, labels, ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_INCHES, DPI = 7.5, 200
# The palette of Okabe and Ito, which colour-blind readers can tell apart.
BLUE, GREEN, PURPLE, ORANGE, RED, SKY = "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#D55E00", "#56B4E9"
BLACK, GREY, PALE = "#222222", "#6B6B6B", "#DDDDDD"
TEXT, SMALL = 9.5, 8.5  # points

Handles = list[Any]  # of a legend

_MOST_DECADES = 10  # that still have ticks in between


def import_ahead() -> None:
    """Import what drawing takes, a third of a second, before there is something to draw."""
    for name in ("matplotlib.backends.backend_agg", "matplotlib.figure", "runner.report.figures", "runner.report.png"):
        import_module(name)


def save(figure: Figure, path: Path) -> None:
    """Write a figure with an Agg canvas as PNG: to a temporary file first, renamed when it is whole.

    Raises:
        OSError: the file cannot be written.
    """
    from runner.report.png import png

    canvas: Any = figure.canvas
    canvas.draw()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(png(canvas.buffer_rgba(), dpi=DPI))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def set_y(ax: Axes, shown: AxisRange) -> None:
    """Set scale, range and ticks of a y axis."""
    ax.set_yscale("log" if shown.log else "linear")
    ax.set_ylim(shown.low, shown.high)
    places = ticks(shown, most=8 if ax.get_position().height > 0.3 else 5)
    ax.set_yticks(places, labels=labels(places))
    if shown.log:
        _draw_minor_ticks(ax, shown)


def _draw_minor_ticks(ax: Axes, shown: AxisRange) -> None:
    """Draw the ticks between powers of ten as marks of one line: as objects of their own they take half of a figure."""
    from matplotlib.markers import TICKLEFT
    from matplotlib.ticker import NullLocator

    ax.yaxis.set_minor_locator(NullLocator())
    decades = range(math.floor(math.log10(shown.low)), math.ceil(math.log10(shown.high)))
    if shown.high < 10 * shown.low or len(decades) > _MOST_DECADES:
        return
    places = [place for decade in decades for n in range(2, 10) if shown.shows(place := n * 10.0**decade)]
    look: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "clip_on": False, "color": "black", "ls": "none"}
    ax.plot([0.0] * len(places), places, marker=TICKLEFT, ms=2, mew=0.6, scalex=False, scaley=False, **look)


def draw_legend(make: Callable[..., Any], handles: Handles, *, inches: float) -> None:
    """Make a legend in as many columns as fit, standing on the upper edge of its axes."""
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderpad": 0.1, "borderaxespad": 0.4}
    look: dict[str, Any] = {"fontsize": SMALL, "frameon": False, "columnspacing": 1.4, "labelspacing": 0.3}
    for columns in range(len(handles), 0, -1):
        legend = make(handles=handles, ncols=columns, handlelength=1.6, handletextpad=0.5, **place, **look)
        for text in legend.get_texts():
            text.set_parse_math(False)
        if columns == 1 or legend.get_window_extent().width <= inches * DPI:
            break
        legend.remove()
