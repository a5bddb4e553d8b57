"""What the checks must know of the data and of the machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from runner.durations import Clock


class Facts(NamedTuple):
    """What only the data and the machine can tell.

    Attributes:
        examples: split -> number of examples; empty when the task has no data set.
        goals: metric of an evaluation -> whether less or more is better.
        device: type of the device that `train.device` stands for here; None when it is not there.
        devices: devices that are there.
        steps_made: updates made by the checkpoint to go on from; None when a run starts afresh.
        unreadable: why the weights to begin with cannot be read; "" when they can.
        clock: what turns durations into steps, the length of the run included; None where that is not known.
    """

    examples: Mapping[str, int]
    goals: Mapping[str, Literal["min", "max"]]
    device: str | None
    devices: tuple[str, ...]
    steps_made: int | None = None
    unreadable: str = ""
    clock: Clock | None = None
