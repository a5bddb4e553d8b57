"""Checkpoints as files: found, read without running anybody's code, compared with a model."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from runner.errors import CheckpointError, MisfitError
from runner.tasks.described import listed
from runner.train.average import averaged_in

FOLDER = "checkpoints"
LAST, BEST = "last.pt", "best.pt"
FORMAT = 1
_KNOWN = {"torchao": "torchao.optim"}  # package of tensors in optimizer states -> module that declares them to torch
Weights = Literal["averaged", "raw"]
"""averaged: those of the weight average where a run keeps one, else raw; raw: those that the optimizer changes"""


def steps_made(path: Path) -> int:
    """Return the updates that a checkpoint stands for, without reading its tensors.

    Raises:
        CheckpointError: as `read_checkpoint`.
    """
    return int(read_checkpoint(path, mmap=True)["state"]["step"])


def newest(folder: Path) -> Path:
    """Return the checkpoint with the most updates: a run that was killed may have saved its best after its last one."""
    last, best = folder / LAST, folder / BEST
    try:
        return best if steps_made(best) > steps_made(last) else last
    except CheckpointError:
        return last


def find_checkpoint(directory: Path, name: str) -> Path:
    """Return the checkpoint of a run by its name ("best", "last") or by its path.

    Raises:
        CheckpointError: there is none; those that are there are named.
    """
    folder = directory / FOLDER
    found = next((path for path in (folder / f"{name}.pt", Path(name)) if path.is_file()), None)
    if found is None:
        there = ", ".join(sorted(path.stem for path in folder.glob("*.pt"))) or "none"
        raise CheckpointError(f"checkpoint: must be one of the run ({there}) or a file, got {name!r}.")
    return found


def has_average(path: Path) -> bool:
    """Whether a checkpoint keeps averaged weights beside those that are trained.

    Raises:
        CheckpointError: as `read_checkpoint`.
    """
    return bool(read_checkpoint(path, mmap=True).get("average"))


def weights_of(content: dict[str, Any], weights: Weights = "averaged") -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint by the names that the model gives them."""
    if weights == "raw" or not content.get("average"):
        return dict(content["model"])
    return averaged_in(content)


def load_weights(path: Path, model: nn.Module, *, weights: Weights = "averaged") -> int:
    """Load the weights of a checkpoint into a model; return the updates that they stand for.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        MisfitError: it does not fit the model.
    """
    content = read_checkpoint(path, mmap=True)
    if misfit := _misfit(content, model):
        raise MisfitError(path, misfit)
    model.load_state_dict(weights_of(content, weights))
    return int(content["state"]["step"])


def write_content(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values to a temporary file first, renamed when it is on the disk.

    Raises:
        CheckpointError: it cannot be written; an earlier one is intact.
    """
    temporary = path.with_suffix(f".tmp{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save(_without_neighbours(content), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        # torch says where in its code it failed, while it handles what the system says
        system = error if isinstance(error, OSError) else error.__context__
        reason = (system.strerror if isinstance(system, OSError) else None) or error
        left = "the earlier one is intact" if path.exists() else "there is no earlier one"
        raise CheckpointError(f"{path}: cannot be written ({reason}). Free some space; {left}.") from error


def _without_neighbours(value: Any) -> Any:
    """Return content in which no tensor is a view of a larger one: torch would write all of that."""
    if type(value) in (torch.Tensor, torch.nn.Parameter):
        is_view = value.untyped_storage().nbytes() > value.numel() * value.element_size()
        return value.detach().clone() if is_view else value
    if type(value) in (list, tuple) and value and not isinstance(value[0], int | float):
        return type(value)(map(_without_neighbours, value))
    if isinstance(value, dict):
        return type(value)((key, _without_neighbours(item)) for key, item in value.items())
    return value


def find_misfit(path: Path, model: nn.Module) -> str:
    """Return the first weight of a checkpoint that does not fit a model, in words; "" when all fit."""
    return _misfit(read_checkpoint(path, mmap=True), model)


def other_groups(saved: Mapping[str, Any], optimizer: Optimizer) -> str:
    """Return in which way the groups of a saved optimizer are others, in words; "" when they are the same."""
    had, has = (
        [f"{group.get('name')} ({len(group['params'])} tensors)" for group in groups]
        for groups in (saved["param_groups"], optimizer.param_groups)
    )
    return f"it has {listed(had)}, and here are {listed(has)}" if had != has else ""


def _misfit(content: dict[str, Any], model: nn.Module) -> str:
    saved, wanted = content["model"], model.state_dict()
    for name in [*wanted, *saved]:
        if name not in saved or name not in wanted:
            return f"{name} is only in the {'model' if name in wanted else 'checkpoint'}"
        if saved[name].shape != wanted[name].shape:
            return f"{name} has shape {list(saved[name].shape)} in the checkpoint and {list(wanted[name].shape)} here"
    return ""


def read_checkpoint(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """Return the content of a checkpoint, tensors on the CPU, mapped from the file instead of read with `mmap`.

    Raises:
        CheckpointError: there is no such file, or it is not a checkpoint of ours.
    """
    try:
        _declare_known_classes(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint.") from None
    except Exception as error:
        raise CheckpointError(f"{path}: not a readable checkpoint ({type(error).__name__}).") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or "model" not in content:
        raise CheckpointError(f"{path}: not a checkpoint of this version (format {FORMAT}).")
    return content


def _declare_known_classes(path: Path) -> None:
    """Import the packages whose tensors are in a checkpoint, if known: then they tell torch that these are no code."""
    packages = {name.partition(".")[0] for name in torch.serialization.get_unsafe_globals_in_checkpoint(path)}
    for package in packages & _KNOWN.keys():
        with suppress(ImportError):
            importlib.import_module(_KNOWN[package])
