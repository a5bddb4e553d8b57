"""Config -> what measures signals, as far as somebody needs them."""

from __future__ import annotations

from collections.abc import Callable, Collection

from runner.config import Config
from runner.durations import Clock, to_steps
from runner.train.logits import LOGIT_SIGNALS, Logits
from runner.train.meters import Meter
from runner.train.sharpness import Sharpness
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


def build_meters(config: Config, needs: Collection[str], clock: Clock) -> list[Meter]:
    """Return the meters that a run needs.

    Args:
        config: checked; says how often.
        needs: names of signals that the active detectors read.
        clock: turns durations into steps.
    """
    every, wanted = config.monitor.signals_every, config.monitor.sharpness
    meters = [make(every) for signals, make in _METERS if signals & set(needs)]
    if wanted.every is not None:
        sizes = {"examples": wanted.examples, "iterations": wanted.iterations, "batch_size": config.train.batch_size}
        meters.append(Sharpness(every=to_steps(wanted.every, clock), **sizes))
    return meters
