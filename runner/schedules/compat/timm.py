"""The schedules of timm 1.0.31, with the arguments of its scheduler classes.

Their warmup starts at `warmup_lr_init` at t = 0. Where it is not a prefix, which is timm's default for the cycles, the
body runs beneath it and the learning rate jumps where it ends: from 0.75 to 0.655 in a cosine of 10 with a warmup of 4.
They follow the library up to step T, the end of the run, and hold its value there; timm's noise is left out. What the
library takes as a learning rate is turned into a factor, so that groups with learning rates of their own keep ratios.
Source: timm/scheduler/{cosine,tanh,poly,step,multistep,wsd}_lr.py; the value at t is that of `_get_lr(t)`.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt
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
from runner.schedules.shape import Curve, Decay, Schedule, cosine_between

Stable = Literal["constant", "rsqrt", "power"]
Cooldown = Literal["linear", "1-sqrt", "cosine", "power", "exp"]


def _cycles(
    fall: Curve, *, t_initial: int, floor: float, cycle_mul: float, cycle_decay: float, cycle_limit: int
) -> Schedule:
    """Fall in cycles: number i is t_initial cycle_mul^i long and starts at cycle_decay^i; the floor after the limit."""

    def factor(t: int) -> float:
        if cycle_mul == 1.0:
            i, length = t // t_initial, float(t_initial)
            within = float(t % t_initial)
        else:
            grown = 1.0 - t / t_initial * (1.0 - cycle_mul)
            if grown <= 0.0:  # cycles that shrink never get this far
                return floor
            i = math.floor(math.log(grown, cycle_mul))
            length = cycle_mul**i * t_initial
            within = t - (1.0 - cycle_mul**i) / (1.0 - cycle_mul) * t_initial
        if i >= cycle_limit:
            return floor
        return floor + (cycle_decay**i - floor) * fall(min(1.0, max(0.0, within / length)))

    return factor


def cosine(
    *,
    t_initial: int,
    lr_min: float = 0.0,
    warmup_lr_init: float = 0.0,
    warmup_t: int = 0,
    warmup_prefix: bool = False,
    k_decay: float = 1.0,
    cycle_mul: float = 1.0,
    cycle_decay: float = 1.0,
    cycle_limit: int = 1,
) -> Schedule:
    """Follow `CosineLRScheduler`: r + (d^i - r) (1 + cos(pi p^k)) / 2, p the share of cycle i."""
    body = _cycles(
        lambda share: cosine_between(1.0, 0.0, share**k_decay),
        t_initial=t_initial,
        floor=lr_min,
        cycle_mul=cycle_mul,
        cycle_decay=cycle_decay,
        cycle_limit=cycle_limit,
    )
    return warmed(body, warmup_t, start=warmup_lr_init, prefix=warmup_prefix)


def poly(
    *,
    t_initial: int,
    lr_min: float = 0.0,
    warmup_lr_init: float = 0.0,
    warmup_t: int = 0,
    warmup_prefix: bool = False,
    power: float = 0.5,
    k_decay: float = 1.0,
    cycle_mul: float = 1.0,
    cycle_decay: float = 1.0,
    cycle_limit: int = 1,
) -> Schedule:
    """Follow `PolyLRScheduler`: r + (d^i - r) (1 - p^k)^power, p the share of cycle i."""
    body = _cycles(
        lambda share: (1.0 - share**k_decay) ** power,
        t_initial=t_initial,
        floor=lr_min,
        cycle_mul=cycle_mul,
        cycle_decay=cycle_decay,
        cycle_limit=cycle_limit,
    )
    return warmed(body, warmup_t, start=warmup_lr_init, prefix=warmup_prefix)


def tanh(
    *,
    t_initial: int,
    lr_min: float = 0.0,
    warmup_lr_init: float = 0.0,
    warmup_t: int = 0,
    warmup_prefix: bool = False,
    lb: float = -7.0,
    ub: float = 3.0,
    cycle_mul: float = 1.0,
    cycle_decay: float = 1.0,
    cycle_limit: int = 1,
) -> Schedule:
    """Follow `TanhLRScheduler`, with p the share of cycle i.

    factor = r + (d^i - r) (1 - tanh(lb (1 - p) + ub p)) / 2
    Without a prefix the warmup rises to the body's value at its end.
    """
    if not lb < ub:
        raise refused("lb", f"must be below ub={ub:g}, got {lb:g}", f"Set .lb={ub - 10:g}")
    body = _cycles(
        lambda share: 0.5 * (1.0 - math.tanh(lb * (1.0 - share) + ub * share)),
        t_initial=t_initial,
        floor=lr_min,
        cycle_mul=cycle_mul,
        cycle_decay=cycle_decay,
        cycle_limit=cycle_limit,
    )
    peak = 1.0 if warmup_prefix else body(warmup_t)
    return warmed(body, warmup_t, start=warmup_lr_init, prefix=warmup_prefix, peak=peak)


def step(
    *, decay_t: int, warmup_lr_init: float = 0.0, warmup_t: int = 0, warmup_prefix: bool = True, decay_rate: float = 1.0
) -> Schedule:
    """Follow `StepLRScheduler`: decay_rate ** floor(t / decay_t)."""
    return warmed(lambda t: decay_rate ** (t // decay_t), warmup_t, start=warmup_lr_init, prefix=warmup_prefix)


def multistep(
    *,
    decay_milestones: Sequence[int],
    warmup_lr_init: float = 0.0,
    warmup_t: int = 0,
    warmup_prefix: bool = True,
    decay_rate: float = 1.0,
) -> Schedule:
    """Follow `MultiStepLRScheduler`: decay_rate ** #{milestones <= t + 1}, one t before torch's MultiStepLR."""
    if list(decay_milestones) != sorted(decay_milestones):
        rule = f"must rise, got {list(decay_milestones)} intervals"
        raise refused("decay_milestones", rule, "Set .decay_milestones in order")
    return warmed(
        lambda t: decay_rate ** bisect.bisect_right(decay_milestones, t + 1),
        warmup_t,
        start=warmup_lr_init,
        prefix=warmup_prefix,
    )


