"""Schedules that rise as well as fall."""

from __future__ import annotations

from pydantic import validate_call

from runner.durations import TotalSteps
from runner.schedules.shape import Divisor, Fraction, Schedule, cosine_between


@validate_call
def one_cycle(
    *, total_steps: TotalSteps, rise: Fraction = 0.3, start_divisor: Divisor = 25.0, end_divisor: Divisor = 1e4
) -> Schedule:
    """Rise to the base learning rate and fall far below where it started, both along half a cosine.

    With the peak at P = max(ceil(rise T) - 1, 0):
    factor(t) = cos(1/d0 -> 1, t / P)                          for t < P
    factor(t) = cos(1 -> 1/(d0 d1), (t - P) / (T - P))         for P <= t < T, held after

    Args:
        total_steps: T, steps of the run.
        rise: share of the run spent rising; in [0, 1].
        start_divisor: d0, the first factor is 1/d0; >= 1.
        end_divisor: d1, the last factor is 1/(d0 d1); >= 1.
    Raises:
        ValueError: an argument out of its range.
    Source: Smith & Topin 2018, arXiv:1708.07120; divisors as in torch.optim.lr_scheduler.OneCycleLR.
    """
    # round() guards the ceiling against 0.3 * 10 = 3.0000000000000004
    peak = min(max(-int(-round(rise * total_steps, 9) // 1) - 1, 0), total_steps - 1)

    def factor(step: int) -> float:
        if step < peak:
            return cosine_between(1.0 / start_divisor, 1.0, step / peak)
        fall = min(1.0, (step - peak) / (total_steps - peak))
        return cosine_between(1.0, 1.0 / (start_divisor * end_divisor), fall)

    return factor
