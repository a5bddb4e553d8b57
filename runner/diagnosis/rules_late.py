"""A learning rate that is too high at the end."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from runner.curves import number
from runner.diagnosis.features import LOST, WANDER, before_bad_batch
from runner.diagnosis.finding import Finding, factor_text, loss_text, sentences, share_text
from runner.diagnosis.verdict import Stretch
from runner.trends import ratio

if TYPE_CHECKING:
    from runner.diagnosis.features import Features

_SURE = 0.85
_LONG = 60  # values: a run of unknown length that breaks before that may have broken early


def lr_too_high_at_end(f: Features) -> Finding | None:
    """Calm for the first half, wild in the last part, at a learning rate that has not fallen."""
    shape, way_out = f.shape, f.way_out
    if f.rates is not None and f.rates.end < 0.3:
        return None
    bad_batch = before_bad_batch(f)
    if f.ending is not None:
        if way_out is None or f.share(way_out.place) < 0.5:
            return None
        if f.known.total_steps is None and (shape.count < _LONG or way_out.base > 0.7 * shape.first):
            return None  # its end may have been its start
        at, rise = way_out.place, way_out.rise
    else:
        at = max(round(shape.low_at * (shape.count - 1)), round(0.6 * shape.count))
        at = min(at, shape.count - 1)
        rise = math.log(max(shape.end, 1e-300) / max(shape.low, 1e-300)) if shape.low > 0 else 0.0
        is_late = shape.late_wander >= WANDER > shape.early_wander
        climbs = shape.late_fall < -4 and shape.given_back > 0.03
        gave_back = shape.low_at > 0.5 and rise > 0.5 and shape.given_back > 0.05
        lost = f.rises_late and f.evals is not None and f.evals.given_back > LOST and f.evals.best_at > 0.5
        if not (is_late or climbs or gave_back or lost):
            return _held_out_at_end(f)
        at = min(at, _first_late_rise(f))
    score = _SURE if f.rises_late or f.gave_up_late else 0.5 if f.rates is not None else 0.4
    score -= 0.4 * (bad_batch is not None)
    about = None
    if f.rates is not None and f.series.lrs is not None:
        now, then = f.series.lrs[at], f.series.lrs[len(f.series.lrs) // 4]
        if then > 0:
            times = f"{number(ratio(now, then), 2)} times that of the first quarter"
            about = f"the learning rate there is {number(now, 3)}, {times}"
    text = f"the loss is calm until step {f.step(at):,} and then rises"
    more = f"it ends {factor_text(max(rise, 0.0))} its lowest level" if rise > 0.05 else None
    marks = (Stretch(f.step(at), f.series.steps[-1], "rises late"),)
    return Finding("lr_too_high_at_end", score, text, sentences([text, more, about]), marks)


def _held_out_at_end(f: Features) -> Finding | None:
    """At a rate that has not fallen, the held-out loss ends far above its lowest: the last weights are one throw."""
    evals, rates = f.evals, f.rates
    if evals is None or rates is None or not evals.ends_far_off:
        return None
    text = (
        f"held-out loss ends at {loss_text(evals.final)}, {number(ratio(evals.final, evals.best), 2)} times its lowest "
        f"{loss_text(evals.best)} of step {evals.best_step:,}"
    )
    about = f"the learning rate still is {share_text(rates.end)} of its peak"
    marks = (Stretch(evals.best_step, f.series.steps[-1], "held-out loss not settled"),)
    score = _SURE if f.gave_up_late else 0.7 if f.rises_late else 0.6
    return Finding("lr_too_high_at_end", score, text, (text, about), marks)


def _first_late_rise(f: Features) -> int:
    """Return the first block of the last 40% whose loss is well above the lowest level before it."""
    losses, shape = f.series.losses, f.shape
    start = round(0.6 * shape.count)
    bound = shape.low + max(6 * shape.noise * abs(shape.first), 0.5 * abs(shape.low))
    return next((i for i in range(start, len(losses)) if losses[i] > bound), len(losses) - 1)
