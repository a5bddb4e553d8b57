"""Map-style data sets as they are given: what is wrong with them, their splits, their fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from runner.errors import ConfigError, Problem
from runner.tasks.described import first_line
from runner.tasks.items import Collate, Items, Request, Rows, Unreadable

SPLIT_SEED = 0
_TO_INDEX = "Give each example an index: batches are a function of the step, so that runs resume and repeat"


def find_fault(key: str, data: Any) -> Problem | None:
    """Return why a data set cannot be used, None when it can."""
    name = type(data).__name__
    if isinstance(data, IterableDataset):
        return Problem(key, f"must be a map-style data set, got the IterableDataset {name}", _TO_INDEX)
    get = getattr(type(data), "__getitem__", None)
    if not hasattr(data, "__len__") or get is None or get is Dataset.__getitem__:
        return Problem(key, f"must be a data set with __len__ and __getitem__, got {name} without", _TO_INDEX)
    try:
        length = len(data)
    except (Exception, SystemExit) as error:
        return Problem(key, f"must have a length, but {name} says: {first_line(error)}", "Mend its __len__")
    empty = Problem(key, f"must have at least one example, got an empty {name}", "Look at its arguments")
    return None if length else empty


def split_members(data: Mapping[str, Any], val_fraction: float) -> dict[str, Tensor]:
    """Return split -> positions in its data set; a share of `train` validates where there is no `val`."""
    members = {name: torch.arange(len(given)) for name, given in data.items()}
    if "val" in data or val_fraction == 0:
        return members
    total = len(data["train"])
    count = round(total * val_fraction)
    if not 0 < count < total:
        rule = f"must leave examples on both sides, got {val_fraction} of {total} examples"
        fix = "Set another share, task.val, or task.val_fraction=0 for no validation"
        raise ConfigError([Problem("task.val_fraction", rule, fix)])
    order = torch.randperm(total, generator=torch.Generator().manual_seed(SPLIT_SEED))
    return {**members, "val": order[:count].sort().values, "train": order[count:].sort().values}


def reader_of(data: Any, key: str, entropy: Sequence[int], collate: Collate | None) -> Items | Rows:
    """Return what reads batches of a data set: rows of tensors where it is nothing but tensors, else item by item."""
    if type(data) is TensorDataset and collate is None:
        return Rows(data.tensors)
    return Items(data, key=key, entropy=entropy, collate=collate)


def fingerprint_of(data: Mapping[str, Any], members: Mapping[str, Tensor], collate: Collate | None) -> str:
    """Return a fingerprint of lengths and of the first, middle and last item of every split, the same for every seed.

    Raises:
        ConfigError: one of them cannot be read; the first of every data set is named.
    """
    digest, problems = hashlib.sha256(), dict[str, Problem]()
    for name, those in members.items():
        digest.update(f"{name} {len(those)}".encode())
        source = name if name in data else "train"
        reader = reader_of(data[source], f"task.{source}", (0,), collate)
        for index in sorted({0, len(those) // 2, len(those) - 1}):
            batch = reader[Request(0, [int(those[index])])]
            if isinstance(batch, Unreadable):
                problems.setdefault(source, batch.problem)
                break
            for leaf in tree_leaves(dict(batch) if isinstance(batch, Mapping) else batch):
                if isinstance(leaf, Tensor):
                    digest.update(leaf.detach().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
                elif isinstance(leaf, str | bytes | int | float):
                    digest.update(repr(leaf).encode())
    if problems:
        raise ConfigError(problems.values())
    return digest.hexdigest()[:16]


def targets_in_memory(reader: Items | Rows) -> Tensor | None:
    """Return the targets where they lie in memory."""
    return reader.tensors[-1] if isinstance(reader, Rows) else None
