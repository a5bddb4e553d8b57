"""What a sweep or search asks for: a point, and whether to give a trial up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple


class Point(NamedTuple):
    """One setting of a page.

    Attributes:
        overrides: key -> value as on the command line, such as {"optimizer.lr": "0.003", "seed": "1"}.
    """

    overrides: Mapping[str, str]


OnEval = Callable[[int, int, Mapping[str, float]], bool]
"""place of a point in its batch, updates made, metrics of the val split -> whether its trial is given up"""
