"""Runs as they are read from MLflow."""

from __future__ import annotations

from typing import NamedTuple


class TrackedRun(NamedTuple):
    """A run that is read: its name, its params, and the names of its metrics."""

    name: str
    params: dict[str, str]
    metrics: list[str]


class EndedRun(NamedTuple):
    """A run that has ended: its id, its directory where that is known, params, tags and last metrics."""

    run_id: str
    directory: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
