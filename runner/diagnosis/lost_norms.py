"""Gradient norms that are no numbers to the end of a curve, in words."""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import TYPE_CHECKING

from runner.diagnosis.ends import DROPPED, Ending, first_lost, goes_on, is_skipped
from runner.diagnosis.verdict import Stretch

if TYPE_CHECKING:
    from runner.diagnosis.curve import Curve


def lost_norms_text(curve: Curve, ending: Ending | None) -> tuple[str, tuple[Stretch, ...]]:
    """Return what is said of gradient norms that are no numbers up to the end of a curve that goes on as before."""
    first = first_lost(curve)
    if ending is not None or first is None or curve.grad_norms is None:
        return "", ()
    value, count = curve.grad_norms[first], len(curve.steps) - first
    since = f"the gradient norm is {value} from step {curve.steps[first]:,} to the end"
    if is_skipped(curve, first):
        why = f"{count:,} update{'s' if count > 1 else ''} that the scaler of fp16 dropped"
    elif math.isnan(value):
        why = "while the losses go on as before: it is no longer recorded, or these updates are dropped"
    else:
        why = "while the losses go on as before: these updates are dropped, or the norm is too large for its format"
    return f"{since}, {why}", (Stretch(curve.steps[first], curve.steps[-1], f"gradient norm {value}"),)


def dropped_text(curve: Curve, ending: Ending | None) -> str:
    """Return what is said of updates that are dropped from the end on, "" where they are not."""
    if ending is None or ending.what == "loss":
        return ""
    first = bisect_left(curve.steps, ending.step)
    count = len(curve.steps) - first
    if count < DROPPED or not (is_skipped(curve, first) or goes_on(curve.losses, first)):
        return ""
    return f"the losses after it stay as they were: the {count:,} updates from there to the end are dropped"
