"""The formulas of the schedules of optax 0.2.8, with its defaults, as factors.

Source: optax/schedules/_schedule.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from annotated_types import Ge
from pydantic import BaseModel, ConfigDict

from runner.errors import refused
from runner.schedules.compat.choice import NotNegative, Positive, as_factor, warmed
from runner.schedules.decays import constant
from runner.schedules.shape import Schedule, cosine_between

Curve = Literal["linear", "cosine"]


def polynomial(
    *,
    total_steps: int,
    init_value: float = 1.0,
    end_value: float = 0.0,
    power: float = 1.0,
    transition_steps: int | None = None,
    transition_begin: int = 0,
) -> Schedule:
    """Follow `polynomial_schedule`: e + (i - e) (1 - (t - B) / N)^power, held before B and after B + N.

    Without transition_steps, N ends with the run.
    """
    length = max(1, total_steps - transition_begin) if transition_steps is None else transition_steps

    def factor(step: int) -> float:
        share = min(1.0, max(0, step - transition_begin) / length)
        return end_value + (init_value - end_value) * math.pow(1.0 - share, power)

    return factor


def linear(
    *,
    total_steps: int,
    init_value: float = 1.0,
    end_value: float = 0.0,
    transition_steps: int | None = None,
    transition_begin: int = 0,
) -> Schedule:
    """Follow `linear_schedule`: `polynomial` with power 1."""
    return polynomial(
        total_steps=total_steps,
        init_value=init_value,
        end_value=end_value,
        transition_steps=transition_steps,
        transition_begin=transition_begin,
    )


def cosine_decay(
    *, total_steps: int, decay_steps: int | None = None, alpha: float = 0.0, exponent: float = 1.0
) -> Schedule:
    """Follow `cosine_decay_schedule`: a + (1 - a) ((1 + cos(pi t / N)) / 2)^exponent, held after N = decay_steps."""
    length = decay_steps or total_steps

    def factor(step: int) -> float:
        return alpha + (1.0 - alpha) * math.pow(cosine_between(1.0, 0.0, min(1.0, step / length)), exponent)

    return factor


def exponential_decay(
    *,
    transition_steps: int,
    decay_rate: float,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: float | None = None,
) -> Schedule:
    """Follow `exponential_decay`: d^((t - B) / N) after B, the exponent rounded down by staircase.

    end_value bounds it from below, with d > 1 from above.
    """
    bound = max if decay_rate < 1.0 else min

    def factor(step: int) -> float:
        exponent = max(0, step - transition_begin) / transition_steps
        try:
            decayed = math.pow(decay_rate, math.floor(exponent) if staircase else exponent)
        except OverflowError:  # floats of JAX get infinite, and end_value bounds them
            decayed = math.inf
        return decayed if end_value is None else bound(decayed, end_value)

    return factor


def warmup_constant(*, warmup_steps: int, init_value: float = 0.0) -> Schedule:
    """Follow `warmup_constant_schedule`: i + (1 - i) t / W, then 1."""
    return warmed(constant(), warmup_steps, start=init_value, prefix=True)


def warmup_cosine_decay(
    *,
    total_steps: int,
    warmup_steps: int = 0,
    decay_steps: int | None = None,
    init_value: float = 0.0,
    end_value: float = 0.0,
    exponent: float = 1.0,
) -> Schedule:
    """Follow `warmup_cosine_decay_schedule`: `cosine_decay` from W to decay_steps, which counts from the start."""
    length = (decay_steps or total_steps) - warmup_steps
    if length <= 0:
        rule = f"must be fewer than the {length + warmup_steps} decay_steps, got {warmup_steps}"
        raise refused("warmup_steps", rule, f"Set .warmup_steps={length + warmup_steps - 1} or less")
    body = cosine_decay(total_steps=total_steps, decay_steps=length, alpha=end_value, exponent=exponent)
    return warmed(body, warmup_steps, start=init_value, prefix=True)


def warmup_exponential_decay(
    *,
    transition_steps: int,
    decay_rate: float,
    warmup_steps: int = 0,
    init_value: float = 0.0,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: float | None = None,
) -> Schedule:
    """Follow `warmup_exponential_decay_schedule`: `exponential_decay` from W on."""
    body = exponential_decay(
        transition_steps=transition_steps,
        decay_rate=decay_rate,
        transition_begin=transition_begin,
        staircase=staircase,
        end_value=end_value,
    )
    return warmed(body, warmup_steps, start=init_value, prefix=True)


def piecewise_constant(*, boundaries: Sequence[int], scales: Sequence[float], init_value: float = 1.0) -> Schedule:
    """Follow `piecewise_constant_schedule`: i times the scales of all boundaries <= t."""
    values = _values(boundaries, scales, init_value)
    return lambda step: values[sum(boundary <= step for boundary in boundaries)]


def piecewise_interpolate(
    *, boundaries: Sequence[int], scales: Sequence[float], interpolate_type: Curve = "linear", init_value: float = 1.0
) -> Schedule:
    """Follow `piecewise_interpolate_schedule`: between the values that `piecewise_constant` has at its boundaries."""
    values = _values(boundaries, scales, init_value)
    return _interpolated([0, *boundaries], values, interpolate_type)


def _values(boundaries: Sequence[int], scales: Sequence[float], init_value: float) -> list[float]:
    if len(boundaries) != len(scales):
        rule = f"must be as many as the {len(boundaries)} boundaries, got {len(scales)}"
        raise refused("scales", rule, f"Set .scales=[{','.join(['0.5'] * len(boundaries))}]")
    if list(boundaries) != sorted(set(boundaries)):
        right = ",".join(map(str, sorted(set(boundaries))))
        raise refused("boundaries", f"must rise, got {list(boundaries)} in steps", f"Set .boundaries=[{right}]")
    values = [init_value]
    for scale in scales:
        values.append(values[-1] * scale)
    return values


def _interpolated(bounds: Sequence[int], values: Sequence[float], curve: Curve) -> Schedule:
    def factor(step: int) -> float:
        i = sum(bound <= step for bound in bounds) - 1
        if i == len(bounds) - 1:
            return values[-1]
        share = (step - bounds[i]) / (bounds[i + 1] - bounds[i])
        if curve == "cosine":
            return cosine_between(values[i], values[i + 1], share)
        return values[i] + (values[i + 1] - values[i]) * share

    return factor


def linear_onecycle(
    *,
    total_steps: int,
    transition_steps: int | None = None,
    pct_start: float = 0.3,
    pct_final: float = 0.85,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """Follow `linear_onecycle_schedule`: from 1/d to 1, back to 1/d, and to 1/(d f), on straight lines."""
    length = transition_steps or total_steps
    turns = {
        int(pct_start * length): div_factor,
        int(pct_final * length): 1.0 / div_factor,
        length: 1.0 / final_div_factor,
    }
    return _one_cycle(turns, div_factor, "linear")


def cosine_onecycle(
    *,
    total_steps: int,
    transition_steps: int | None = None,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """Follow `cosine_onecycle_schedule`: from 1/d to 1 and to 1/(d f), along half cosines."""
    length = transition_steps or total_steps
    turns = {int(pct_start * length): div_factor, length: 1.0 / (div_factor * final_div_factor)}
    return _one_cycle(turns, div_factor, "cosine")


def _one_cycle(turns: Mapping[int, float], div_factor: float, curve: Curve) -> Schedule:
    """In a short run two turns may fall on one step, where the library keeps the later one."""
    boundaries, scales = zip(*sorted(turns.items()), strict=True)
    return _interpolated([0, *boundaries], _values(boundaries, scales, 1.0 / div_factor), curve)


class Cycle(BaseModel):
    """Arguments of one cycle of sgdr: lengths in optimizer steps, values as learning rates.

    Attributes:
        decay_steps: of the cycle, its warmup included.
        warmup_steps: fewer than decay_steps.
        init_value: first learning rate; not above the base learning rate.
        peak_value: after the warmup; None is the base learning rate, and it must not be above it.
        end_value: last learning rate; not above the peak.
        exponent: of the cosine.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    decay_steps: Annotated[int, Ge(1)]
    warmup_steps: Annotated[int, Ge(0)] = 0
    init_value: NotNegative = 0.0
    peak_value: Positive | None = None
    end_value: NotNegative = 0.0
    exponent: Positive = 1.0