def wsd(
    *,
    t_initial: int,
    decay_t: int,
    lr_min: float = 0.0,
    warmup_lr_init: float = 0.0,
    warmup_t: int = 0,
    stable_fn: Stable = "constant",
    stable_timescale: int | None = None,
    stable_power: float = 0.5,
    decay_fn: Cooldown = "1-sqrt",
    decay_power: float = 0.5,
    decay_ratio: float = 0.1,
) -> Schedule:
    """Follow `WSDLRScheduler`: r + (s(t) - r) g(q), s(t) >= r, q the share of the last decay_t of t_initial.

    s(t) = 1 | (1 + t / S)^-1/2 | (1 + t / S)^-stable_power, S = stable_timescale, the warmup unless given
    g(q) = 1 - q | 1 - sqrt(q) | (1 + cos(pi q)) / 2 | 1 - q^decay_power | (d^q - d) / (1 - d), d = decay_ratio
    """
    if decay_t > t_initial:
        raise refused("decay_t", f"must fit into t_initial={t_initial}, got {decay_t}", "Set a shorter .decay_t")
    scale = stable_timescale or warmup_t
    if stable_fn != "constant" and scale == 0:
        rule = f"must be given with stable_fn={stable_fn} and no warmup, got nothing"
        raise refused("stable_timescale", rule, "Set .stable_timescale=10%, or .warmup_t=5%")
    exponent = {"constant": 0.0, "rsqrt": 0.5, "power": stable_power}[stable_fn]
    falls: dict[Cooldown, Curve] = {
        "linear": lambda share: 1.0 - share,
        "1-sqrt": lambda share: 1.0 - math.sqrt(share),
        "cosine": lambda share: cosine_between(1.0, 0.0, share),
        "power": lambda share: 1.0 - share**decay_power,
        "exp": lambda share: (decay_ratio**share - decay_ratio) / (1.0 - decay_ratio),
    }
    fall = falls[decay_fn]

    def body(t: int) -> float:
        stable = max((1.0 + t / scale) ** -exponent if exponent else 1.0, lr_min)
        share = min(1.0, max(0.0, (t - (t_initial - decay_t)) / decay_t))
        return lr_min + (stable - lr_min) * fall(share)

    return warmed(body, warmup_t, start=warmup_lr_init, prefix=True)


