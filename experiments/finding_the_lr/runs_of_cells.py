"""One run of a cell: its page with another learning rate, seed and length, trained without a run directory."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from runner.build import build
from runner.check import check
from runner.compose import compose_leniently
from runner.config import Config
from runner.estimate import WeighedCheckpoints
from runner.records import EvalRecord, Record, StepRecord
from runner.train.loop import fit
from runner.variants import find_facts

PAGE: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("cells.yaml").read_text(encoding="utf-8"))


class CellRun(NamedTuple):
    """What one run came to.

    Attributes:
        lr: base learning rate.
        seed: the run's.
        share: length over that of the full run; the schedule is as much shorter.
        loss: on the val split at the end; nan where it was stopped.
        status: finished or diverged, interrupted where it was pruned.
        first_loss: training loss before the first update.
        steps: updates made.
        planned_steps: updates declared.
        evals: (step, loss on the val split), four of them.
    """

    lr: float
    seed: int
    share: float
    loss: float
    status: str
    first_loss: float
    steps: int
    planned_steps: int
    evals: list[tuple[int, float]]


@functools.cache
def page_of(cell: str, *others: str) -> Config:
    """Return the checked page of a cell, with further overrides."""
    tree, problems, _ = compose_leniently([*PAGE["cells"][cell]["overrides"], *PAGE["shared"], *others])
    return check(tree, find_facts=find_facts, problems=problems)


@functools.cache
def full_steps(cell: str) -> int:
    """Return the length of the full run."""
    return build(page_of(cell)).plan.steps


def train(
    cell: str,
    lr: float,
    seed: int,
    *,
    share: float = 1.0,
    is_pruned: Callable[[int, float], bool] = lambda step, loss: False,
    others: tuple[str, ...] = (),
) -> CellRun:
    """Train a cell; `is_pruned` is asked after every evaluation whether to stop (step, loss on the val split)."""
    page = page_of(cell, *others)
    steps = max(1, round(share * full_steps(cell)))
    made = page.optimizer.model_copy(update={"lr": lr})
    length = page.train.model_copy(update={"duration": steps})
    experiment = build(page.model_copy(update={"optimizer": made, "seed": seed, "train": length}))
    losses: list[float] = []
    evals: list[tuple[int, float]] = []
    verdicts: list[str] = []

    def on_record(record: Record) -> None:
        if isinstance(record, StepRecord):
            losses.append(record.loss)
        elif isinstance(record, EvalRecord):
            evals.append((record.step, record.metrics["loss"]))
            if is_pruned(*evals[-1]):
                verdicts.append("pruned")

    state = fit(
        **experiment.parts(),
        checkpoints=WeighedCheckpoints(Path(os.devnull)),
        on_record=on_record,
        interrupted=lambda: verdicts[0] if verdicts else None,
    )
    loss = evals[-1][1] if evals and state.status != "diverged" else math.nan
    return CellRun(lr, seed, share, loss, state.status, losses[0], state.step, steps, evals)
