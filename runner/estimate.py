"""What a run will take, from a few real steps of it."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from runner.train.checkpoint import Checkpoints
from runner.train.plan import TrainPlan

FOREVER = 10**12


@dataclass(frozen=True)
class Memory:
    """Bytes.

    Attributes:
        weights: parameters and buffers of the model.
        gradients: one number for every trained parameter.
        optimizer: state of the optimizer, as it is after real updates.
        peak: most that was in use at any time so far.
        place: where the peak was measured.
    """

    weights: int
    gradients: int
    optimizer: int
    peak: int
    place: str


def memory(model: nn.Module, optimizer: Optimizer, device: torch.device) -> Memory:
    """Return what model and optimizer hold now, and the peak of the device or of this process."""
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = [value for held in optimizer.state.values() for value in held.values() if isinstance(value, Tensor)]
    if device.type == "cuda":
        peak, place = torch.cuda.max_memory_allocated(device), f"GPU {device.index or 0}"
    else:
        unit = 1 if sys.platform == "darwin" else 1024  # getrusage: bytes on macOS, kilobytes on Linux
        peak, place = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "the process"
    weights = _bytes([*model.parameters(), *model.buffers()])
    return Memory(weights, _bytes(trained), _bytes(state), peak, place)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class WeighedCheckpoints(Checkpoints):
    """Measures what a checkpoint takes, and writes nothing.

    Attributes:
        bytes: size of the last one.
        seconds: time that it took to put together, without the disk.
    """

    bytes: int = 0
    seconds: float = 0.0

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        sink, started = _Sink(), time.perf_counter()
        torch.save(content, sink)  # type: ignore[arg-type]
        self.bytes, self.seconds = sink.bytes, time.perf_counter() - started


class _Sink:
    """A file that only counts what is written to it."""

    def __init__(self) -> None:
        self.bytes = 0

    def write(self, data: bytes) -> int:
        """Count."""
        self.bytes += len(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing."""


def trial_plan(plan: TrainPlan) -> TrainPlan:
    """Return the same steps without an end, an evaluation or a checkpoint."""
    return TrainPlan(
        steps=FOREVER,
        accumulate=plan.accumulate,
        clip_norm=plan.clip_norm,
        precision=plan.precision,
        device=plan.device,
        compile=plan.compile,
        watch_every=plan.watch_every,
        ema_decay=plan.ema_decay,
    )


class Stopwatch:
    """Takes the time after every step, and ends the trial after enough of them.

    Args:
        steps: how many to make.
        watch_every: between two looks at the loss the host runs ahead of a GPU, so only then time is taken.
    Attributes:
        made: steps so far.
    """

    def __init__(self, steps: int, *, watch_every: int) -> None:
        self._wanted, self._watch_every = steps, watch_every
        self.made = 0
        self._times = [time.perf_counter()]

    def __call__(self) -> str | None:
        """Note the time; return a reason to stop when all steps are made."""
        self.made += 1
        if self.made % self._watch_every == 0:
            self._times.append(time.perf_counter())
        return "the end of the trial" if self.made >= self._wanted else None

    def pace(self) -> Pace:
        """Return how long a step takes; the first quarter, which warms up, is left out."""
        spans = [(end - start) / self._watch_every for start, end in zip(self._times, self._times[1:], strict=False)]
        if not spans:
            spans = [(time.perf_counter() - self._times[0]) / max(self.made, 1)]
        settled = spans[max(1, len(spans) // 4) :] or spans
        cuts = quantiles(settled, n=10, method="inclusive") if len(settled) > 1 else settled
        typical = median(settled)
        warmup = sum(self._watch_every * max(0.0, span - typical) for span in spans[: max(1, len(spans) // 4)])
        return Pace(cuts[0], typical, cuts[-1], warmup)


@dataclass(frozen=True)
class Pace:
    """Seconds a step.

    Attributes:
        fast: a tenth of the steps are faster.
        typical: the median.
        slow: a tenth of the steps are slower.
        warmup: what the first steps take more than that, once.
    """

    fast: float
    typical: float
    slow: float
    warmup: float


def planned(every: int | None, start: int, steps: int) -> int:
    """Return how often something is due after one of the updates start + 1 .. steps, the last one always."""
    if every is None:
        return 1
    return steps // every - start // every + (steps % every != 0)
