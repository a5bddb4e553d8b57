"""Config -> what measures signals, as far as somebody needs them."""

from __future__ import annotations

from collections.abc import Collection

from runner.config import Config
from runner.durations import Clock, to_steps
from runner.train.meters import Meter
from runner.train.sharpness import Sharpness


def build_meters(config: Config, needs: Collection[str], clock: Clock) -> list[Meter]:
    """Return the meters that a run needs.

    Args:
        config: checked; says how often.
        needs: names of signals that the active detectors read.
        clock: turns durations into steps.
    """
    del needs
    meters: list[Meter] = []
    wanted = config.monitor.sharpness
    if wanted.every is not None:
        every = to_steps(wanted.every, clock)
        sizes = {"examples": wanted.examples, "iterations": wanted.iterations, "batch_size": config.train.batch_size}
        meters.append(Sharpness(every=every, **sizes))
    return meters
