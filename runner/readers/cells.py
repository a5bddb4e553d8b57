"""What a cell holds: a number, nothing, or something else."""

from __future__ import annotations

from typing import Any

MISSING = frozenset({"", "none", "null", "na", "n/a", "<na>", "-", "--"})


def number(value: Any) -> float | None:
    """Return a value as a number; None for a cell that is empty.

    Raises:
        ValueError: it is something else.
    """
    if value is None:
        return None
    if isinstance(value, bool):
        raise ValueError(value)
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, str):
        text = value.strip()
        return None if text.lower() in MISSING else float(text.replace("_", " "))
    raise ValueError(value)
