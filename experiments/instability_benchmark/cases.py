"""The cases of the benchmark, as benchmark.yaml spells them, and the half that each belongs to."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import numpy as np
import yaml
from making import Case
from rigged import SETTINGS, Fault

Half = Literal["dev", "test"]

PAGE = Path(__file__).with_name("benchmark.yaml")
BEST = Path(__file__).with_name("best_lrs.yaml")
OPTIMIZERS = ("sgd", "momentum", "adamw")
SMALLER = 5  # times fewer runs where few are wanted
SPOILED_FROM, SPOILED_TO = 0.3, 0.85  # share of a run in which faults happen at a step drawn by the seed


@functools.cache
def declared() -> dict[str, Any]:
    """Return benchmark.yaml."""
    page: dict[str, Any] = yaml.safe_load(PAGE.read_text(encoding="utf-8"))
    return page


@functools.cache
def tuned() -> dict[str, dict[str, Any]]:
    """Return task -> optimizer -> its best learning rate, tuned losses and their deviation."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(BEST.read_text(encoding="utf-8"))
    return found


@functools.cache
def best_lrs() -> dict[str, dict[str, float]]:
    """Return task -> optimizer -> best learning rate."""
    return {task: {optimizer: known["lr"] for optimizer, known in by.items()} for task, by in tuned().items()}


def half(case: Case) -> Half:
    """Return the half that a case belongs to."""
    is_dev = any(first <= case.seed < last for first, last, *_ in declared()["split"]["dev"])
    return "dev" if is_dev else "test"


def cases(only: Half | None = None, *, small: bool = False) -> list[Case]:
    """Return every case once, in the order of the page.

    Args:
        only: one half; None both.
        small: a fifth of the first seed of each half, of the cheap tasks.
    """
    found: dict[str, Case] = {}
    for group in declared()["groups"]:
        for case in _of_group(group, small=small):
            if only in (None, half(case)) and not (small and crc32(case.name.encode()) % SMALLER):
                found.setdefault(case.name, case)
    return list(found.values())


def twin(case: Case) -> Case | None:
    """Return the run that a case is compared with for its label; None where its outcome alone decides."""
    if case.family == "no_warmup":
        return case._replace(family="twin", warmup=0.25)
    if case.family == "edge":
        return case._replace(family="twin", multiple=case.multiple / 4)
    if case.family == "spoiled":
        return case._replace(family="twin", fault=Fault())
    if case.family == "exploding":
        return case._replace(family="twin", clip_norm=1.0)
    if case.family == "late":
        share = declared()["labels"]["late_share"]
        return case._replace(family="twin", cut_at=share)
    return None


def _of_group(group: Mapping[str, Any], *, small: bool) -> Iterator[Case]:
    tasks = [task for task in group["tasks"] if not small or task in ("digits_mlp", "cancer")]
    grid = product(
        tasks,
        group.get("optimizers", OPTIMIZERS),
        group.get("multiples", [1]),
        group.get("options", [{}]),
        group.get("faults", [{"kind": "none"}]),
    )
    for task, optimizer, multiple, options, fault in grid:
        for seed in _seeds(group["seeds"], f"{task} {optimizer} {multiple} {options} {fault}", small=small):
            case = Case(group["family"], task, optimizer, seed, float(multiple), **options)
            if optimizer in tuned().get(task, {}) and not (half(case) == "dev" and _is_only_tested(case)):
                yield case._replace(fault=_fault(fault, case))


def _seeds(counts: Mapping[str, int], spelled: str, *, small: bool) -> Iterator[int]:
    split = declared()["split"]
    for first, last, name, *how in [*split["dev"], *split["test"]]:
        begin = crc32(spelled.encode()) if how == ["spread"] else 0
        for index in range(1 if small else counts[name]):
            yield first + (begin + index) % (last - first)


def _is_only_tested(case: Case) -> bool:
    return case.optimizer in declared()["split"]["only_test"].get(case.task, [])


def _fault(spelled: Mapping[str, Any], case: Case) -> Fault:
    """Return the fault at steps that the seed draws; a count of -1 is from there to the end."""
    count, total = spelled.get("count", 0), case.steps or SETTINGS[case.task].steps
    share = np.random.default_rng([case.seed, *map(ord, spelled["kind"])]).uniform(SPOILED_FROM, SPOILED_TO)
    first = int(share * total)
    steps = tuple(range(first, total if count == -1 else first + count)) if count else ()
    return Fault(spelled["kind"], steps, float(spelled.get("size", 1.0)))
