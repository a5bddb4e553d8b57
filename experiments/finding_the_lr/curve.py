"""The truth of a cell: a smooth curve of the loss over the learning rate, and where runs begin to fail."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from methods import observed
from runs_of_cells import PAGE
from truth import read

from runner.finding.failures import SAFE_RATIO
from runner.finding.points import LRPoint, points_of, sd_of
from runner.records import read_non_finite

KEPT = Path(__file__).with_name("truth.json")
NEAR_DECADES, LEAST_NOISE = 0.5, 0.005
POINTS = 2000


class Truth(NamedTuple):
    """What the dense truth says of a cell.

    Attributes:
        lrs: learning rates.
        means: mean loss of each over the seeds that did not fail; nan where all did.
        sds: standard deviation over these seeds, over the mean.
        failed: share of the seeds that failed: that diverged, or above the best rate learned nothing.
    """

    lrs: tuple[float, ...]
    means: tuple[float, ...]
    sds: tuple[float, ...]
    failed: tuple[float, ...]

    @property
    def first_failing(self) -> float:
        """Smallest rate at which a seed failed; inf where none did."""
        return next((lr for lr, share in zip(self.lrs, self.failed, strict=True) if share), math.inf)

    @property
    def stable(self) -> float:
        """Largest rate below that."""
        return max(lr for lr in self.lrs if lr < self.first_failing)

    def curve(self) -> tuple[Any, Any]:
        """Return log10 of learning rates up to `stable`, and the loss there.

        At each, a parabola in ln lr through the logarithm of the means within half a decade, weighed by their noise and
        by how near they are.
        """
        return _curve(self)

    def best(self, highest: float = math.inf) -> tuple[float, float]:
        """Return the rate with the smallest loss of the curve, up to a rate, and that loss."""
        places, losses = self.curve()
        allowed = places <= math.log10(highest)
        index = int(np.argmin(np.where(allowed, losses, math.inf)))
        return 10 ** float(places[index]), float(losses[index])

    @property
    def allowed(self) -> float:
        """The highest rate that `mode=search` could recommend, did it know the truth; inf where no rate failed."""
        return self.stable / SAFE_RATIO if math.isfinite(self.first_failing) else math.inf

    def fails(self, lr: float) -> bool:
        """Whether a rate is none, or at or beyond the first at which a seed failed."""
        return not 0 < lr < self.first_failing

    def regret(self, lr: float) -> float:
        """Return the loss of the curve at a rate over its minimum, minus 1; inf where it fails.

        Beyond an end of the curve it is that of the end, which is too little.
        """
        if self.fails(lr):
            return math.inf
        places, losses = self.curve()
        return float(np.interp(math.log10(lr), places, losses)) / self.best()[1] - 1


@functools.cache
def _curve(truth: Truth) -> tuple[Any, Any]:
    good = [i for i, lr in enumerate(truth.lrs) if lr <= truth.stable]
    xs, ys = np.log10([truth.lrs[i] for i in good]), np.log([truth.means[i] for i in good])
    noise = np.maximum([truth.sds[i] for i in good], LEAST_NOISE)
    places = np.linspace(xs[0], xs[-1], POINTS)
    return places, np.array([_local(place, xs, ys, noise) for place in places])


def _local(place: float, xs: Any, ys: Any, noise: Any) -> float:
    near = np.clip(1 - ((xs - place) / NEAR_DECADES) ** 2, 0, None) ** 1.5
    root = np.sqrt(near / noise**2)
    terms = np.vander(xs - place, 3, increasing=True)
    return math.exp(np.linalg.lstsq(terms * root[:, None], ys * root, rcond=None)[0][0])


def truths() -> dict[str, Truth]:
    """Return the truth of every cell, from its runs where there are any, else from truth.json beside this file."""
    found = {cell: truth for cell in PAGE["cells"] if (truth := _of_runs(cell)) is not None}
    if found:
        return found
    saved = read_non_finite(json.loads(KEPT.read_text(encoding="utf-8")))
    return {cell: Truth(**{name: tuple(values) for name, values in numbers.items()}) for cell, numbers in saved.items()}


def percent(share: float) -> str:
    """Return a regret as it stands in a table."""
    return "fails" if math.isinf(share) else f"{100 * share:.1f} %"


def _of_runs(cell: str) -> Truth | None:
    seen = [observed(run, "") for run in read(cell) if run.share == 1.0 and run.seed in PAGE["truth_seeds"]]
    return truth_from(points_of(seen)) if seen else None


def truth_from(points: Sequence[LRPoint]) -> Truth:
    """Return what runs tell, as a truth."""
    rows = [
        (
            point.lr,
            point.mean if point.losses else math.nan,
            sd_of(point.losses) / point.mean if point.losses else math.nan,
            point.failed / (len(point.losses) + point.failed),
        )
        for point in points
    ]
    return Truth(*map(tuple, zip(*rows, strict=True)))
