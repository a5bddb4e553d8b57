"""Any number of rows becomes at most `MOST_ROWS` in bounded memory: blocks keep what one would look for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MOST_ROWS = 200_000
_HELD_ROWS = 5 * MOST_ROWS


class Blocks:
    """Rows as they come, thinned where there are too many.

    Row numbers are cut into blocks of equal length; each keeps its first and last row, those with the smallest and
    largest finite value, the one that rises most above the row before, as spikes begin, the first with a value that
    is not finite, and the largest of every further column. The length doubles where that leaves more than `MOST_ROWS`;
    so the memory is bounded, and the blocks are equal.

    Args:
        columns: names; the first is the value.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        self.seen = 0
        self.block = 1
        self._parts: list[Floats] = []
        self._held = 0

    def add(self, rows: Floats, columns: Mapping[str, Floats]) -> None:
        """Take rows: their numbers, rising, and a value of each column."""
        if len(rows) == 0:
            return
        self.seen += len(rows)
        # a copy: views would keep whole batches alive
        self._parts.append(np.column_stack([rows, *(columns[name] for name in self.columns)]))
        self._held += len(rows)
        if self._held > _HELD_ROWS:
            self._thin()

    def take(self) -> tuple[Floats, dict[str, Floats]]:
        """Return the rows that are kept: their numbers, and the columns."""
        if self.seen > MOST_ROWS:
            self._thin()
        if not self._parts:
            empty = np.empty(0)
            return empty, dict.fromkeys(self.columns, empty)
        whole = np.concatenate(self._parts)
        return whole[:, 0], {name: whole[:, i] for i, name in enumerate(self.columns, start=1)}

    def _thin(self) -> None:
        """Reduce what came since the last time, and double the blocks until what is left is little enough."""
        self._reduce()
        while self._held > MOST_ROWS:
            self.block *= 2
            self._reduce()

    def _reduce(self) -> None:
        whole = np.concatenate(self._parts)
        blocks = whole[:, 0] // self.block
        starts = np.flatnonzero(np.r_[True, blocks[1:] != blocks[:-1]])
        kept = np.zeros(len(whole), dtype=bool)
        kept[starts] = kept[np.r_[starts[1:], len(whole)] - 1] = True
        values = whole[:, 1]
        finite = np.isfinite(values)
        kept[_where_best(np.where(finite, values, np.inf), starts)] = True
        for column in range(1, whole.shape[1]):
            numbers = whole[:, column]
            kept[_where_best(np.where(np.isfinite(numbers), -numbers, np.inf), starts)] = True
        kept[_where_best(finite.astype(np.float64), starts)] = True
        with np.errstate(invalid="ignore", over="ignore"):
            falls = values[:-1] - values[1:]
        kept[_where_best(np.r_[np.inf, np.where(np.isfinite(falls), falls, np.inf)], starts)] = True
        self._parts = [whole[kept]]
        self._held = int(kept.sum())


def _where_best(values: Floats, starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of the first smallest value of each stretch."""
    lengths = np.diff(np.r_[starts, len(values)])
    hits = np.flatnonzero(values == np.repeat(np.minimum.reduceat(values, starts), lengths))
    stretch = np.searchsorted(starts, hits, side="right") - 1
    first: NDArray[np.int64] = hits[np.r_[True, stretch[1:] != stretch[:-1]]]
    return first
