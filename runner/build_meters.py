"""Config -> what measures signals, as far as somebody needs them."""

from __future__ import annotations

from collections.abc import Callable, Collection

from runner.config import Config
from runner.train.logits import LOGIT_SIGNALS, Logits
from runner.train.meters import Meter
from runner.train.signals import (
    COSINE_SIGNALS,
    RMS_SIGNALS,
    UPDATE_SIGNALS,
    GradientCosines,
    SecondMoments,
    UpdateRatios,
)

_METERS: tuple[tuple[frozenset[str], Callable[[int], Meter]], ...] = (
    (UPDATE_SIGNALS, UpdateRatios),
    (RMS_SIGNALS, SecondMoments),
    (COSINE_SIGNALS, GradientCosines),
    (LOGIT_SIGNALS, Logits),
)
"""signals -> what measures them every so many steps"""


def build_meters(config: Config, needs: Collection[str]) -> list[Meter]:
    """Return the meters that a run needs.

    Args:
        config: checked; says how often.
        needs: names of signals that the active detectors read.
    """
    every = config.monitor.signals_every
    return [make(every) for signals, make in _METERS if signals & set(needs)]
