"""Config -> what measures signals, as far as somebody needs them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from torch import nn
from torch.optim import Optimizer

from runner.config import Config
from runner.detectors.protocol import Detector
from runner.durations import Clock, to_steps
from runner.tasks.logits import HasLogits
from runner.tasks.protocol import Task
from runner.train.logits import LOG_Z, LOGIT_SIGNALS, Logits, shows_attention
from runner.train.meters import Meter
from runner.train.sharpness import Sharpness
from runner.train.signals import (
    COSINE_SIGNALS,
    RMS,
    RMS_SIGNALS,
    UPDATE_SIGNALS,
    GradientCosines,
    SecondMoments,
    UpdateRatios,
    keeps_second_moments,
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


def unmeasured(detectors: Mapping[str, Detector], task: Task, model: nn.Module, optimizer: Optimizer) -> Iterator[str]:
    """Yield, a sentence each, which detectors find nothing since what they read cannot be measured in this run."""
    blind = {
        RMS: not keeps_second_moments(optimizer) and f"{type(optimizer).__name__} keeps no second moment that tells it",
        LOG_Z: not (isinstance(task, HasLogits) or shows_attention(model))
        and "neither task nor model shows its logits: give the attention of the model a method attention_logits",
    }
    for name, detector in detectors.items():
        for signal in detector.needs & blind.keys():
            if reason := blind[signal]:
                yield f"detectors.{name}: finds nothing, as {reason}."
