"""Config -> what measures signals, as far as somebody needs them."""

from __future__ import annotations

from collections.abc import Collection

from runner.config import Config
from runner.train.meters import Meter


def build_meters(config: Config, needs: Collection[str]) -> list[Meter]:
    """Return the meters that a run needs.

    Args:
        config: checked; says how often.
        needs: names of signals that the active detectors read.
    """
    del config, needs
    return []
