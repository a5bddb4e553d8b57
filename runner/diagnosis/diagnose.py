"""From a curve to a verdict: the one entrance."""

from __future__ import annotations

from runner.curves import number
from runner.diagnosis.curve import Curve
from runner.diagnosis.verdict import Diagnosis, Stretch


def diagnose(curve: Curve) -> Diagnosis:
    """Say what a curve shows, with a confidence, what it rests on, and what to try.

    Never raises on any numbers; an empty curve is "cannot_tell".
    """
    where = curve.first_non_finite
    if where is not None:
        step, loss = curve.steps[where], curve.losses[where]
        what = f"the loss is {loss} from step {step:,}"
        return Diagnosis("numeric_fault", what, 0.3, (what,), (Stretch(step, curve.steps[-1], f"loss {loss}"),))
    losses = curve.losses
    if len(losses) >= 4 and min(losses[-(len(losses) // 4) :]) < min(losses[: len(losses) // 4]):
        fall = f"the loss fell from {number(losses[0], 4)} to {number(losses[-1], 4)}"
        return Diagnosis("healthy", fall, 0.5, (fall,))
    return Diagnosis("cannot_tell", f"{len(losses)} values do not say", 0.5, settle="a longer curve")
