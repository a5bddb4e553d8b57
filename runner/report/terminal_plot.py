"""A plot of lines as text. plotext is imported only when one is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from runner.curves import AxisRange, downsample, labels, ticks

WIDTH, HEIGHT = 80, 16  # characters
MOST_LINES = 6
_POINTS = 1000  # of one line, at most
_COLOURS = ("blue+", "orange", "green+", "magenta+", "red+", "cyan+")
_LETTERS = "abcdef"
_PLAIN = str.maketrans("┌┐└┘─│┤┬├┴┼", "++++-|+++++")


def terminal_plot(
    lines: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    shown: AxisRange,
    *,
    title: str,
    colour: bool,
    encoding: str = "utf-8",
) -> str:
    """Return lines over optimizer steps as 16 rows of 80 characters; of more than 6 lines the first.

    Dots of braille draw them; letters tell several apart where there is no colour, and take the place of what the
    encoding lacks.

    Args:
        lines: name -> steps and values; the names are the legend of several.
        shown: range of the value axis.
        title: what the values are.
        colour: whether the terminal shows colours.
        encoding: of the terminal.
    """
    import plotext

    scale = math.log10 if shown.log else float
    chosen = dict(list(lines.items())[:MOST_LINES])
    braille = _has("⠉", encoding) and (colour or len(chosen) == 1)
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plot_size(WIDTH, HEIGHT)
    for nth, (name, (steps, values)) in enumerate(chosen.items()):
        marker = "braille" if braille else _LETTERS[nth] if len(chosen) > 1 else "*"
        x, y = downsample(steps, shown.clamp(values), most=_POINTS)
        inside = [(step, scale(value)) for step, value in zip(x, y, strict=True) if shown.shows(value)]
        label = name if len(chosen) > 1 else None
        plotext.plot(
            [step for step, _ in inside], [v for _, v in inside], marker=marker, color=_COLOURS[nth], label=label
        )
    last = max(steps[-1] for steps, _ in chosen.values())
    places = [step for step in ticks(AxisRange(0, max(last, 1), log=False), most=6) if step == round(step)]
    plotext.xticks(places, [f"{step:,.0f}" for step in places])
    plotext.ylim(scale(shown.low), scale(shown.high))
    heights = ticks(shown, most=6)
    plotext.yticks([scale(height) for height in heights], labels(heights))
    plotext.title(title)
    text: str = plotext.build()
    text = text if colour else plotext.uncolorize(text)
    text = text if _has("┤", encoding) else text.translate(_PLAIN)
    return "\n".join(line.rstrip() for line in text.splitlines())


def _has(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
