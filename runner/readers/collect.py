"""Batches of rows become the columns of a curve: steps, gaps, repeats, and runs that were resumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from runner.readers.blocks import MOST_ROWS, Blocks, Floats

Bools = NDArray[np.bool_]

_GAPS = 0.1  # a loss missing more often than this between others was not logged there
_FEW_LOSSES = 5  # whose median is where losses begin or end
_FEW_TURNS = 20  # steps that go back more often are in no order


@dataclass
class Columns:
    """What was read, ready for a curve.

    Attributes:
        steps: rising.
        values: "loss" and what else was recorded with it, one a step; nan where a companion is not known.
        evals: (step, loss) on held-out data.
        notes: what was done to the rows.
        rows: number of losses that were kept, before blocks were made; empty cells are none.
    """

    steps: list[int]
    values: dict[str, list[float]]
    evals: list[tuple[int, float]]
    notes: list[str] = field(default_factory=list)
    rows: int = 0


class Collector:
    """Takes batches of rows, in order, and makes `Columns` of them.

    A row may lack any of its cells. A row with a loss is one of training. Learning rates and gradient norms that
    stand in rows of their own belong to the losses that follow them; where a row lacks one, it has that of the row
    before.

    Args:
        companions: further columns, such as "lr".
        has_steps: whether rows have a "step"; they are counted where not.
        empty_may_be_nan: whether an empty cell may be how nan was written, as it may in a table.
    """

    def __init__(self, companions: Sequence[str], *, has_steps: bool, empty_may_be_nan: bool = False) -> None:
        self._companions = [name for name in companions if name not in ("step", "loss", "val_loss")]
        self._has_steps = has_steps
        self._empty_may_be_nan = empty_may_be_nan
        self._row = 0
        self._losses = Blocks(["loss", "step", *self._companions])
        self._beside = {name: Blocks([name, "step"]) for name in self._companions}
        self._evals = Blocks(["val_loss", "step"])
        self._empty = Blocks(["step", "step"])
        self._repeats = self._anew = 0
        self._first_step = np.nan
        self._last_step = -np.inf
        self._latest = dict.fromkeys(self._companions, np.nan)
        self._fractional = False

    def add(self, batch: Mapping[str, Floats], empty: Bools, gaps: Mapping[str, Bools] | None = None) -> None:
        """Take a batch.

        Args:
            batch: column -> values, nan where a cell is empty; "loss" is there.
            empty: where the cell of the loss is empty, which is not the same as nan.
            gaps: companion or "val_loss" -> where its cell is empty, which is not the same as nan.
        """
        loss = batch["loss"]
        rows = np.arange(self._row, self._row + len(loss), dtype=np.float64)
        self._row += len(loss)
        steps = batch["step"] if self._has_steps else rows
        if self._has_steps:
            steps = self._with_steps(steps)
        val_loss = batch.get("val_loss", np.full(len(loss), np.nan))
        has_eval = ~(gaps or {}).get("val_loss", np.isnan(val_loss))
        train = ~empty
        self._note_order(steps[train])
        chosen = {name: batch[name][train] for name in self._companions}
        for name, missing in (gaps or {}).items():
            if name in chosen and train.any():
                chosen[name] = _filled(chosen[name], missing[train], self._latest[name])
                self._latest[name] = float(chosen[name][-1])
        self._losses.add(rows[train], {"loss": loss[train], "step": steps[train], **chosen})
        for name in self._companions:
            alone = empty & ~np.isnan(batch[name])
            self._beside[name].add(rows[alone], {name: batch[name][alone], "step": steps[alone]})
        self._evals.add(rows[has_eval], {"val_loss": val_loss[has_eval], "step": steps[has_eval]})
        bare = empty & ~has_eval
        self._empty.add(rows[bare], {"step": steps[bare]})

    def columns(self) -> Columns:
        """Return what was read, in the order of its steps."""
        rows, columns = self._losses.take()
        seen, block = self._losses.seen, self._losses.block
        rows, columns, notes = self._with_empty(rows, columns)
        if seen > MOST_ROWS:
            kept = "first, smallest, largest, steepest, last and first non-finite loss"
            notes.append(f"{seen:,} rows are reduced to {len(rows):,}: blocks of {block:,} rows keep their {kept}")
        counted = not self._has_steps or self._must_count(columns, notes)

        def steps_of(some: Floats, recorded: Floats) -> Floats:
            if not counted:
                return recorded
            return some if seen > MOST_ROWS else np.searchsorted(rows, some).astype(np.float64)

        steps = steps_of(rows, columns["step"])
        kept_rows = self._in_order(steps, notes)
        steps = steps[kept_rows]
        values = {name: columns[name][kept_rows] for name in ("loss", *self._companions)}
        for name, beside in self._beside.items():
            at, found = beside.take()
            values[name] = _filled_from(values[name], steps, steps_of(at, found["step"]), found[name])
        at, evals = self._evals.take()
        points = dict(zip(steps_of(at, evals["step"]).tolist(), evals["val_loss"].tolist(), strict=True))
        return Columns(
            [int(step) for step in steps.tolist()],
            {name: column.tolist() for name, column in values.items()},
            [(int(step), points[step]) for step in sorted(points)],
            notes,
            seen if seen > MOST_ROWS else min(seen, len(steps)),
        )

    def _with_steps(self, steps: Floats) -> Floats:
        """Return steps where a row without one has that of the row before."""
        return _filled(steps, ~np.isfinite(steps), self._last_step if np.isfinite(self._last_step) else 0.0)

    def _note_order(self, steps: Floats) -> None:
        if len(steps) == 0:
            return
        change = np.diff(steps, prepend=self._last_step)
        self._first_step = steps[0] if np.isnan(self._first_step) else self._first_step
        self._anew += int(((change < 0) & (steps == self._first_step)).sum())
        self._repeats += int((change == 0).sum())
        self._fractional = self._fractional or bool((steps != np.floor(steps)).any())
        self._last_step = float(steps[-1])

    def _with_empty(self, rows: Floats, columns: dict[str, Floats]) -> tuple[Floats, dict[str, Floats], list[str]]:
        """Return the rows with those whose loss is an empty cell, where that stands for nan and not for a gap.

        It is a gap where learning rates or norms stand in rows of their own, and where it is frequent.
        """
        empty_rows, empty = self._empty.take()
        last = rows[-1] if len(rows) else -1.0
        between = int((empty_rows < last).sum())
        beside = [name for name in self._companions if self._beside[name].seen]
        with_loss = [name for name in beside if not np.isnan(columns[name]).all()]
        is_gap = len(beside) > len(with_loss) or (not with_loss and between > _GAPS * max(1, len(rows)))
        if len(empty_rows) == 0 or is_gap or not self._empty_may_be_nan:
            return rows, columns, []
        missing = np.full(len(empty_rows), np.nan)
        added = {name: empty["step"] if name == "step" else missing for name in columns}
        order = np.argsort(np.r_[rows, empty_rows], kind="stable")
        joined = {name: np.r_[column, added[name]][order] for name, column in columns.items()}
        count = self._empty.seen
        cells = "1 empty cell is" if count == 1 else f"{count:,} empty cells are"
        return np.r_[rows, empty_rows][order], joined, [f"{cells} read as a loss of nan"]

    def _must_count(self, columns: Mapping[str, Floats], notes: list[str]) -> bool:
        """Whether the rows are counted, as what is recorded as steps does not tell them apart."""
        if self._fractional:
            notes.append("rows are counted as steps, as the recorded ones are not whole numbers")
            return True
        if self._anew > 1 or (self._anew == 1 and _is_second_epoch(columns["step"], columns["loss"])):
            often = "once" if self._anew == 1 else f"{self._anew:,} times"
            notes.append(f"rows are counted as steps, as the recorded ones begin anew {often}")
            return True
        if self._repeats > 0.5 * max(1, self._losses.seen - 1):
            notes.append("rows are counted as steps, as most of the recorded ones repeat that of the row before")
            return True
        return False

    def _in_order(self, steps: Floats, notes: list[str]) -> NDArray[np.int64]:
        """Return the places of the rows to keep, in the order of their steps."""
        places = np.arange(len(steps))
        if len(steps) == 0 or bool((np.diff(steps) > 0).all()):
            return places
        turns = np.flatnonzero(np.diff(steps) < 0)
        is_unique = len(np.unique(steps)) == len(steps)
        if len(turns) <= _FEW_TURNS and not is_unique:  # a resumed run repeats what came after its checkpoint
            keep = np.ones(len(steps), dtype=bool)
            for turn in turns.tolist():
                keep[: turn + 1] &= steps[: turn + 1] < steps[turn + 1]
            places = places[keep]
            for turn in turns[:3].tolist():
                notes.append(
                    f"steps go back from {steps[turn]:,.0f} to {steps[turn + 1]:,.0f} as in a resumed run; "
                    "the later rows are kept"
                )
        elif len(turns):
            places = places[np.argsort(steps, kind="stable")]
            notes.append("rows are not in the order of their steps; they are sorted")
        is_last = np.r_[np.diff(steps[places]) > 0, True]
        if not is_last.all():
            count = int((~is_last).sum())
            rows = "1 row has" if count == 1 else f"{count:,} rows have"
            notes.append(f"{rows} the step of another one; the last of each step is kept")
        return places[is_last]


def _is_second_epoch(steps: Floats, losses: Floats) -> bool:
    """Whether steps that begin anew once count those of a second epoch, and no run that was begun again.

    They get no further than the first time, and the losses go on where they were: nearer to the last ones before than
    to the first ones.
    """
    turns = np.flatnonzero(np.diff(steps) < 0)
    if len(turns) != 1 or steps[-1] > steps[turns[0]]:
        return False
    before, after = (part[np.isfinite(part)] for part in np.split(losses, turns + 1))
    if not len(before) or not len(after):
        return False
    few = max(1, min(_FEW_LOSSES, len(before) // 2, len(after)))
    first, last, begin = np.median(before[:few]), np.median(before[-few:]), np.median(after[:few])
    return bool(abs(begin - last) < abs(begin - first))


def _filled(values: Floats, gaps: Bools, before: float) -> Floats:
    """Return values where a gap has the value before it, and one at the beginning that of the rows before these."""
    if not gaps.any():
        return values
    last = np.maximum.accumulate(np.where(gaps, 0, np.arange(1, len(values) + 1)))
    return np.where(last > 0, values[last - 1], before)


def _filled_from(values: Floats, steps: Floats, at: Floats, recorded: Floats) -> Floats:
    """Return a companion of the losses, its gaps filled with what was recorded last in rows of its own."""
    gaps = np.isnan(values)
    if len(at) == 0 or not gaps.any():
        return values
    order = np.argsort(at, kind="stable")
    last = np.searchsorted(at[order], steps, side="right") - 1
    found = np.where(last >= 0, recorded[order][np.maximum(last, 0)], np.nan)
    return np.where(gaps, found, values)
