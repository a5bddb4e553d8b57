"""What a study is about: its space, and the page without what varies. Trials of another are not comparable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_MOST = 4  # differences in a message


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return what differs between two fingerprints, a phrase each, at most some.

    Args:
        old, new: as made by `fingerprint`.
    """
    found = [
        f"{_named(part, key)} is {_said(old.get(part), key)} there and {_said(new.get(part), key)} here"
        for part in ("space", "page", "goals")
        for key in sorted({*old.get(part, {}), *new.get(part, {})})
        if old.get(part, {}).get(key) != new.get(part, {}).get(key)
    ]
    more = [f"{len(found) - _MOST} more"] if len(found) > _MOST else []
    return [*found[:_MOST], *more]


def fingerprint(
    space: Mapping[str, str], page: Mapping[str, str], metrics: Sequence[str], directions: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Return what a study is about.

    Args:
        space: dotted key -> what it may be, alike however it is written.
        page: of the base of the space (`runner.search.page.page_of_task`).
        metrics, directions: what a trial is judged by.
    """
    goals = dict(zip(metrics, directions, strict=True))
    return {"space": dict(space), "page": dict(page), "goals": goals}


def _named(part: str, key: str) -> str:
    return f"the direction of {key}" if part == "goals" else f"the range of {key}" if part == "space" else key


def _said(part: Mapping[str, str] | None, key: str) -> str:
    return (part or {}).get(key, "absent")
