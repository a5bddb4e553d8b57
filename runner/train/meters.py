"""What measures a training beyond loss, learning rate and gradient norm, at the steps where it is due."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer

from runner.tasks.protocol import Task
from runner.train.plan import TrainPlan


@dataclass(slots=True)
class Moment:
    """Where a training is when a meter looks at it.

    Attributes:
        task: gives the batch of the step once more, for those that need it.
        model: without a compiled wrapper.
        optimizer: its state is that before the update of the step, in `before` and not yet changed by it.
        plan: the run.
        step: index of the update.
        give_outputs: returns what the model returned for the last micro-batch of the step, in `before`; None later.
    """

    task: Task
    model: nn.Module
    optimizer: Optimizer
    plan: TrainPlan
    step: int = 0
    give_outputs: Callable[[], Any] | None = None

    @property
    def outputs(self) -> Any:
        """What the model returned for the last micro-batch of the step."""
        return self.give_outputs() if self.give_outputs is not None else None

    def at(self, step: int) -> Moment:
        """Return itself, at another step."""
        self.step = step
        return self


class Meter(Protocol):
    """Measures signals of a step; changes neither weights nor gradients nor generators.

    Attributes:
        name: under which a checkpoint keeps its state.
    """

    @property
    def name(self) -> str:
        """As above."""
        ...

    def before(self, moment: Moment) -> Mapping[str, float]:
        """Return what the gradients of a step tell, in place and clipped, before its update; {} when nothing is due."""
        ...

    def after(self, moment: Moment) -> Mapping[str, float]:
        """Return what the update that was just made tells; the record of the next step carries it; {} for nothing."""
        ...

    def forget(self) -> None:
        """Forget what it keeps of the latest update: a remedy has replaced the weights."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what it must keep for a run that goes on to measure the same numbers: tensors and plain values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        ...


def measure(meters: Sequence[Meter], moment: Moment) -> dict[str, float]:
    """Return what all meters tell of the gradients of a step."""
    found = {name: value for meter in meters for name, value in meter.before(moment).items()}
    moment.give_outputs = None  # as large as a batch of logits
    return found


def measure_update(meters: Sequence[Meter], moment: Moment) -> dict[str, float]:
    """Return what all meters tell of the update that was just made."""
    return {name: value for meter in meters for name, value in meter.after(moment).items()}
