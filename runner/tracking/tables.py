"""Small tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

WIDTH = 120


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a header: the first column to the left, all others to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, name in enumerate(header):
        table.add_column(escape(name), justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    console = Console(highlight=False)
    console.width = max(console.width, WIDTH)
    console.print(table)


def number(value: float | None) -> str:
    """Return a metric with six digits, a dash where there is none."""
    return "-" if value is None else f"{value:.6g}"


def rounded(value: float) -> str:
    """Return four decimals, or four digits where that would be long or all zeros."""
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.4g}"


def clock(seconds: float) -> str:
    """Return 0:03, 12:34 or 1:23:45."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(count: float) -> str:
    """Return bytes with three digits and a unit."""
    return _with_unit(count, 1000.0, ("B", "kB", "MB", "GB", "TB"))


def duration(seconds: float) -> str:
    """Return a span of time with three digits and a unit."""
    if seconds < 1:
        return f"{1e3 * seconds:.3g} ms"
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def _with_unit(value: float, base: float, units: Sequence[str]) -> str:
    index = 0
    while value >= base and index < len(units) - 1:
        value, index = value / base, index + 1
    return f"{value:.3g} {units[index]}" if index else f"{value:.0f} {units[0]}"
