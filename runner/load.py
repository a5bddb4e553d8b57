"""A run directory -> the model that it trained."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from runner.build import available_devices, find_device, set_up_torch
from runner.build_task import build_task, make_task
from runner.config import Config, TaskNode
from runner.continue_run import saved_tree
from runner.durations import Clock
from runner.errors import ConfigError, MisfitError, Problem, RunnerError
from runner.nodes import Node
from runner.tasks.closing import in_use
from runner.tasks.protocol import Task
from runner.tracking.directory import CONFIG, ROOT
from runner.train.plan import TrainPlan
from runner.train.saved import Weights, find_checkpoint, load_weights
from runner.train.seeding import seed_everything
from runner.train.step import compiled, evaluate


def load_model(
    directory: str | Path, checkpoint: str = "best", *, device: str = "cpu", weights: Weights = "averaged"
) -> nn.Module:
    """Return the model of a run with the weights that it learned, in evaluation mode.

    Relative paths of the run's page are taken from where it was launched, the directory that holds `runs/`; a run that
    was moved out of it takes them from the current directory. The process is in that directory while the task is made.

    Args:
        directory: the run directory, such as "runs/digits/<run>".
        checkpoint: "best", "last", or the path of a checkpoint.
        device: where to put it: "cpu", "cuda", "cuda:1", "mps", or "auto" for the best there is.
        weights: "averaged" takes those of `train.ema_decay` or of a schedule-free optimizer where the run kept some,
            "raw" never does.

    Raises:
        RunnerError: no run, checkpoint or device of that name, or the task cannot be made here.
    """
    run = Path(directory).expanduser()
    page = saved_tree(run, key="directory")
    if page is None:
        raise RunnerError(
            f"directory: must be a run directory with {CONFIG}, got {str(run)!r}. Give a path under runs/."
        )
    path, place = find_checkpoint(run, checkpoint), _device(device)
    if weights not in ("averaged", "raw"):
        raise RunnerError(f"weights: must be averaged or raw, got {weights!r}.")
    # a model draws its first weights from the caller's generator
    with torch.random.fork_rng(devices=[]), _launch_directory(run):
        model = _task(page).model()
    load_weights(path, model, weights=weights)
    return model.to(place).eval()


def evaluate_checkpoint(
    config: Config, path: Path, split: str, *, weights: Weights = "averaged"
) -> tuple[int, dict[str, float]]:
    """Evaluate a checkpoint as the run itself does; return its updates, and loss and metrics of the split.

    Args:
        config: checked; its task makes the model and the data, its training section says where and how exactly.
        path: the checkpoint.
        split: one of the task; "train" is read once.
        weights: as for `load_model`.

    Raises:
        ConfigError: the checkpoint does not fit the model of the task.
        CheckpointError: it cannot be read.
    """
    train = config.train
    set_up_torch(train)
    task = build_task(config.task, batch_size=train.batch_size, seed=config.seed)
    plan = TrainPlan(steps=1, precision=train.precision, device=find_device(train.device), compile=train.compile)
    seed_everything(config.seed)
    model = task.model()
    try:
        step = load_weights(path, model, weights=weights)
    except MisfitError as error:
        rule = f"must fit the model, but {error.misfit}"
        raise ConfigError([Problem("mode.checkpoint", rule, "Evaluate the model that it was trained with")]) from None
    model.to(plan.device).eval()
    one_pass = Clock(train.batch_size, task.examples["train"]).steps_per_epoch if task.examples else 1
    with in_use(task):
        return step, evaluate(task, compiled(model, plan), plan, split, batches=one_pass if split == "train" else None)


def _launch_directory(run: Path) -> AbstractContextManager[None]:
    """Return the context of the directory that a run was launched in, that of the current one where it was moved."""
    above = run.resolve().parents[1:]
    return contextlib.chdir(above[1]) if above and above[0].name == ROOT else contextlib.nullcontext()


def _task(page: Mapping[str, Any]) -> Task:
    """Make the task of a saved page."""
    try:
        node = TaskNode.model_validate(page["task"])
        # in a process that lives long, the data behind a path may change
        return make_task(node, batch_size=page["train"]["batch_size"], seed=page["seed"])
    except (ValidationError, KeyError, TypeError) as error:
        raise RunnerError(f"directory: must have a readable {CONFIG}, but {error!r}.") from None
    except LookupError as error:
        rule, _, fix = (*error.args, "", "")[:3]
        raise RunnerError(
            f"directory: must be a run whose parts can be imported, but one of {', '.join(_targets(node))} {rule}. "
            f"{fix or 'Install it, or put its folder on PYTHONPATH'}."
        ) from None


def _targets(node: Node) -> list[str]:
    """Return what a node and its parts name."""
    parts = (Node.model_validate(part) for part in node.parts.values())
    return [node.target, *(target for part in parts for target in _targets(part))]


def _device(name: str) -> torch.device:
    there = available_devices()
    if name not in {"auto", *there, *(device.partition(":")[0] for device in there)}:
        raise RunnerError(f"device: must be auto or a device of this machine ({', '.join(there)}), got {name!r}.")
    return find_device(name)
