"""The schedules of Hugging Face transformers 5.23, by the names of its `SchedulerType`.

Their warmup starts at 0 and reaches the base learning rate at step W. They follow the library up to step T, the end of
the run, and hold its value there. A floor that the library takes as a learning rate is turned into a factor, so that
groups with learning rates of their own keep their ratios.
Source: transformers/optimization.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import validate_call

from runner.durations import BaseLR, Steps, StepsOrZero, TotalSteps
from runner.errors import refused
from runner.schedules.compat.choice import (
    NotNegative,
    Positive,
    as_factor,
    chosen,
    hold_after,
    one_of,
    refuse_longer,
    warmed,
)
from runner.schedules.decays import constant
from runner.schedules.shape import Fraction, Schedule, cosine_between

Bend = Literal["linear", "cosine", "1-sqrt"]


def constant_with_warmup(*, warmup: int = 0) -> Schedule:
    """Follow `get_constant_schedule_with_warmup`: 1 from step W on."""
    return warmed(constant(), warmup)


def linear(*, total_steps: int, warmup: int = 0) -> Schedule:
    """Follow `get_linear_schedule_with_warmup`: (T - t) / (T - W)."""
    return warmed(lambda step: max(0.0, (total_steps - step) / max(1, total_steps - warmup)), warmup)


def cosine(*, total_steps: int, warmup: int = 0, num_cycles: float = 0.5) -> Schedule:
    """Follow `get_cosine_schedule_with_warmup`: (1 + cos(2 pi c p)) / 2, p = (t - W) / (T - W)."""
    return warmed(_waves(total_steps, warmup, num_cycles, 0.0), warmup)


def _waves(total_steps: int, warmup: int, num_cycles: float, floor: float) -> Schedule:
    length = max(1, total_steps - warmup)
    return lambda step: max(0.0, cosine_between(1.0, floor, 2.0 * num_cycles * (step - warmup) / length))


def cosine_with_restarts(*, total_steps: int, warmup: int = 0, num_cycles: float = 1) -> Schedule:
    """Follow `get_cosine_with_hard_restarts_schedule_with_warmup`: (1 + cos(pi (c p mod 1))) / 2, 0 at p = 1."""

    def body(step: int) -> float:
        progress = (step - warmup) / max(1, total_steps - warmup)
        return cosine_between(1.0, 0.0, (num_cycles * progress) % 1.0) if progress < 1.0 else 0.0

    return warmed(body, warmup)


def polynomial(
    *, total_steps: int, base_lr: float, warmup: int = 0, lr_end: float = 1e-7, power: float = 1.0
) -> Schedule:
    """Follow `get_polynomial_decay_schedule_with_warmup`: r + (1 - r) (1 - p)^k, r = lr_end / base LR."""
    floor = as_factor("lr_end", lr_end, base_lr)

    def body(step: int) -> float:
        remaining = 1.0 - (step - warmup) / max(1, total_steps - warmup)
        return floor + (1.0 - floor) * math.pow(remaining, power)

    return warmed(body, warmup)


def inverse_sqrt(*, warmup: int = 0, timescale: int | None = None) -> Schedule:
    """Follow `get_inverse_sqrt_schedule`: sqrt(S / (t + S - W)); S is the warmup unless given, 10,000 without one."""
    scale = timescale or warmup or 10_000
    return warmed(lambda step: math.sqrt(scale / (step + scale - warmup)), warmup)


def cosine_with_min_lr(
    *,
    total_steps: int,
    warmup: int = 0,
    num_cycles: float = 0.5,
    floor: float | None = None,
    min_lr_rate: float | None = None,
) -> Schedule:
    """Follow `get_cosine_with_min_lr_schedule_with_warmup`: the waves of `cosine` between 1 and the floor."""
    return warmed(_waves(total_steps, warmup, num_cycles, _floor(floor, min_lr_rate)), warmup)


def cosine_warmup_with_min_lr(
    *,
    total_steps: int,
    warmup: int = 0,
    num_cycles: float = 0.5,
    floor: float | None = None,
    min_lr_rate: float | None = None,
    warmup_lr_rate: float | None = None,
) -> Schedule:
    """Follow `get_cosine_with_min_lr_schedule_with_warmup_lr_rate`.

    As `cosine_with_min_lr`, one step ahead, and with a warmup that learns at update 0:
    (t + 1) / W, or with a start a = warmup_lr_rate: a + (1 - a) t / (W - 1).
    """
    waves = _waves(total_steps, warmup, num_cycles, _floor(floor, min_lr_rate))

    def factor(step: int) -> float:
        if step >= warmup:
            return waves(step + 1)
        if warmup_lr_rate is None:
            return (step + 1) / warmup
        return warmup_lr_rate + (1.0 - warmup_lr_rate) * step / max(1, warmup - 1)

    return factor


def _floor(floor: float | None, min_lr_rate: float | None) -> float:
    if floor is not None and min_lr_rate is not None:
        raise refused("min_lr_rate", f"must be null with min_lr, got {min_lr_rate:g}", "Set .min_lr_rate=null")
    if floor is not None and floor > 1.0:
        rule = f"must be at most 1, so min_lr at most the base learning rate, got {floor:g}"
        raise refused("floor", rule, "Set .min_lr to less than optimizer.lr")
    if floor is None and min_lr_rate is None:
        raise refused("min_lr_rate", "must be given here, or min_lr instead, got nothing", "Set .min_lr_rate=0.1")
    return floor if floor is not None else min_lr_rate or 0.0


def warmup_stable_decay(
    *,
    total_steps: int,
    num_decay_steps: int,
    warmup: int = 0,
    num_stable_steps: int | None = None,
    warmup_type: Bend = "linear",
    decay_type: Bend = "cosine",
    min_lr_ratio: float = 0.0,
    num_cycles: float = 0.5,
) -> Schedule:
    """Follow `get_wsd_schedule`: rise from the floor, hold 1, fall to the floor, hold it."""
    stable = total_steps - warmup - num_decay_steps if num_stable_steps is None else num_stable_steps
    if stable < 0:
        rest = total_steps - warmup
        rule = f"must fit into the {rest} steps after the warmup, got {num_decay_steps}"
        raise refused("num_decay_steps", rule, f"Set .num_decay_steps={rest} or less")

    def factor(step: int) -> float:
        if step < warmup:
            return min_lr_ratio + (1.0 - min_lr_ratio) * _risen(warmup_type, step / warmup)
        if step < warmup + stable:
            return 1.0
        progress = (step - warmup - stable) / num_decay_steps
        if progress >= 1.0:
            return min_lr_ratio
        return max(0.0, min_lr_ratio + (1.0 - min_lr_ratio) * _fallen(decay_type, progress, num_cycles))

    return factor


def _risen(bend: Bend, progress: float) -> float:
    if bend == "cosine":
        return cosine_between(0.0, 1.0, progress)
    return progress if bend == "linear" else 1.0 - math.sqrt(1.0 - progress)


def _fallen(bend: Bend, progress: float, num_cycles: float) -> float:
    if bend == "cosine":
        return cosine_between(1.0, 0.0, 2.0 * num_cycles * progress)
    return 1.0 - progress if bend == "linear" else 1.0 - math.sqrt(progress)


_SHAPES: Mapping[str, Callable[..., Schedule]] = MappingProxyType(
    {
        "constant": constant,
        "constant_with_warmup": constant_with_warmup,
        "linear": linear,
        "cosine": cosine,
        "cosine_with_restarts": cosine_with_restarts,
        "cosine_with_min_lr": cosine_with_min_lr,
        "cosine_warmup_with_min_lr": cosine_warmup_with_min_lr,
        "polynomial": polynomial,
        "inverse_sqrt": inverse_sqrt,
        "warmup_stable_decay": warmup_stable_decay,
    }
)
Name = Annotated[str, one_of(_SHAPES, of_loss=("reduce_lr_on_plateau", "greedy"))]


@validate_call
def schedule(
    *,
    total_steps: TotalSteps,
    base_lr: BaseLR,
    name: Name = "linear",
    warmup: StepsOrZero | None = None,
    num_cycles: Positive | None = None,
    power: Positive | None = None,
    lr_end: NotNegative | None = None,
    floor: NotNegative | None = None,
    min_lr_rate: Fraction | None = None,
    warmup_lr_rate: Fraction | None = None,
    timescale: Steps | None = None,
    num_stable_steps: StepsOrZero | None = None,
    num_decay_steps: Steps | None = None,
    warmup_type: Bend | None = None,
    decay_type: Bend | None = None,
    min_lr_ratio: Fraction | None = None,
) -> Schedule:
    """Follow a schedule of transformers 5.23, by its name in `TrainingArguments.lr_scheduler_type`.

    Formulas and defaults stand at the function of that name; an argument that is None has its default.

    Args:
        total_steps: num_training_steps, steps of the run.
        base_lr: of the optimizer, for `lr_end`.
        name: of the schedule.
        warmup: W, num_warmup_steps; not longer than the run.
        num_cycles: c, waves of the cosine, each two half ones, or number of restarts; > 0.
        power: k of the polynomial; > 0.
        lr_end: learning rate at the end of the polynomial, absolute; from 0 to base_lr.
        floor: factor at the end of a cosine, which the runner makes of the key `min_lr`; in [0, 1].
        min_lr_rate: the same by the library's name.
        warmup_lr_rate: first factor of the warmup of `cosine_warmup_with_min_lr`; in [0, 1].
        timescale: S of the inverse square root, in optimizer steps.
        num_stable_steps: steps of the plateau; None is what warmup and decay leave.
        num_decay_steps: steps of the decay after the plateau.
        warmup_type: shape of the warmup before a plateau.
        decay_type: shape of the decay after a plateau.
        min_lr_ratio: factor before the warmup and after the decay around a plateau; in [0, 1].
    Raises:
        ValueError: an argument out of its range, one that this name does not take, or none that it needs.
    Source: transformers/optimization.py, `get_scheduler`.
    """
    arguments = dict(locals())
    refuse_longer("warmup", warmup or 0, total_steps)
    return hold_after(total_steps, chosen(_SHAPES, arguments))
