"""What is known of a run at its end."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from signal import Signals
from typing import Any

from runner.diagnosis.curve import Known
from runner.known import known_of_page
from runner.records import RunResult
from runner.remedies.scale_lr import changes
from runner.remedies.tally import tally
from runner.tracking.directory import TRACEBACK, pasteable
from runner.tracking.jsonl import write_result
from runner.train.state import TrainState


def failed_result(result: RunResult, error: BaseException) -> RunResult:
    """Return the result of a run that an error ended."""
    if isinstance(error, KeyboardInterrupt):
        return replace(result, status="interrupted", verdict=f"interrupted at step {result.steps}")
    return replace(result, status="failed", verdict=f"failed at step {result.steps}: {one_line(error)}")


def final_result(result: RunResult, state: TrainState, seconds: float, signal: Signals | None) -> RunResult:
    """Return the result of a run that has ended, as its state says."""
    final = {"train/loss": state.last_loss, **{f"val/{name}": value for name, value in state.last_eval.items()}}
    return replace(
        result,
        status=state.status,
        verdict=state.verdict,
        steps=state.step,
        final=final,
        best=state.best,
        alarms=state.alarms,
        actions=len(state.actions),
        interventions=tally(state.actions, steps=state.step, planned_steps=result.planned_steps),
        learning_rate={**result.learning_rate, **changes(state.actions, lr_scale=state.lr_scale_now)},
        stopped_by=asdict(state.alarm) if state.alarm is not None else None,
        seconds=seconds,
        signal=signal,
    )


def known_at_end(tree: Mapping[str, Any], result: RunResult, directory: Path) -> Known:
    """Return what the page and the end tell about a run, for its diagnosis."""
    known = known_of_page(tree, result, directory=pasteable(directory))
    return replace(known, go_on=(*known.go_on, "train.max_seconds=null")) if result.is_out_of_time else known


def chose_tracking(result: RunResult) -> bool:
    """Whether the command line says where records are sent."""
    return any(text.startswith("tracking") for text in result.overrides)


def one_line(error: BaseException) -> str:
    """Return an error in one line, its type first."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def save_failure(directory: Path, result: RunResult) -> None:
    """Keep what can be kept; the disk may be what failed."""
    try:
        write_result(directory, result)
        (directory / TRACEBACK).write_text(traceback.format_exc(), encoding="utf-8")
    except OSError as error:
        print(f"warning {directory}: result.json could not be written ({error.strerror})", file=sys.stderr)
