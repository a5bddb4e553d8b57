"""Config -> which weights are kept for the remedies."""

from __future__ import annotations

from collections.abc import Collection

from runner.config import Snapshots
from runner.durations import Clock, to_steps
from runner.remedies.protocol import INITIAL, SNAPSHOTS
from runner.train.plan import SnapshotPlan


def build_snapshots(snapshots: Snapshots, keeps: Collection[str], clock: Clock) -> SnapshotPlan | None:
    """Return which weights are kept for the remedies, None where none asks for any."""
    if not keeps:
        return None
    every = to_steps(snapshots.every, clock) if SNAPSHOTS in keeps else None
    return SnapshotPlan(every, snapshots.keep, keeps_initial=INITIAL in keeps, on_disk=snapshots.on_disk)
