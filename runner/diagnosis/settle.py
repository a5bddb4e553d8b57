"""What would settle a doubt: the numbers that are missing, or the run that would tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.diagnosis.verdict import Cause
from runner.trends import FEW

if TYPE_CHECKING:
    from runner.diagnosis.features import Features

_BY_CAUSE: dict[Cause, str] = {
    "healthy": "",
    "lr_too_high": "the same run at a tenth of the learning rate",
    "unstable_early": "the same run with a warmup",
    "lr_too_high_at_end": "the same run with a learning rate that falls to 0",
    "lr_too_low": "a short run at three times the learning rate",
    "stuck": "short runs at a tenth and at ten times the learning rate",
    "batch_spike": "the same stretch again without that batch",
    "numeric_fault": "the same steps in fp32, or a look at the batch of the step where it broke",
    "gradient_explosion": "the same run with clipping",
    "plateau": "a short run at a third of the learning rate from there on",
    "overfitting": "",
    "cannot_tell": "a run at ten times the learning rate, and one at a tenth",
}
_WANTS_NORMS: dict[Cause, str] = {
    "lr_too_high": "gradient norms (growing with the loss at too high a learning rate, calm before a bad batch)",
    "batch_spike": "gradient norms (calm before a bad batch, growing with the loss at too high a learning rate)",
    "numeric_fault": "gradient norms (calm to the end in a numeric fault, exploding when it is the learning rate)",
    "stuck": "gradient norms (near 0 when the units are dead)",
}


def settle(cause: Cause, f: Features) -> str:
    """Return what would settle the doubt, the numbers that are missing first; "" where nothing would."""
    wants = [_WANTS_NORMS[cause]] if cause in _WANTS_NORMS and f.norms is None else []
    if f.shape.count < FEW:
        wants.append("more steps")
    if f.rates is None and cause in ("lr_too_high", "lr_too_high_at_end", "plateau", "lr_too_low"):
        wants.append("the learning rate of each step")
    if cause == "cannot_tell" and f.known.prior_entropy is None:
        wants.append("the entropy of the targets (a loss that rests there has learned nothing)")
    if cause == "healthy" and f.known.family != "sgd" and f.known.family != "momentum":
        return "one curve cannot show that another learning rate does better, least of all with an adaptive optimizer"
    return "; ".join([*wants, _BY_CAUSE[cause]] if _BY_CAUSE[cause] else wants)
