"""What stands in for a wrong value while the rest of its section is checked; never trained with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.nodes import is_node

SAFE: Mapping[str, Any] = {
    "seed": 0,
    "resume": {"from": None, "sweep": None, "checkpoint": "last"},
    "preview": {"schedules": [], "directory": None},
    "sweep": {
        "space": {},
        "low": None,
        "high": None,
        "points": None,
        "seeds": 1,
        "backend": "auto",
        "lanes": 1,
        "jobs": None,
    },
    "search": {
        "space": {},
        "n_trials": 1,
        "metric": [],
        "direction": [],
        "study_name": None,
        "storage": None,
        "custom_search_space": None,
        "max_failure_rate": 1.0,
        "known": [],
        "prune_after": 25.0,
    },
    "source": {
        "path": None,
        "values": None,
        "columns": {"step": None, "loss": None, "lr": None, "grad_norm": None, "val_loss": None},
    },
    "monitor": {"signals_every": 20, "sharpness": {"every": None, "examples": 128, "iterations": 3}},
    "train": {
        "duration": 1,
        "batch_size": 1,
        "accumulate": 1,
        "clip_norm": None,
        "precision": "fp32",
        "compile": False,
        "device": "cpu",
        "deterministic": False,
        "threads": None,
        "eval_every": None,
        "checkpoint_every": None,
        "early_stop": {"metric": "loss", "patience": None, "min_delta": 0.0},
        "max_seconds": None,
        "watch_every": 1,
        "ema_decay": None,
        "refresh_batches": 1,
    },
}
_OF_NODES: Mapping[str, Any] = {"lr": 1.0}  # what has no default
Place = tuple[int | str, ...]


def with_stand_ins(key: str, value: Any, wrong: list[Place]) -> Any:
    """Return a section with its wrong values replaced, so that its other rules can be checked.

    Args:
        key: of the section.
        value: as written.
        wrong: where its wrong values lie; () is the section itself.
    Returns:
        the section; as written where there is nothing to put into its place.
    """
    if key in SAFE:
        return _repaired(value, wrong, SAFE[key])
    if not is_node(value):
        return value
    names = {str(place[0]) for place in wrong if place}
    kept = {name: item for name, item in value.items() if name not in names}
    return kept | {name: item for name, item in _OF_NODES.items() if name in names}


def _repaired(value: Any, wrong: list[Place], safe: Any) -> Any:
    if not isinstance(safe, Mapping) or not isinstance(value, Mapping) or () in wrong:
        return safe
    below: dict[str, list[Place]] = {}
    for first, *rest in wrong:
        below.setdefault(str(first), []).append(tuple(rest))
    return {
        name: _repaired(value.get(name), below[name], substitute) if name in below else value.get(name, substitute)
        for name, substitute in safe.items()
    }
