"""The schedules of optax 0.2.8, with the arguments of its functions.

`optimizer.lr` takes the place of the library's `peak_value`, and of the `init_value` of what falls. Other values are
learning rates as in the library, turned into factors of it. They follow the library up to step T, the end of the run,
and hold its value there. The library computes in 32 bits unless told otherwise, and is then about 1e-7 off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated

from pydantic import validate_call

from runner.durations import BaseLR, Steps, StepsOrZero, TotalSteps
from runner.errors import refused
from runner.schedules.compat import optax_shapes as shapes
from runner.schedules.compat.choice import NotNegative, Positive, as_factor, chosen, hold_after, one_of, refuse_longer
from runner.schedules.compat.optax_shapes import Curve, Cycle
from runner.schedules.decays import constant
from runner.schedules.shape import Divisor, Fraction, Schedule

_SHAPES: Mapping[str, Callable[..., Schedule]] = MappingProxyType(
    {
        "constant": constant,
        "polynomial": shapes.polynomial,
        "linear": shapes.linear,
        "cosine_decay": shapes.cosine_decay,
        "exponential_decay": shapes.exponential_decay,
        "warmup_constant": shapes.warmup_constant,
        "warmup_cosine_decay": shapes.warmup_cosine_decay,
        "warmup_exponential_decay": shapes.warmup_exponential_decay,
        "piecewise_constant": shapes.piecewise_constant,
        "piecewise_interpolate": shapes.piecewise_interpolate,
        "linear_onecycle": shapes.linear_onecycle,
        "cosine_onecycle": shapes.cosine_onecycle,
        "sgdr": shapes.sgdr,
    }
)
Name = Annotated[str, one_of(_SHAPES)]


@validate_call
def schedule(
    *,
    total_steps: TotalSteps,
    base_lr: BaseLR,
    name: Name = "warmup_cosine_decay",
    warmup_steps: StepsOrZero | None = None,
    decay_steps: Steps | None = None,
    transition_steps: Steps | None = None,
    transition_begin: StepsOrZero | None = None,
    init_value: NotNegative | None = None,
    end_value: NotNegative | None = None,
    power: Positive | None = None,
    alpha: Fraction | None = None,
    exponent: Positive | None = None,
    decay_rate: Positive | None = None,
    staircase: bool | None = None,
    boundaries: Sequence[Steps] | None = None,
    scales: Sequence[NotNegative] | None = None,
    interpolate_type: Curve | None = None,
    pct_start: Fraction | None = None,
    pct_final: Fraction | None = None,
    div_factor: Divisor | None = None,
    final_div_factor: Divisor | None = None,
    cosine_kwargs: Sequence[Cycle] | None = None,
) -> Schedule:
    """Follow a schedule of optax 0.2.8, by the name of its function without `_schedule`.

    Formulas and defaults stand at the function of that name; an argument that is None has its default. A length
    that the library demands is the run's where that makes sense.

    Args:
        total_steps: steps of the run.
        base_lr: of the optimizer, the library's `peak_value`.
        name: of the schedule.
        warmup_steps: W; not longer than the run.
        decay_steps: steps of the decay; in warmup_cosine_decay with those of the warmup.
        init_value: first learning rate, absolute.
        end_value: last learning rate, absolute; not above base_lr unless it bounds what grows.
        boundaries: keys of the library's `boundaries_and_scales`, rising.
        scales: its values, each a factor on what was before.
    Raises:
        ValueError: an argument out of its range, one that this name does not take, or none that it needs.
    """
    arguments = dict(locals())
    refuse_longer("warmup_steps", warmup_steps or 0, total_steps)
    if init_value is not None:
        arguments["init_value"] = as_factor("init_value", init_value, base_lr)
    if end_value is not None:
        grows = decay_rate is not None and decay_rate > 1.0
        arguments["end_value"] = end_value / base_lr if grows else as_factor("end_value", end_value, base_lr)
    if name == "warmup_constant" and not warmup_steps:
        rule = "must be > 0 with name=warmup_constant, which else stays at init_value, got 0"
        raise refused("warmup_steps", rule, "Set .warmup_steps=5%")
    return hold_after(total_steps, chosen(_SHAPES, arguments))
