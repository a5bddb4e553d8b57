"""A range test in words and in files: `range_test.json` and `range_test.png`, beside the search that it began."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from runner.curves import number
from runner.records import spell_non_finite
from runner.tracking.directory import RANGE_FIGURE, RANGE_TEST, write_whole

if TYPE_CHECKING:
    from runner.range_bracket import RangeTest, Verified


class Tested(NamedTuple):
    """What a range test came to, as it was written down.

    Attributes:
        low, high: the bracket of `optimizer.lr`.
        steps: updates that it took.
        run_steps: updates of the run.
    """

    low: float
    high: float
    steps: int
    run_steps: int

    @property
    def cost(self) -> float:
        """In multiples of the run."""
        return self.steps / self.run_steps

    def in_words(self) -> str:
        """Return it as a sentence of a report."""
        bracket = f"{number(self.low, 2)} to {number(self.high, 2)}"
        return f"A range test of {self.steps:,} steps gave the bracket to begin in, {bracket}; the cost counts it."


def find_range_test(directory: Path) -> Tested | None:
    """Return the range test of the search in a directory, None where it had none.

    The upper end is the learning rate that the sharpness bounds, where that lies inside the bracket.
    """
    try:
        data = json.loads((directory / RANGE_TEST).read_text(encoding="utf-8"))
        low, high, sharpness = float(data["low"]), float(data["high"]), data["sharpness"]
        bound = float(sharpness["upper_bracket"]) if sharpness is not None else high
        return Tested(low, bound if low < bound < high else high, int(data["steps"]), int(data["run_steps"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def in_words(test: RangeTest) -> str:
    """Return what was found in one sentence."""
    found, count = test.found, len(test.ramps)
    if found.nothing is not None:
        return f"no suggestion: {found.nothing.reason}"
    which = f"the widest of {count} ramps" if count > 1 else "of one ramp"
    end = ", and maybe higher: not every ramp blew up" if found.is_open else ""
    bracket = f"{number(found.low, 2)} to {number(found.high, 2)}"
    return f"bracket of optimizer.lr: {bracket}, valley / 3 to stop / 3, {which}{end}"


def overrides_of(test: RangeTest) -> list[str]:
    """Return what goes on from a bracket, without an upper bound where no ramp blew up; [] where there is none."""
    if test.found.nothing is not None:
        return []
    low, high = (number(value, 2) for value in (test.found.low, test.found.high))
    return ["mode=search", f"search.low={low}", *([] if test.found.is_open else [f"search.high={high}"])]


def write_range_test(place: Path, test: RangeTest, tried: Sequence[Verified], *, title: str) -> None:
    """Write report and picture.

    Args:
        tried: short schedules around the middle of the bracket.
        title: of the picture.
    Raises:
        OSError: they cannot be written.
    """
    from runner.report.range_figure import range_figure

    write_whole(place / RANGE_TEST, json.dumps(spell_non_finite(_as_json(test, tried)), indent=1) + "\n")
    range_figure(test.ramps, test.found, place / RANGE_FIGURE, title=title, verdict=in_words(test))


def _as_json(test: RangeTest, tried: Sequence[Verified]) -> dict[str, Any]:
    found = test.found
    return {
        "overrides": overrides_of(test),
        "low": found.low,
        "high": found.high,
        "is_open": found.is_open,
        "nothing": found.nothing._asdict() if found.nothing is not None else None,
        "rules": {name: spread._asdict() for name, spread in found.rules.items()},
        "sharpness": test.sharpness.as_dict() if test.sharpness is not None else None,
        "begin": test.begin,
        "steps": test.steps,
        "run_steps": test.run_steps,
        "cost": test.cost,
        "ramps": [
            {**ramp._asdict(), "rules": curve.rules, "smoothed": curve.smoothed}
            for ramp, curve in zip(test.ramps, found.curves, strict=True)
        ],
        "verified": [one._asdict() for one in tried],
    }
