"""What a job of a sweep came to, as a study is told of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from runner.search.trials import Ended
from runner.tracking.jsonl import find_result, first_loss
from runner.tracking.sweep_file import JobState


def ended_of(state: JobState, metrics: Sequence[str]) -> Ended:
    """Return what a job that has ended came to, as a study wants it.

    Args:
        state: of the job; its run is read from the directory of launch.
        metrics: that the study is about.
    """
    directory = Path(state.run) if state.run is not None else None
    first = first_loss(directory) if directory is not None else math.nan
    ended = Ended(state.status, (), state.steps, first, state.verdict, state.run or "")
    result = find_result(directory) if directory is not None else None
    if state.status != "finished" or result is None:
        return ended
    missing = [name for name in metrics if name not in result.final]
    if missing:
        text = f"reports no {', '.join(missing)}, only {', '.join(result.final)}"
        return ended._replace(status="failed", verdict=text)
    return ended._replace(values=tuple(float(result.final[name]) for name in metrics))
