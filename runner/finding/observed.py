"""What one run tells about its learning rate: the currency between sweeps, searches and the report."""

from __future__ import annotations

import math
from typing import NamedTuple

KNOWN = "known"
"""purpose of a run that was given, not made: it counts for the curve, not for the cost"""


class Observed(NamedTuple):
    """One run, whatever asked for it: a grid, lanes, a search or a multirun.

    Attributes:
        lr: base learning rate.
        seed: the run's.
        loss: at the end, in the task's unit: of the val split where there is one; nan where there is none.
        status: finished, diverged, interrupted, failed, waiting.
        group: what else was varied, as pasted on a command line, such as "optimizer=adamw"; "" where nothing was.
        first_loss: training loss before the first update; nan where it is not known.
        steps: updates made.
        planned_steps: updates declared.
        run: its run directory as printed; "" where there is none.
        purpose: what a search made it for: start, step, seeds, verify; known where it was given; "" in a sweep.
    """

    lr: float
    seed: int
    loss: float
    status: str = "finished"
    group: str = ""
    first_loss: float = math.nan
    steps: int = 0
    planned_steps: int = 0
    run: str = ""
    purpose: str = ""

    @property
    def has_failed(self) -> bool:
        """Whether the run broke down: it diverged, or finished with a loss that is no number."""
        return self.status == "diverged" or (self.status == "finished" and not math.isfinite(self.loss))
