"""Schedules that rise as well as fall."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic import validate_call

from runner.durations import Steps, StepsOrZero, TotalSteps, WarmupSteps
from runner.errors import FactoryError, Fault, refused
from runner.schedules.shape import Decay, Divisor, Fraction, Schedule, between, cosine_between

_BETWEEN: dict[str, Callable[[float, float, float], float]] = {"cosine": cosine_between, "linear": between}


@validate_call
def one_cycle(
    *,
    total_steps: TotalSteps,
    rise: Fraction = 0.3,
    start_divisor: Divisor = 25.0,
    end_divisor: Divisor = 1e4,
    shape: Literal["cosine", "linear"] = "cosine",
    three_phase: bool = False,
) -> Schedule:
    """Rise to the base learning rate and fall far below where it started.

    With the peak at P = max(ceil(rise T) - 1, 0):
    factor(t) = 1/d0 -> 1          over t = 0 .. P
    factor(t) = 1 -> 1/(d0 d1)     over t = P .. T, held after; in three phases 1 -> 1/d0 over t = P .. 2P first

    Args:
        total_steps: T, steps of the run.
        rise: share of the run spent rising; in [0, 1], at most 0.5 in three phases.
        start_divisor: d0, the first factor is 1/d0; >= 1.
        end_divisor: d1, the last factor is 1/(d0 d1); >= 1.
        shape: along half a cosine, or on straight lines.
        three_phase: whether it falls back to its start before it falls below.
    Raises:
        ValueError: an argument out of its range.
    Source: Smith & Topin 2018, arXiv:1708.07120; divisors as in torch.optim.lr_scheduler.OneCycleLR.
    """
    start = 1.0 / start_divisor
    return _cycle(
        (start, 1.0, start, start / end_divisor), total_steps, rise=rise, shape=shape, three_phase=three_phase
    )


@validate_call
def inverse_one_cycle(
    *,
    total_steps: TotalSteps,
    rise: Fraction = 0.3,
    low: Fraction = 0.85 / 0.95,
    shape: Literal["cosine", "linear"] = "cosine",
    three_phase: bool = False,
) -> Schedule:
    """Fall while `one_cycle` rises and come back while it falls: for momentum or beta1.

    Args:
        total_steps: T, steps of the run.
        rise: as for `one_cycle`.
        low: factor at the peak of the learning rate; 0.85 / 0.95 takes a momentum of 0.95 to 0.85.
        shape: as for `one_cycle`.
        three_phase: as for `one_cycle`.
    Raises:
        ValueError: an argument out of its range.
    Source: Smith & Topin 2018, arXiv:1708.07120; torch.optim.lr_scheduler.OneCycleLR.
    """
    return _cycle((1.0, low, 1.0, 1.0), total_steps, rise=rise, shape=shape, three_phase=three_phase)


def _cycle(
    values: tuple[float, float, float, float], total_steps: int, *, rise: float, shape: str, three_phase: bool
) -> Schedule:
    """Return start -> peak -> (middle ->) end."""
    start, top, middle, end = values
    if three_phase and rise > 0.5:
        raise refused("rise", f"must be at most 0.5 in three phases, got {rise:g}", "Set .rise=0.5 or less")
    # round() guards the ceiling against 0.3 * 10 = 3.0000000000000004
    peak = min(max(math.ceil(round(rise * total_steps, 9)) - 1, 0), total_steps - 1)
    back = min(2 * peak, total_steps - 1) if three_phase else peak
    move = _BETWEEN[shape]

    def factor(step: int) -> float:
        if step < peak:
            return move(start, top, step / peak)
        if step < back:
            return move(top, middle, (step - peak) / (back - peak))
        return move(middle if back > peak else top, end, min(1.0, (step - back) / (total_steps - back)))

    return factor


@validate_call
def cyclic(
    *,
    up: Steps,
    down: Steps | None = None,
    low: Decay = 0.1,
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
    gamma: Decay = 0.9999,
) -> Schedule:
    """Go up and down between a low factor and 1 on straight lines, for as long as the run lasts.

    factor(t) = l + (1 - l) s x, x = 0 -> 1 over `up` steps and 1 -> 0 over `down` steps, again and again;
    s = 1, 2^-(number of the cycle) or gamma^t

    Args:
        up: steps of a rise.
        down: steps of a fall; None takes those of the rise.
        low: l, factor between two cycles; in (0, 1].
        mode: whether the height stays, halves with every cycle, or shrinks by gamma every step.
        gamma: for exp_range; in (0, 1].
    Raises:
        ValueError: an argument out of its range.
    Source: Smith 2017, arXiv:1506.01186; torch.optim.lr_scheduler.CyclicLR.
    """
    fall = down or up
    length = up + fall
    scales: dict[str, Schedule] = {
        "triangular": lambda step: 1.0,
        "triangular2": lambda step: 0.5 ** (step // length),
        "exp_range": lambda step: gamma**step,
    }
    scale = scales[mode]

    def factor(step: int) -> float:
        place = step % length
        height = place / up if place <= up else (length - place) / fall
        return low + (1.0 - low) * height * scale(step)

    return factor


@validate_call
def cosine_restarts(
    *,
    total_steps: TotalSteps,
    warmup_steps: WarmupSteps = 0,
    first: Steps | None = None,
    cycles: Annotated[int, Ge(1), Le(10_000)] | None = None,
    length_multiplier: Annotated[float, Ge(1), Le(1000)] = 1.0,
    peak_multiplier: Decay = 1.0,
    cycle_warmup: StepsOrZero = 0,
    floor: Fraction = 0.0,
) -> Schedule:
    """Fall along half a cosine and start again from the top (SGDR).

    Cycle i has L_i = first * m^i steps, its peak is h = max(r, d^i), and in it factor(t) = r + (h - r) (1 + cos(pi u /
    L_i)) / 2 with u its own step. A `cycle_warmup` of w steps rises on a straight line first, as a warmup of the run
    does; the fall begins at its last step and takes the other L_i - (w - 1).

    Args:
        total_steps: T, steps of the run.
        warmup_steps: W; the first cycle begins at t0 = max(W - 1, 0), and needs no warmup of its own then.
        first: length of the first cycle; None divides the body so that `cycles` of them fill it.
        cycles: how many there are, at most 10,000; the floor is held after the last. None goes on to the end.
        length_multiplier: m; in [1, 1000].
        peak_multiplier: d; in (0, 1].
        cycle_warmup: steps of the rise that begins a cycle.
        floor: r, factor at the end of a cycle; in [0, 1].
    Raises:
        ValueError: neither first nor cycles; a rise as long as a cycle.
    Source: Loshchilov & Hutter 2017, arXiv:1608.03983; multipliers and limit as in timm.
    """
    start = max(warmup_steps - 1, 0)
    bounds = _cycle_bounds(max(total_steps - start, 1), first=first, cycles=cycles, multiplier=length_multiplier)
    shortest = min(second - first_ for first_, second in pairwise(bounds))
    if cycle_warmup and cycle_warmup >= max(shortest, 2):
        rule = f"must be shorter than a cycle of {shortest} steps, got {cycle_warmup}"
        raise refused("cycle_warmup", rule, f"Set .cycle_warmup={max(shortest, 2) - 1} or less")

    def factor(step: int) -> float:
        passed = max(step - start, 0)
        index = bisect_right(bounds, passed) - 1
        if index == len(bounds) - 1:
            return floor
        rising = cycle_warmup if index or not warmup_steps else 0
        begin = bounds[index] + max(rising - 1, 0)
        peak = max(floor, peak_multiplier**index)
        if passed < begin:
            return peak * (passed - bounds[index] + 1) / rising
        return cosine_between(peak, floor, (passed - begin) / (bounds[index + 1] - begin))

    return factor


def _cycle_bounds(body_steps: int, *, first: int | None, cycles: int | None, multiplier: float) -> list[int]:
    """Return the steps of the body at which a cycle begins, and the end of the last; none of them is empty."""
    if first is None and cycles is None:
        raise FactoryError(
            Fault("first", "must be given where cycles is not, got null", "Set .first=10%, or .cycles=3")
        )
    if first is None:
        shares = [multiplier ** (i + 1 - (cycles or 1)) for i in range(cycles or 1)]  # of the last: no power overflows
        whole = sum(shares)
        lengths: Iterator[float] = (body_steps * share / whole for share in shares)
    else:
        lengths = (first * multiplier**i for i in range(cycles or body_steps))
    end = body_steps if cycles is None else 5 * body_steps + 10_000  # nobody asks for a later step
    bounds, place = [0], 0.0
    while bounds[-1] < end and (length := next(lengths, None)) is not None:
        place += length
        if round(place) > bounds[-1]:
            bounds.append(round(place))
    return bounds
