"""What the sharpness meter says beside its records: a bracket before the first step, its cost after the last."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from runner.stability import EDGE
from runner.tasks.closing import in_use
from runner.train.meters import Meter, Moment
from runner.train.sharpness import SHARPNESS, Sharpness

if TYPE_CHECKING:
    from runner.build import Experiment
    from runner.config import Config


class Bracket(NamedTuple):
    """Up to where the learning rate can be, as the initial weights tell.

    Attributes:
        lr: a value of `optimizer.lr`, as it is written; inf where the loss curves down.
        text: the same in words.
    """

    lr: float
    text: str

    def as_dict(self) -> dict[str, float | str]:
        """Return it as a part of `learning_rate` in result.json."""
        return {"upper_bracket": self.lr, "upper_bracket_in_words": self.text}


def upper_bracket(config: Config, experiment: Experiment) -> Bracket | None:
    """Measure the sharpness before the first update; None where nobody asked for it, or the run goes on.

    For SGD it is the learning rate of the bound, 2 / sharpness without momentum. The preconditioner of an adaptive
    optimizer is made of one gradient then: it is the rate from which on the first update no longer lowers the loss, to
    second order, 2 |g d| / (d H d) with d the update at rate 1.

    Args:
        config: checked.
        experiment: freshly built.
    Raises:
        TaskError: the gradient of the model cannot be differentiated once more.
    """
    meter = meter_of(experiment.meters)
    if meter is None or config.resume.source is not None:
        return None
    moment = Moment(experiment.task, experiment.model, experiment.optimizer, experiment.plan)
    with in_use(experiment.task):
        found = meter.measure(moment, lr="initial_lr")
    if not found:
        return None
    begin = "upper bracket of optimizer.lr:"
    if found[EDGE] <= 0:
        return Bracket(math.inf, f"{begin} none, the loss curves down at the initial weights")
    lr = config.optimizer.lr / found[EDGE]
    if meter.is_first:
        what = f"about {lr:.2g}, above it the first update of {config.optimizer.name} raises the loss"
    else:
        what = f"about {lr:.2g}, above it updates are unstable at the start (sharpness at least {found[SHARPNESS]:.3g})"
    return Bracket(lr, f"{begin} {what}; that is of the initial weights, training changes the sharpness")


def cost(meters: Sequence[Meter], seconds: float) -> str:
    """Return which share of a run the sharpness took, "" without it."""
    meter = meter_of(meters)
    if meter is None or not meter.measurements or seconds <= 0:
        return ""
    count = f"{meter.measurements:,} measurement{'s' if meter.measurements > 1 else ''}"
    return f"sharpness: {count}, {100 * meter.seconds / seconds:.2g}% of the run"


def meter_of(meters: Sequence[Meter]) -> Sharpness | None:
    """Return the sharpness meter of a run, None without one."""
    return next((meter for meter in meters if isinstance(meter, Sharpness)), None)
