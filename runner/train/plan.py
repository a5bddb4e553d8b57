"""What the loop needs to know about a run, in steps and plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True)
class SnapshotPlan:
    """Which earlier weights a remedy finds.

    Attributes:
        every: steps between two of them; None takes only the initial ones.
        keep: how many of the latest.
        keeps_initial: whether those before the first update are kept beside them.
        on_disk: whether they lie in the run directory instead of beside the model.
    """

    every: int | None
    keep: int = 3
    keeps_initial: bool = False
    on_disk: bool = False


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """A run, with every duration resolved to optimizer steps.

    Attributes:
        steps: length of the run.
        accumulate: micro-batches an optimizer step.
        clip_norm: largest global L2 norm of the gradient; None does not clip.
        precision: number format of the forward pass.
        device: where model and batches live.
        compile: whether the model goes through torch.compile.
        eval_every: steps between evaluations; None evaluates at the end only.
        checkpoint_every: steps between checkpoints; None writes one at the end only.
        watch_every: steps between two looks at loss and gradient norm by the host.
        max_seconds: wall time after which the run ends; None never.
        metric: metric of the "val" split that picks the best checkpoint.
        goal: whether less or more of it is better.
        patience: evaluations without a gain before the run stops early; None never.
        min_delta: a gain smaller than this is none.
        ema_decay: decay per update of the average of the weights; None keeps none.
        refresh_batches: training batches that BatchNorm sees anew for weights that the optimizer averages.
        snapshots: the weights that a remedy may go back to; None where none does.
    """

    steps: int
    accumulate: int = 1
    clip_norm: float | None = None
    precision: Precision = "fp32"
    device: torch.device = torch.device("cpu")  # noqa: RUF009
    compile: bool = False
    eval_every: int | None = None
    checkpoint_every: int | None = None
    watch_every: int = 1
    max_seconds: float | None = None
    metric: str = "loss"
    goal: Literal["min", "max"] = "min"
    patience: int | None = None
    min_delta: float = 0.0
    ema_decay: float | None = None
    refresh_batches: int = 50
    snapshots: SnapshotPlan | None = None

    def evaluates_at(self, step: int) -> bool:
        """Whether an evaluation is due after `step` updates."""
        return step == self.steps or (self.eval_every is not None and step % self.eval_every == 0)

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` updates."""
        return step == self.steps or (self.checkpoint_every is not None and step % self.checkpoint_every == 0)

    def snaps_at(self, step: int) -> bool:
        """Whether the weights after `step` updates are kept for a remedy."""
        every = self.snapshots.every if self.snapshots is not None else None
        return every is not None and step < self.steps and step % every == 0

    def looks_at(self, step: int) -> bool:
        """Whether loss and gradient norm of update `step` must reach the host before it is made."""
        after = step + 1
        is_due = self.evaluates_at(after) or self.saves_at(after) or self.snaps_at(after)
        return after % self.watch_every == 0 or is_due

    def measures_at(self, step: int, every: int, *, times: int = 1) -> bool:
        """Whether what every run measures is due at an update: every so many steps, where the host looks at it anyway.

        Meters of signals that somebody asks for keep to their own steps, and wait.

        Args:
            step: index of the update.
            every: steps between two measurements; between looks it is as many looks as fit into them, at least one.
            times: only every so many measurements.
        """
        if self.watch_every == 1:
            return step % (every * times) == 0
        look, rest = divmod(step + 1, self.watch_every)
        return rest == 0 and look % (max(every // self.watch_every, 1) * times) == 0
