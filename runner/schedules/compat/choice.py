"""How a preset offers the schedules of a library: by the library's name, with the arguments that this name takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any

from annotated_types import Ge, Gt
from pydantic import AfterValidator

from runner.errors import FactoryError, Fault, nearest, refused
from runner.schedules.shape import Schedule

FILLED = ("total_steps", "base_lr")
"""What every factory may ask for."""

Positive = Annotated[float, Gt(0)]
"""A number > 0."""

NotNegative = Annotated[float, Ge(0)]
"""A number >= 0, such as an absolute learning rate."""

_USUAL: Mapping[str, str] = {
    "boundaries": "[50%]",
    "cosine_kwargs": "[{decay_steps:100,warmup_steps:10}]",
    "decay_milestones": "[50%]",
    "decay_rate": "0.5",
    "decay_t": "10%",
    "num_decay_steps": "10%",
    "scales": "[0.1]",
    "t_initial": "100%",
    "transition_steps": "10%",
    "warmup_steps": "5%",
}
"""argument that a name cannot do without -> what to type"""


def one_of(names: Collection[str], *, of_loss: Collection[str] = ()) -> AfterValidator:
    """Return the validator of a library's name for a schedule.

    Args:
        names: those that are functions of the step.
        of_loss: those that are not, because they look at the loss.
    """

    def known(name: str) -> str:
        if name in of_loss:
            raise ValueError(
                "must be a function of the step; one that looks at the loss is detector plateau with remedy reduce_lr"
            )
        if name not in names:
            close = nearest(name, [*names])
            hint = f" (nearest: {close})" if close else ""
            raise ValueError(f"must be one of {', '.join(sorted(names))}{hint}")
        return name

    return AfterValidator(known)


def chosen(shapes: Mapping[str, Callable[..., Schedule]], arguments: Mapping[str, Any]) -> Schedule:
    """Make the schedule that `arguments` name.

    Args:
        shapes: name -> factory.
        arguments: `name`, and the arguments that factories take; None is the library's default. Those of `FILLED`
            are there for each that asks.
    Raises:
        ValueError: an argument that this name does not take, or cannot do without.
    """
    name = arguments["name"]
    parameters = inspect.signature(shapes[name]).parameters
    takes = [argument for argument in parameters if argument not in FILLED]
    given = {key: value for key, value in arguments.items() if value is not None and key not in ("name", *FILLED)}
    known = ", ".join(takes) or "no argument"
    faults = [
        Fault(argument, f"must be null with name={name}, which takes {known}, got {value}", f"Set .{argument}=null")
        for argument, value in given.items()
        if argument not in takes
    ] + [
        Fault(argument, f"must be given with name={name}, got nothing", f"Set .{argument}={_USUAL[argument]}")
        for argument in takes
        if parameters[argument].default is inspect.Parameter.empty and argument not in given
    ]
    if faults:
        raise FactoryError(*faults)
    filled = {argument: arguments[argument] for argument in FILLED if argument in parameters}
    return shapes[name](**filled, **given)


def warmed(body: Schedule, steps: int, *, start: float = 0.0, peak: float = 1.0, prefix: bool = False) -> Schedule:
    """Rise by start + t (peak - start) / W, then follow the body, whose t begins at 0 after a prefix, else at W."""
    skipped = steps if prefix else 0
    return lambda step: start + step * (peak - start) / steps if step < steps else body(step - skipped)


def hold_after(total_steps: int, schedule: Schedule) -> Schedule:
    """Return the schedule that keeps its value of step T from there on."""
    return lambda step: schedule(min(step, total_steps))


def as_factor(argument: str, lr: float, base_lr: float) -> float:
    """Return an absolute learning rate as a factor.

    Raises:
        ValueError: it is above the base learning rate.
    """
    if lr > base_lr:
        rule = f"must be at most the base learning rate {base_lr:g}, got {lr:g}"
        raise refused(argument, rule, f"Set .{argument}={base_lr / 10:g} or a larger optimizer.lr")
    return lr / base_lr


def refuse_longer(argument: str, steps: int, total_steps: int) -> None:
    """Refuse a warmup that does not end within the run.

    Raises:
        ValueError: it is longer.
    """
    if steps > total_steps:
        rule = f"must not be longer than the run of {total_steps} steps, got {steps} steps"
        raise refused(argument, rule, f"Set .{argument}=5% or a longer train.duration")
