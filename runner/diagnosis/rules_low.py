"""A learning rate that is too low."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from runner.curves import number
from runner.diagnosis.finding import Finding, clamp, loss_text, share_text
from runner.diagnosis.spikes import material
from runner.trends import FEW

if TYPE_CHECKING:
    from runner.diagnosis.features import Features

_FLAT_FALL = 0.06


def lr_too_low(f: Features) -> Finding | None:
    """Smooth and slow: as much progress per unit of learning rate at the end as at the start, or none at all."""
    shape = f.shape
    if f.ending is not None or shape.count < FEW or not f.is_mostly_done:
        return None  # the rate may still rise, and the loss fall
    reach = _reach(f)
    if reach is not None:
        text, is_short = reach
        if is_short and shape.fall < 0.3:
            return Finding("lr_too_low", 0.9, text, (text, _fell(f)))
    if shape.over_first > 0.05 or shape.wander > 0.03 or material(f.spikes):
        return None
    if shape.moved < 5 or shape.fall <= 0 or math.isnan(shape.half_done):
        return None
    even = f"{share_text(clamp(shape.half_done))} of the fall came with the first half of the learning rate spent"
    if shape.fall < _FLAT_FALL:
        text = f"the loss fell steadily, but only by {share_text(shape.fall)} of the first loss"
        return Finding("lr_too_low", 0.72, text, (text, even))
    steep = shape.tail_slope < -3 * shape.tail_error
    if shape.half_done > 0.62 or shape.fall > 0.9:
        return None
    score = 0.45 + 0.35 * min((0.62 - shape.half_done) / 0.3, 1.0) + 0.08 * steep
    score -= 0.25 * (shape.fall > 0.85)
    text = f"the loss falls as fast at the end as at the start, or the run is too short: {even}"
    return Finding("lr_too_low", clamp(score), text, (text, _fell(f)))


def _reach(f: Features) -> tuple[str, bool] | None:
    """Return how far the steps can have led at most, and whether that is too short to learn anything."""
    lrs, norms = f.series.lrs, f.series.norms
    if lrs is None:
        return None
    spent = math.fsum(lrs) * f.series.block
    if f.known.family == "adaptive":
        text = f"all learning rates add up to {number(spent, 2)}: no weight can have moved further than about that"
        return text, spent < 0.02
    if f.known.family is None or norms is None or len(norms) != len(lrs):
        return None
    gain = 10.0 if f.known.family == "momentum" else 1.0  # 1 / (1 - momentum) at the usual 0.9
    squares = (min(abs(lr) * norm * norm, 1e200) for lr, norm in zip(lrs, norms, strict=True))
    promised = gain * math.fsum(squares) * f.series.block
    share = promised / (abs(f.shape.first) or 1.0)
    text = f"to first order all steps together can lower the loss by {number(promised, 2)} at most"
    return text, share < 0.03


def _fell(f: Features) -> str:
    return f"the loss went from {loss_text(f.shape.first)} to {loss_text(f.shape.end)}"
