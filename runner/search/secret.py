"""The password in the address of a study: kept where only its owner reads it, and out of everything that is shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.search.judge import read_judge
from runner.tracking.address import shown
from runner.tracking.sweep_file import key_of

_KEYS = ("search.storage", "hydra.sweeper.storage")


def without_password(overrides: Iterable[str]) -> tuple[str, ...]:
    """Return overrides as they are recorded: the password of a storage hidden."""
    return tuple(shown(text) if _inside(text) is not None else text for text in overrides)


def with_password(overrides: Iterable[str], directory: Path) -> tuple[str, ...]:
    """Return recorded overrides with the password that the directory of the sweep keeps, as far as it does.

    Args:
        overrides: as `without_password` made them.
        directory: of the sweep.
    """
    kept = read_judge(directory)
    found = []
    for text in overrides:
        inside = _inside(text)
        value = _at(kept["storage"], inside) if kept is not None and inside is not None else None
        found.append(text.replace(shown(value), value) if isinstance(value, str) else text)
    return tuple(found)


def _inside(text: str) -> Sequence[str] | None:
    """Return the keys below that of a storage which an override sets, None where it is about something else."""
    key = key_of(text)
    root = next((root for root in _KEYS if key == root or key.startswith(f"{root}.")), None)
    return None if root is None else key.removeprefix(root).split(".")[1:]


def _at(storage: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        storage = storage.get(key) if isinstance(storage, Mapping) else None
    return storage
