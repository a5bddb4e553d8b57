"""What a run came to, as a study wants it: read from its directory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from runner.search.trials import Ended
from runner.tracking.jsonl import find_result, first_loss


def ended_of(status: str, run: str | None, metrics: Sequence[str], *, steps: int = 0, verdict: str = "") -> Ended:
    """Return what a trial came to.

    Args:
        status: finished, diverged, pruned or failed.
        run: its run directory; None or "" where there is none.
        metrics: that the study is about; a run that reports one of them not has failed.
        steps: updates made.
        verdict: one phrase a person can read; that of the run where it is empty.
    """
    directory = Path(run) if run else None
    result = find_result(directory) if directory is not None else None
    first = first_loss(directory) if directory is not None else math.nan
    verdict = verdict or (result.verdict if result is not None else "")
    ended = Ended(status, (), steps, first, verdict, run or "")
    if status != "finished" or result is None:
        return ended
    if missing := [name for name in metrics if name not in result.final]:
        text = f"reports no {', '.join(missing)}, only {', '.join(result.final)}"
        return ended._replace(status="failed", verdict=text)
    return ended._replace(values=tuple(float(result.final[name]) for name in metrics))
