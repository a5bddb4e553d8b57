"""The checkpoints of a run: written whole or not at all, and loaded to go on from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from runner.errors import CheckpointError
from runner.records import Action, Alarm
from runner.train.own_average import Average
from runner.train.restoring import load_optimizer_state
from runner.train.saved import BEST, FOLDER, FORMAT, LAST, read_checkpoint, write_content
from runner.train.seeding import generator_states, restore_generators
from runner.train.snapshots import Snapshots, copied
from runner.train.state import Earlier, TrainState
from runner.watch import Watch

_CHANGING = ("model", "optimizer", "scaler", "average")  # what the next update changes in place
_NOT_SAVED = {"watch", "actions", "alarm", "status", "verdict", "is_fresh", "owed"}


class Checkpoints:
    """Reads and writes the checkpoints of a run directory.

    Args:
        directory: run directory to write to.
        source: checkpoint to go on from; None starts afresh.
        continues: whether it is the same run that goes on; otherwise its best evaluation belongs to the earlier one.
        before_save: called first, so that the records of the steps in a checkpoint are on disk before it.

    Where `let_best_wait` was called, the best one waits in memory until another is written, a remedy goes back to it
    or the training ends: with many lanes in one process, files of each good evaluation take longer than the steps. A
    process that is killed then goes on from its last checkpoint.
    """

    def __init__(
        self,
        directory: Path,
        *,
        source: Path | None = None,
        continues: bool = True,
        before_save: Callable[[], None] = lambda: None,
    ) -> None:
        self.directory = directory
        self.folder = directory / FOLDER
        self.source = source
        self.continues = continues
        self.before_save = before_save
        self._waiting: dict[str, Any] | None = None
        self._best_waits = False

    def let_best_wait(self) -> None:
        """Write the best checkpoint with the next other one only."""
        self._best_waits = True

    def write_best(self) -> None:
        """Write the best checkpoint if it waits."""
        if self._waiting is not None:
            content, self._waiting = self._waiting, None
            self.before_save()
            self._write(self.folder / BEST, content)

    def save(
        self,
        name: str,
        state: TrainState,
        model: nn.Module,
        optimizer: Optimizer,
        scaler: torch.amp.GradScaler,
        average: Average | None = None,
        snapshots: Snapshots | None = None,
    ) -> None:
        """Write a checkpoint.

        Raises:
            CheckpointError: it cannot be written; the earlier one is intact.
        """
        content: dict[str, Any] = {
            "format": FORMAT,
            "state": {f.name: getattr(state, f.name) for f in fields(state) if f.name not in _NOT_SAVED},
            "detectors": {name: tuple(values) for name, values in state.watch.items()},
            "actions": [asdict(action) for action in state.actions],
            "owed": [asdict(part) for part in state.owed] if state.owed is not None else None,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "optimizer_class": type(optimizer).__name__,
            "scaler": scaler.state_dict(),
            "generators": generator_states(),
            "average": average.state_dict() if average is not None else None,
        }
        kept = {"snapshots": snapshots.state_dict() if snapshots is not None else {}}
        if name == BEST and self._best_waits:
            self._waiting = {**content, **{part: copied(content[part]) for part in _CHANGING}, **kept}
            self._waiting["state"] |= {part: copied(content["state"][part]) for part in ("meters", "clipping")}
        else:
            self.write_best()
            self.before_save()
            self._write(self.folder / name, {**content, **kept})
        if snapshots is not None:
            snapshots.are_named(anew=name == LAST)  # the best one may go back to what only an earlier last one names

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        write_content(path, content)

    def resume(
        self,
        watch: Watch,
        model: nn.Module,
        optimizer: Optimizer,
        scaler: torch.amp.GradScaler,
        average: Average | None = None,
        snapshots: Snapshots | None = None,
    ) -> TrainState | None:
        """Load the source into all that is given and the generators; return where the run stands.

        Hyperparameters of the optimizer (learning rate, decay ...) stay as configured now, only its state is
        loaded; a different optimizer class starts with an empty state.

        Raises:
            CheckpointError: the source cannot be read or does not fit the model.
        """
        if self.source is None:
            return None
        content = read_checkpoint(self.source)
        try:
            model.load_state_dict(content["model"])
            if content["optimizer_class"] == type(optimizer).__name__:
                load_optimizer_state(optimizer, content["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            reason = str(error).replace("\n\t", " ")
            raise CheckpointError(f"{self.source}: does not fit this configuration: {reason}") from error
        if scaler.is_enabled() and content["scaler"]:
            scaler.load_state_dict(content["scaler"])
        if average is not None:
            average.restore(content)
        if snapshots is not None:
            snapshots.load(content.get("snapshots", {}), self.source.parent.parent)
        restore_generators(content["generators"])
        actions = tuple(map(_action, content["actions"]))
        state = TrainState(watch=watch.restore(content["detectors"]), actions=actions, **content["state"])
        if owed := content.get("owed"):
            action, alarm = _action(owed[0]), Alarm(**owed[1])
            has_weights = snapshots is None or 0 in snapshots.steps or not action.arguments.get("from_initial")
            state.owed = (action, alarm) if action.remedy.partition("/")[0] in watch.remedies and has_weights else None
        if not self.continues:
            state.best, state.last_eval, state.evals_without_gain = {}, {}, 0
        return state

    def restore_best(self, best_step: int, model: nn.Module, average: Average | None = None) -> Earlier:
        """Give the model and its average what they had at the best evaluation of this run.

        Args:
            best_step: the updates that it stood for.
            model, average: are changed in place.
        Returns:
            what else the training was then.
        Raises:
            CheckpointError: the checkpoint cannot be read, or is that of another step.
        """
        self.write_best()
        path = self.folder / BEST
        content = read_checkpoint(path, mmap=True)
        saved = content["state"]
        if saved["step"] != best_step:
            raise CheckpointError(
                f"{path}: must hold the weights of step {best_step}, got those of step {saved['step']}."
            )
        model.load_state_dict(content["model"])
        if average is not None:
            average.restore(content)
        return Earlier(
            content["detectors"],
            content["optimizer"]["param_groups"],
            saved.get("updates_kept", saved["step"]),
            saved.get("clipping", {}),
        )


def _action(saved: dict[str, Any]) -> Action:
    return Action(**{**saved, "cause": tuple(saved["cause"] or ())})
