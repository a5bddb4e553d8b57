"""The weights of the latest steps, kept for a remedy that goes back to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from runner.errors import CheckpointError
from runner.train.average import WeightAverage
from runner.train.plan import SnapshotPlan
from runner.train.saved import write_content
from runner.train.state import Earlier, TrainState

FOLDER = "snapshots"


class Snapshots:
    """A ring of model, average, clipping and detector states, and the initial ones where a remedy may begin anew.

    The optimizer's state is not in it: going back empties that. Only the step size that an optimizer estimates by
    itself is kept, since that goes back too.

    An average that an optimizer keeps by itself has no state beside model and optimizer.

    Args:
        plan: how many to keep, and where; None keeps nothing.
        directory: run directory that those on the disk are written to.
    """

    def __init__(self, plan: SnapshotPlan | None, directory: Path) -> None:
        self._plan = plan
        self._folder = directory / FOLDER
        self._kept: dict[int, dict[str, Any]] = {}  # step -> content; {} where that is on the disk
        self._named: set[int] = set()  # what a checkpoint on the disk may go on with

    @property
    def steps(self) -> tuple[int, ...]:
        """Updates that the kept weights stand for, in order."""
        return tuple(self._kept)

    def take(self, state: TrainState, model: nn.Module, optimizer: Optimizer, average: object = None) -> None:
        """Keep a copy of what the training is now; the oldest one that is too many goes.

        Raises:
            CheckpointError: it cannot be written to the disk.
        """
        if self._plan is None:
            return
        content = {
            "model": model.state_dict(),
            "average": average.state_dict() if isinstance(average, WeightAverage) else None,
            "detectors": {name: tuple(values) for name, values in state.watch.items()},
            "groups": [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups],
            "updates_kept": state.updates_kept,
            "clipping": state.clipping,
        }
        if self._plan.on_disk:
            write_content(self._folder / f"{state.step}.pt", content)
        self._kept[state.step] = {} if self._plan.on_disk else copied(content)
        ring = [step for step in self._kept if step > 0 or not self._plan.keeps_initial]
        self._forget(ring[: -self._plan.keep])

    def restore(self, step: int, model: nn.Module, average: object = None) -> Earlier:
        """Give the model and its average what they had after `step` updates; forget what was kept since.

        Returns:
            what else the training was then.
        Raises:
            CheckpointError: it is on the disk and cannot be read.
        """
        content = self.content(step)
        model.load_state_dict(content["model"])
        if isinstance(average, WeightAverage):
            average.restore(content)
        self._forget([kept for kept in self._kept if kept > step])
        return Earlier(*(copied(content[name]) for name in Earlier._fields))

    def state_dict(self) -> dict[int, dict[str, Any]]:
        """Return what a checkpoint keeps: the content of those in memory, the steps of those on the disk."""
        return dict(self._kept)

    def load(self, saved: dict[int, dict[str, Any]], directory: Path) -> None:
        """Go on with what a checkpoint in a run directory kept; what has gone from its disk is left out.

        Raises:
            CheckpointError: one of them cannot be read or written.
        """
        if self._plan is None:
            return
        for step, content in saved.items():
            path = directory / FOLDER / f"{step}.pt"
            if not content and not path.is_file():
                continue
            content = content or _read(path)
            if self._plan.on_disk:
                write_content(self._folder / f"{step}.pt", content)
            self._kept[step] = {} if self._plan.on_disk else content
        self._named = set(self._kept)

    def are_named(self, *, anew: bool) -> None:
        """Take note that a checkpoint on the disk names those that are kept; `anew` as the only one."""
        before, self._named = self._named, set(self._kept) | (set() if anew else self._named)
        self._remove(before - self._named)

    def _forget(self, steps: Sequence[int]) -> None:
        for step in steps:
            del self._kept[step]
        self._remove(set(steps) - self._named)

    def _remove(self, steps: Iterable[int]) -> None:
        if self._plan is not None and self._plan.on_disk:
            for step in steps:
                (self._folder / f"{step}.pt").unlink(missing_ok=True)

    def content(self, step: int) -> dict[str, Any]:
        """Return what is kept of a step; its tensors are not to be written to.

        Raises:
            CheckpointError: it is on the disk and cannot be read.
        """
        return {"clipping": {}, **(self._kept[step] or _read(self._folder / f"{step}.pt"))}


def copied(value: Any) -> Any:
    """Return the value with every tensor in it copied, on its device."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(copied(item) for item in value)
    return value


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        raise CheckpointError(f"{path}: not a readable snapshot ({type(error).__name__}).") from error
