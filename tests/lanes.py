"""Runs made alone and in lanes, to be compared."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from runner.build import Experiment, build
from runner.job import checked
from runner.lanes.engine import fit_lanes
from runner.lanes.lane import Lane
from runner.records import Record, StepRecord
from runner.train.checkpoint import Checkpoints
from runner.train.loop import fit
from runner.train.seeding import seed_everything
from runner.train.state import TrainState
from tests.pages import composed

SMALL = ["task.hidden=[16]", "train.duration=30", "train.eval_every=10", "train.checkpoint_every=null"]


def make(*overrides: str) -> Experiment:
    """Return an experiment of 30 steps of a small net."""
    return build(checked(composed(*SMALL, *overrides)))


def made(*lrs: float, overrides: tuple[str, ...] = ()) -> list[Experiment]:
    """Return the same with several learning rates."""
    return [make(f"optimizer.lr={lr}", *overrides) for lr in lrs]


class Made(NamedTuple):
    """What a run left behind."""

    experiment: Experiment
    state: TrainState
    records: list[Record]

    @property
    def losses(self) -> list[float]:
        return [record.loss for record in self.records if isinstance(record, StepRecord)]


class Double:
    """A task whose numbers are float64."""

    def __init__(self, task: Any) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def batch(self, step: int, split: str, part: tuple[int, int] = (0, 1)) -> Any:
        return tree_map(_doubled, self._task.batch(step, split, part))


def doubled(experiment: Experiment) -> Experiment:
    """Return an experiment in float64; the optimizer keeps its parameters, and what state it was made with."""
    experiment.model.double()
    for state in experiment.optimizer.state.values():
        state.update({name: value.double() for name, value in state.items() if isinstance(value, Tensor)})
    return experiment._replace(task=Double(experiment.task))


def alone(experiment: Experiment, directory: Path) -> Made:
    """Train by `fit`."""
    records: list[Record] = []
    seed_everything(0)
    state = fit(**experiment.parts(), checkpoints=Checkpoints(directory), on_record=records.append)
    return Made(experiment, state, records)


def in_lanes(
    experiments: Sequence[Experiment], directory: Path, *, width: int = 8, shares: bool = True, **given: Any
) -> list[Made]:
    """Train in lanes, with one task object for all where they share it."""
    records: list[list[Record]] = [[] for _ in experiments]

    def lanes() -> Iterator[Lane]:
        for index, experiment in enumerate(experiments):
            parts = {**experiment.parts(), **({"task": experiments[0].task} if shares else {})}
            seed_everything(0)  # as the making of a model just before would
            yield Lane(parts, Checkpoints(directory / str(index)), records[index].append)

    found = []
    for experiment, outcome, those in zip(experiments, fit_lanes(lanes(), width=width, **given), records, strict=True):
        if isinstance(outcome, Exception):
            raise outcome
        found.append(Made(experiment, outcome, those))
    return found


def farthest(one: Made, other: Made, *, relative: bool = True) -> float:
    """Return the largest difference between weights and buffers, in units of the largest of the tensor."""
    states = one.experiment.model.state_dict(), other.experiment.model.state_dict()
    assert states[0].keys() == states[1].keys()
    found = [0.0]
    for a, b in zip(states[0].values(), states[1].values(), strict=True):
        size = float(a.abs().max()) if relative else 1.0
        found.append(float((a.double() - b.double()).abs().max()) / max(size, 1e-12))
    return max(found)


def nudged(experiment: Experiment, seed: int) -> Experiment:
    """Return an experiment whose weights begin about one part in 1e7 beside: the last digit of float32."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in experiment.model.parameters():
            parameter.mul_(1 + 1e-7 * torch.randn(parameter.shape, generator=generator))
    return experiment


def losses_apart(one: Made, other: Made) -> float:
    """Return the largest relative difference between the losses of two runs."""
    return max(abs(a - b) / abs(a) for a, b in zip(one.losses, other.losses, strict=True))


def calm(records: Sequence[Record], times: float = 3.0) -> list[Record]:
    """Return the records until the loss is so many times the first one; after that the last digit grows with it."""
    first = next(record.loss for record in records if isinstance(record, StepRecord))
    found = list[Record]()
    for record in records:
        if isinstance(record, StepRecord) and not record.loss <= times * first:
            break
        found.append(record)
    return found


def told(records: Sequence[Record]) -> tuple[list[Any], list[float]]:
    """Return what records tell beside the time: words, and numbers, which may differ in the last digits."""
    leaves = tree_leaves([{"kind": type(record).__name__, **asdict(record), "time_ms": 0} for record in records])
    numbers = [leaf for leaf in leaves if isinstance(leaf, float)]
    return [leaf for leaf in leaves if not isinstance(leaf, float) and not _has_digits(leaf)], numbers


def _has_digits(leaf: Any) -> bool:
    return isinstance(leaf, str) and any(map(str.isdigit, leaf))


def _doubled(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