def sgdr(*, base_lr: float, cosine_kwargs: Sequence[Cycle]) -> Schedule:
    """Follow `sgdr_schedule`: `warmup_cosine_decay` in cycles, each with its own peak, then the last value."""
    cycles: list[tuple[int, Schedule]] = []
    end = 0
    for cycle in cosine_kwargs:
        cycles.append((end, _cycle(cycle, base_lr)))
        end += cycle.decay_steps
    if not cycles:
        raise ValueError("cosine_kwargs: must have a cycle, got none")

    def factor(step: int) -> float:
        start, follow = cycles[sum(begin <= step for begin, _ in cycles) - 1]
        return follow(step - start)

    return factor


def _cycle(cycle: Cycle, base_lr: float) -> Schedule:
    if cycle.warmup_steps >= cycle.decay_steps:
        rule = "cosine_kwargs: must have warmup_steps < decay_steps"
        raise ValueError(f"{rule}, got {cycle.warmup_steps} and {cycle.decay_steps}")
    peak_lr = base_lr if cycle.peak_value is None else cycle.peak_value
    peak = as_factor("cosine_kwargs", peak_lr, base_lr)
    if cycle.end_value > peak_lr:
        raise ValueError(f"cosine_kwargs: must have an end_value <= the peak {peak_lr:g}, got {cycle.end_value:g}")
    length = cycle.decay_steps - cycle.warmup_steps
    fall = cosine_decay(total_steps=length, alpha=cycle.end_value / peak_lr, exponent=cycle.exponent)
    start = as_factor("cosine_kwargs", cycle.init_value, base_lr)
    return warmed(lambda step: peak * fall(step), cycle.warmup_steps, start=start, peak=peak, prefix=True)
