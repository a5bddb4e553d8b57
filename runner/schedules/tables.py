"""Schedules written down point by point."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Annotated, SupportsFloat

from annotated_types import Ge, Gt, MinLen
from pydantic import validate_call

from runner.durations import StepsOrZero, TotalSteps
from runner.errors import FactoryError, Fault, refused, with_place
from runner.schedules.shape import Schedule, between, in_order, refuse_table

Times = Annotated[Sequence[StepsOrZero], MinLen(1)]
Values = Annotated[Sequence[Annotated[float, Ge(0)]], MinLen(1)]


@validate_call
def piecewise_constant(*, total_steps: TotalSteps, times: Times, values: Values) -> Schedule:
    """Take each value from its time on.

    factor(t) = v_i for time_i <= t < time_(i+1); the first value holds before, the last one after

    Args:
        total_steps: T, steps of the run.
        times: in optimizer steps, in order, inside the run.
        values: factors, one a time; >= 0.
    Raises:
        ValueError: times out of order or beyond the run; not one value a time.
    """
    places = _table(times, values, total_steps)
    return lambda step: values[max(bisect_right(places, step) - 1, 0)]


@validate_call
def piecewise_linear(*, total_steps: TotalSteps, times: Times, values: Values) -> Schedule:
    """Draw straight lines between points.

    factor(t) = v_i + (v_(i+1) - v_i) (t - time_i) / (time_(i+1) - time_i); the ends are held

    Args:
        total_steps: T, steps of the run.
        times: in optimizer steps, in order, inside the run.
        values: factors, one a time; >= 0.
    Raises:
        ValueError: times out of order or beyond the run; not one value a time.
    """
    places = _table(times, values, total_steps)

    def factor(step: int) -> float:
        after = bisect_right(places, step)
        if after in (0, len(places)):
            return values[min(after, len(values) - 1)]
        begin, end = places[after - 1], places[after]
        return between(values[after - 1], values[after], (step - begin) / (end - begin))

    return factor


@validate_call
def chebyshev(
    *, total_steps: TotalSteps, low: Annotated[float, Gt(0)] = 0.05, high: Annotated[float, Gt(0)] = 1.0
) -> Schedule:
    """Take the reciprocal Chebyshev nodes of a spectrum in an order that keeps rounding errors small.

    factor(t) = 1 / ((M + m)/2 - (M - m)/2 cos((k(t) + 1/2) pi / n)), n = T rounded up to a power of two, k the fractal
    permutation of 0 .. n-1. Single factors go up to 1/m: for experiments with methods, not for everyday training.

    Args:
        total_steps: T, steps of the run.
        low: m, smallest curvature relative to the largest; > 0.
        high: M, largest; > m.
    Raises:
        ValueError: low >= high.
    Source: Agarwal, Goel & Zhang 2021, arXiv:2103.01338.
    """
    if low >= high:
        raise refused("low", f"must be less than high={high:g}, got {low:g}", f"Set .low={high / 20:g}")
    doublings = (total_steps - 1).bit_length()
    middle, radius = (high + low) / 2, (high - low) / 2

    def factor(step: int) -> float:
        place, node = min(step, total_steps - 1), 0
        for doubling in range(1, doublings + 1):  # in the order twice as long a node is followed by its mirror image
            if place >> (doublings - doubling) & 1:
                node = (1 << doubling) - 1 - node
        return 1.0 / (middle - radius * math.cos((node + 0.5) * math.pi / (1 << doublings)))

    return factor


@validate_call
def from_function(*, total_steps: TotalSteps, function: Callable[[int], float]) -> Schedule:
    """Take the factor from a function of the user's own; it is asked for every step of the run beforehand.

    factor(t) = function(t) for t <= T, held after

    Args:
        total_steps: T, steps of the run.
        function: step -> factor; finite, >= 0, without a state.
    Raises:
        ValueError: a factor that is no number, negative or not finite, or an exception instead of one; the step is
            named. Another factor when step 0 is asked for again. A run too long to ask.
    """
    refuse_table(total_steps)
    rule = "must return a finite number >= 0"

    def wrong(rule: str) -> FactoryError:
        made_of = getattr(function, "func", function)  # with further arguments it is bound to them
        name = getattr(made_of, "__qualname__", type(made_of).__name__)
        return refused("function", rule, f"Mend {name}, or set .function._target_ to another function")

    def asked(step: int) -> float:
        try:
            value: object = function(step)
        except (Exception, SystemExit) as error:
            raise wrong(f"{rule} at every step, but at step {step} it raises {with_place(error)}") from error
        number = _as_number(value)
        if number is None or not 0 <= number < math.inf:
            raise wrong(f"{rule} at every step, got {value!r} at step {step}")
        return number

    first = asked(0)
    for step in range(1, total_steps + 1):
        asked(step)
    if (again := asked(0)) != first:
        raise wrong(f"must return the same for the same step, got {first:g} and {again:g} for step 0")
    return lambda step: float(function(min(step, total_steps)))


def _as_number(value: object) -> float | None:
    """Return what a function gave as a number, None where it is none."""
    if not isinstance(value, SupportsFloat) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except Exception:  # as a tensor of two numbers does
        return None


def _table(times: Sequence[int], values: Sequence[float], total_steps: int) -> list[int]:
    faults: list[Fault] = []
    if len(times) != len(values):
        right = ",".join(f"{value:g}" for value in [*values, *[values[-1]] * len(times)][: len(times)])
        rule = f"must be one for each of the {len(times)} times, got {len(values)}"
        faults.append(Fault("values", rule, f"Set .values=[{right}]"))
    try:
        places = in_order("times", times, total_steps=total_steps)
    except FactoryError as error:
        faults += error.faults
    if faults:
        raise FactoryError(*faults)
    return places
