"""What makes the runs of a batch: `sweep.backend`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from runner.config import Config
from runner.trials.trial import Batch, Share, Trial


class Backend(NamedTuple):
    """A way to make runs.

    Attributes:
        run: makes those of a batch.
        pass_on: sends a signal to its worker processes; None where it has none.
        share: of the machine for each trial; None is all of it.
    """

    run: Callable[[Sequence[Trial], Batch], None]
    pass_on: Callable[[int], None] | None = None
    share: Share | None = None


def backend_of(config: Config) -> Backend:
    """Return the backend that the page chooses."""
    from runner.trials.in_turn import run_in_turn

    return Backend(run_in_turn)
