"""What passes between a study and whoever runs its trials."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from runner.errors import ConfigError

LOSSES = ("val/loss", "train/loss")
FAR = 1e3
"""value of a diverged trial where nothing tells how bad it is"""


OnEval = Callable[[int, int, Mapping[str, float]], bool]
"""place of a point in its batch, updates made, metrics of the val split -> whether its trial is given up"""


class Asked(NamedTuple):
    """A trial to run.

    Attributes:
        number: of the trial in its study.
        overrides: dotted key -> value, as on the command line.
        params: the same as Optuna has them.
    """

    number: int
    overrides: Mapping[str, str]
    params: Mapping[str, object]


class Ended(NamedTuple):
    """What a trial came to.

    Attributes:
        status: finished, pruned, diverged or failed.
        values: one for every metric; empty unless it finished.
        steps: updates made.
        first_loss: training loss before the first update; nan where it is not known.
        verdict: one phrase a person can read.
        run: its run directory; "" where there is none.
    """

    status: str
    values: tuple[float, ...] = ()
    steps: int = 0
    first_loss: float = math.nan
    verdict: str = ""
    run: str = ""

    @property
    def is_diverged(self) -> bool:
        """Whether it diverged, or finished with a value that is no number."""
        return self.status == "diverged" or (self.status == "finished" and not all(map(math.isfinite, self.values)))


class Counts(NamedTuple):
    """How many trials of a study came to what.

    Attributes:
        finished, pruned, diverged, failed: of them.
        known: that were given, not made.
        running: now, here or elsewhere.
    """

    finished: int = 0
    pruned: int = 0
    diverged: int = 0
    failed: int = 0
    known: int = 0
    running: int = 0

    def __str__(self) -> str:
        parts = zip(self._fields, self, strict=True)
        return ", ".join(f"{count} {name}" for name, count in parts if count) or "no trials"


def value_of_diverged(metric: str, direction: str, *, others: Iterable[float], first_loss: float) -> float:
    """Return the value that a diverged trial is given, so that a sampler learns from it.

    The worst of the values so far, and for a loss at least that of the beginning: never better than a trial that
    finished. min(loss, l0) instead would make a diverged fine-tuning run, whose l0 is small, the best of all.

    Args:
        metric: such as "val/loss".
        direction: minimize or maximize.
        others: values of the trials that finished.
        first_loss: training loss before the first update; nan where it is not known.
    """
    found = [value for value in others if math.isfinite(value)]
    if metric in LOSSES and math.isfinite(first_loss):
        found.append(first_loss)
    if direction == "maximize":
        return min(found, default=-FAR)
    return max(found, default=FAR)


def tell_refused(trial: Asked, error: ConfigError) -> Ended:
    """Warn that the page refuses a trial; return what its study is told."""
    name = " ".join(f"{key}={value}" for key, value in trial.overrides.items())
    print(f"warning search: trial {trial.number} ({name}) is refused: {error.problems[0]}", file=sys.stderr)
    return Ended("failed", verdict=str(error.problems[0]))
