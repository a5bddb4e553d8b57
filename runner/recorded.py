"""Schedules made from the records of an earlier run."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

from annotated_types import Gt, Le
from pydantic import validate_call

from runner.durations import TotalSteps, WarmupSteps
from runner.errors import refused
from runner.records import StepRecord
from runner.schedules import refined as formula
from runner.schedules.shape import Fraction, Schedule
from runner.tracking.directory import RECORDS
from runner.tracking.jsonl import read_records

_FIX = "Set .source=runs/<name>/<run>, a run that has recorded its gradient norms"


@validate_call
def refined(
    *,
    total_steps: TotalSteps,
    warmup_steps: WarmupSteps = 0,
    source: str,
    smoothing: Fraction = 0.1,
    power: Annotated[float, Gt(0), Le(2)] = 2.0,
) -> Schedule:
    """Refine a schedule by the gradient norms that a run with a plain one has recorded.

    The formula, and what of it is ours, stands with `runner.schedules.refined.refined`.

    Args:
        total_steps: T, steps of the run.
        warmup_steps: W; the body begins at t0 = max(W - 1, 0).
        source: directory of the earlier run.
        smoothing: width of the running median, as a share of its steps; in [0, 1].
        power: a, of 1 / norm; in (0, 2].
    Raises:
        ValueError: no run is there, or one that has recorded no gradient norms.
    Source: Defazio et al. 2023, arXiv:2310.07831, algorithm 1.
    """
    file = Path(source) / RECORDS
    if not source or not file.is_file():
        raise refused("source", f"must be a run directory with {RECORDS}, got {source!r}", _FIX)
    stamp = file.stat()
    smooth = _smooth_norms(file.parent.resolve(), smoothing, stamp.st_mtime_ns, stamp.st_size)
    return formula.refined(smooth, total_steps=total_steps, warmup_steps=warmup_steps, power=power)


@functools.lru_cache(maxsize=4)
def _smooth_norms(directory: Path, smoothing: float, _written_ns: int, _size: int) -> list[float]:
    """Return the smoothed norms; read once for all jobs of a multirun, and anew where the file has changed."""
    try:
        norms = [record.grad_norm for record in read_records(directory) if isinstance(record, StepRecord)]
    except ValueError as error:
        raise refused("source", f"must have readable records, but {error}", _FIX) from None
    return formula.smoothed(norms, smoothing=smoothing)
