"""What one run tells about its learning rate: the currency between sweeps, searches and the report."""

from __future__ import annotations

import math
from typing import NamedTuple

START, STEP, SEEDS = "start", "step", "seeds"
"""purposes of the runs of a search: where it begins, another learning rate, another seed"""
VERIFY = "verify"
"""purpose of a run with a fresh seed at the recommendation, which is no point of the curve"""
KNOWN = "known"
"""purpose of a run that was given, not made: it counts for the curve, not for the cost"""
LEARNED = 0.02
"""share of the first loss that a run has to gain"""


class Observed(NamedTuple):
    """One run, whatever asked for it: a grid, lanes, a search or a multirun.

    Attributes:
        lr: base learning rate.
        seed: the run's.
        loss: at the end, in the task's unit: of the val split where there is one; nan where there is none.
        status: finished, diverged, pruned, interrupted, failed, waiting.
        group: what else was varied, as pasted on a command line, such as "optimizer=adamw"; "" where nothing was.
        first_loss: training loss before the first update; nan where it is not known.
        steps: updates made.
        planned_steps: updates declared.
        run: its run directory as printed; "" where there is none.
        purpose: what a search made it for: start, step, seeds, verify; known where it was given; "" in a sweep.
        best_loss: smallest loss of an evaluation; nan where it is not known.
        train_loss: of the last training batch; nan where it is not known.
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
    best_loss: float = math.nan
    train_loss: float = math.nan

    @property
    def has_failed(self) -> bool:
        """Whether the run broke down: it diverged, or finished with a loss that is no number."""
        return self.status == "diverged" or (self.status == "finished" and not math.isfinite(self.loss))

    def has_learned(self, first: float) -> bool:
        """Whether the run ended below a first loss by more than 2 %, or did so and then fitted the training data only.

        The latter has an evaluation that is so low, and a last training loss nearer to that than to the first loss;
        where the training loss is back at the first one, what was learned is lost. One that is not known is believed.
        """
        nothing = (1 - LEARNED) * first
        if self.loss < nothing:
            return True
        return self.best_loss < nothing and not self.train_loss >= (self.best_loss + first) / 2