_SHAPES: Mapping[str, Callable[..., Schedule]] = MappingProxyType(
    {"cosine": cosine, "tanh": tanh, "poly": poly, "step": step, "multistep": multistep, "wsd": wsd}
)
_OF_LENGTH = ("cosine", "tanh", "poly", "wsd")
Name = Annotated[str, one_of(_SHAPES, of_loss=("plateau",))]


@validate_call
def schedule(
    *,
    total_steps: TotalSteps,
    base_lr: BaseLR,
    name: Name = "cosine",
    interval: Steps = 1,
    t_initial: Steps | None = None,
    lr_min: NotNegative | None = None,
    warmup_t: StepsOrZero | None = None,
    warmup_lr_init: NotNegative | None = None,
    warmup_prefix: bool | None = None,
    k_decay: Positive | None = None,
    power: Positive | None = None,
    lb: float | None = None,
    ub: float | None = None,
    cycle_mul: Positive | None = None,
    cycle_decay: Decay | None = None,
    cycle_limit: Annotated[int, Ge(1)] | None = None,
    decay_t: Steps | None = None,
    decay_milestones: Sequence[Steps] | None = None,
    decay_rate: Decay | None = None,
    stable_fn: Stable | None = None,
    stable_timescale: Steps | None = None,
    stable_power: Positive | None = None,
    decay_fn: Cooldown | None = None,
    decay_power: Positive | None = None,
    decay_ratio: Annotated[float, Gt(0), Lt(1)] | None = None,
) -> Schedule:
    """Follow a schedule of timm 1.0.31, by its name in `create_scheduler_v2`.

    Formulas and defaults stand at the function of that name; an argument that is None has its default.

    Args:
        total_steps: steps of the run.
        base_lr: of the optimizer, for `lr_min` and `warmup_lr_init`.
        name: of the schedule.
        interval: steps between two values, t = floor(step / interval): 1 is timm's `t_in_epochs=False`, an epoch its
            `t_in_epochs=True`. Other lengths must be whole intervals.
        t_initial: length of the first cycle, or of all after the warmup (wsd); None is what the run has.
        lr_min: learning rate at the end, absolute; from 0 to base_lr.
        warmup_t: length of the warmup; not longer than the run.
        warmup_lr_init: learning rate at t = 0 of a warmup, absolute; from 0 to base_lr.
        decay_milestones: `decay_t` of multistep, rising.
    Raises:
        ValueError: an argument out of its range, one that this name does not take, or none that it needs.
    Source: timm/scheduler/scheduler_factory.py.
    """
    arguments = dict(locals())
    refuse_longer("warmup_t", warmup_t or 0, total_steps)
    for argument in ("lr_min", "warmup_lr_init"):
        if arguments[argument] is not None:
            arguments[argument] = as_factor(argument, arguments[argument], base_lr)
    for argument in ("t_initial", "warmup_t", "decay_t", "decay_milestones", "stable_timescale"):
        arguments[argument] = _in_intervals(argument, arguments[argument], interval)
    del arguments["interval"]
    if name in _OF_LENGTH and t_initial is None:
        prefix = arguments["warmup_t"] or 0 if warmup_prefix or name == "wsd" else 0
        arguments["t_initial"] = max(1, math.ceil(total_steps / interval) - prefix)
    body = chosen(_SHAPES, arguments)
    return hold_after(total_steps, lambda step: body(step // interval))


def _in_intervals(argument: str, steps: int | Sequence[int] | None, interval: int) -> Any:
    if steps is None:
        return None
    if not isinstance(steps, int):
        return [_in_intervals(argument, length, interval) for length in steps]
    if steps % interval:
        near = max(round(steps / interval), 1) * interval
        rule = f"must be whole intervals of {interval} steps, got {steps} steps"
        raise refused(argument, rule, f"Set .{argument} to {near} steps, or .interval=1")
    return steps // interval
