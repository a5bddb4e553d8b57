"""The jobs that every contender does, and the learning rate they share."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

LR, CLIP_NORM, WARMUP_SHARE = 3e-3, 1.0, 0.05


class Job(NamedTuple):
    """A model, its data as tensors with one row an example, and the loss of some rows.

    Attributes:
        model: freshly initialised.
        tensors: the training data.
        loss: model and rows -> mean loss.
        batch_size: rows a step.
    """

    model: nn.Module
    tensors: tuple[Tensor, ...]
    loss: Callable[[Callable[..., Tensor], tuple[Tensor, ...]], Tensor]
    batch_size: int


class Timing(NamedTuple):
    """What a loop tells of itself.

    Attributes:
        step_seconds: wall time a step.
        first_step: when the first step was made, in seconds since 1970; None where that is not known.
        peak_mib: largest resident memory of the process until training was over; None outside of Linux.
    """

    step_seconds: float
    first_step: float | None = None
    peak_mib: float | None = None


class Place(NamedTuple):
    """Where a loop runs.

    Attributes:
        device: cpu or cuda.
        precision: number format of the forward pass, fp32, bf16 or fp16.
    """

    device: str = "cpu"
    precision: str = "fp32"


TASKS: dict[str, tuple[str, dict[str, int]]] = {
    "mlp": ("digits.Digits", {}),
    "char_lm": ("char_lm.CharLM", {"context": 32, "width": 64, "depth": 2, "heads": 4}),
    "gpt": ("char_lm.CharLM", {"context": 256, "width": 512, "depth": 6, "heads": 8}),
}
"""job -> task of the runner and its arguments"""

BATCH_SIZES = {"mlp": 64, "char_lm": 32, "gpt": 64}
LRS = {"mlp": LR, "char_lm": LR, "gpt": 3e-4}


def make(name: str) -> Job:
    """Return a job: "mlp" is the MLP 64-128-128-10 on digits, "char_lm" a transformer on Python's help topics.

    "gpt" is a transformer that keeps a GPU busy, on the same text.
    """
    (module, _, cls), arguments = TASKS[name][0].partition("."), TASKS[name][1]
    batch_size = BATCH_SIZES[name]
    task = getattr(import_module(f"runner.tasks.{module}"), cls)(batch_size=batch_size, seed=0, **arguments)
    batches = [task.batch(step, "train") for step in range(math.ceil(task.examples["train"] / batch_size))]
    rows = tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
    return Job(task.model(), rows, _classification if name == "mlp" else _next_character, batch_size)


def overrides(name: str) -> list[str]:
    """Return a job as the runner's command line names it."""
    arguments = [f"task.{argument}={value}" for argument, value in TASKS[name][1].items()]
    return [f"task={TASKS[name][0].partition('.')[0]}", f"train.batch_size={BATCH_SIZES[name]}", *arguments]


def factor(step: int, steps: int) -> float:
    """Return linear warmup, then cosine, unitless."""
    warmup = warmup_steps(steps)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup + 1) / (steps - warmup + 1)))


def warmup_steps(steps: int) -> int:
    """Return the length of the warmup."""
    return max(1, int(WARMUP_SHARE * steps))


def peak_mib() -> float | None:
    """Return the largest resident memory of this process so far; None where only Linux would tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), None)


def _classification(apply: Callable[..., Tensor], rows: tuple[Tensor, ...]) -> Tensor:
    return nn.functional.cross_entropy(apply(rows[0]), rows[1])


def _next_character(apply: Callable[..., Tensor], rows: tuple[Tensor, ...]) -> Tensor:
    windows = rows[0].long()
    return nn.functional.cross_entropy(apply(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
