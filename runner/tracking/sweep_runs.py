"""The runs of a sweep, found on disk by their tag and their overrides."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from runner.records import RunResult, read_non_finite
from runner.tracking.directory import RECORDS, RESULT, ROOT
from runner.tracking.jsonl import find_result
from runner.tracking.sweep_file import Job, JobState, Sweep

DONE = ("finished", "diverged", "pruned")  # nothing is left to do
KILLED = "killed"  # verdict of a run whose process is gone


class SweepRuns:
    """Looks again and again at what the jobs of a sweep have written.

    Args:
        sweep: its jobs.
        launch_directory: where `runs/` lies.
    """

    def __init__(self, sweep: Sweep, launch_directory: Path) -> None:
        self.sweep = sweep
        self._root = launch_directory
        self._foreign: set[Path] = set()
        self._views: dict[Path, _RunView] = {}
        self._keys = [sweep.key(job.overrides) for job in sweep.jobs]
        self._look()
        for view in self._views.values():
            view.is_old = True  # until it is written again

    def grow(self, jobs: Sequence[Job]) -> None:
        """Have more jobs in the sweep.

        Args:
            jobs: all of them, those so far first.
        """
        self._keys = [self.sweep.key(job.overrides) for job in jobs]
        self.sweep = replace(self.sweep, jobs=tuple(jobs))  # last: a thread that looks meanwhile sees the old ones

    def states(self, *, is_over: bool = False) -> list[JobState]:
        """Return the state of every job, in order.

        Args:
            is_over: whether no job runs any more, so that one that says so was killed.
        """
        self._look()
        return [self._state(view, is_over=is_over) for view in self._views_of_jobs()]

    def begun(self) -> set[int]:
        """Return the numbers of the jobs with a run that was written to since this was made, as `states` last saw."""
        views = zip(self.sweep.jobs, self._views_of_jobs(), strict=False)  # jobs may come in between
        return {job.number for job, view in views if view is not None and not view.is_old}

    def directories(self) -> list[Path]:
        """Return the directories of all runs found."""
        return list(self._views)

    def _views_of_jobs(self) -> list[_RunView | None]:
        """Return the latest run of every job, one that is done before all others."""
        by_key: dict[tuple[str, ...], _RunView] = {}
        for view in sorted(self._views.values(), key=lambda view: (view.is_done, view.directory.name)):
            by_key[view.key] = view
        return [by_key.get(key) for key in self._keys]

    def _state(self, view: _RunView | None, *, is_over: bool) -> JobState:
        if view is None:
            return JobState()
        state = view.state(os.path.relpath(view.directory, self._root))
        was_killed = state.status == "running" and (is_over or view.is_old)
        return replace(state, status="interrupted", verdict=KILLED) if was_killed else state

    def _look(self) -> None:
        for experiment in dict.fromkeys(job.experiment for job in self.sweep.jobs):
            folder = self._root / ROOT / experiment
            for path in folder.iterdir() if folder.is_dir() else ():
                if path in self._foreign or path in self._views:
                    continue
                result = find_result(path)
                if result is not None and result.tags.get("sweep") == self.sweep.id:
                    self._views[path] = _RunView(path, result, self.sweep.key(result.overrides))
                elif result is not None:
                    self._foreign.add(path)
        for view in self._views.values():
            view.update()


class _RunView:
    """One run directory, read again only where it has grown."""

    def __init__(self, directory: Path, result: RunResult, key: tuple[str, ...]) -> None:
        self.directory = directory
        self.result = result
        self.key = key
        self.is_old = False
        self._stamp = 0
        self._offset = 0
        self._steps = 0
        self._loss = self._val_loss = self._best = math.nan

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return self.result.status in DONE and not self.result.is_out_of_time

    def update(self) -> None:
        """Read what is new."""
        try:
            stamp = (self.directory / RESULT).stat().st_mtime_ns
        except OSError:
            return
        if stamp != self._stamp:
            self.is_old = False
            self._stamp = stamp
            self.result = find_result(self.directory) or self.result
        self._read_records()

    def state(self, run: str) -> JobState:
        """Return where the run stands."""
        result = self.result
        is_running = result.status == "running"
        is_val = "val" in result.dataset.get("examples", {})
        return JobState(
            status="interrupted" if result.is_out_of_time else result.status,
            verdict="" if is_running else result.verdict,
            run=run,
            steps=max(self._steps, result.steps) if is_running else result.steps,
            planned_steps=result.planned_steps,
            loss=self._loss,
            val_loss=self._val_loss,
            best_val_loss=self._best,
            final_loss=result.final.get("val/loss" if is_val else "train/loss", math.nan),
            is_val=is_val,
            seconds=result.seconds,
        )

    def _read_records(self) -> None:
        try:
            with (self.directory / RECORDS).open("rb") as file:
                file.seek(self._offset)
                text = file.read()
        except OSError:
            return
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        lines = whole.splitlines()
        last_step = next((line for line in reversed(lines) if line.startswith(b'{"kind":"step"')), None)
        with contextlib.suppress(ValueError, KeyError):  # a damaged line is named by whoever needs it whole
            if last_step is not None:
                data = json.loads(last_step)
                self._steps, self._loss = data["step"] + 1, read_non_finite(data["loss"])
        for line in lines:
            if line.startswith(b'{"kind":"eval"'):
                with contextlib.suppress(ValueError):
                    self._add_evaluation(json.loads(line))

    def _add_evaluation(self, data: dict[str, object]) -> None:
        metrics = data.get("metrics")
        loss = read_non_finite(metrics.get("loss")) if isinstance(metrics, dict) else None
        if data.get("split") == "val" and isinstance(loss, int | float):
            self._val_loss = loss
            if math.isfinite(loss) and not loss >= self._best:
                self._best = loss


def with_errors(states: Sequence[JobState], begun: Container[int], errors: Mapping[int, str]) -> list[JobState]:
    """Return the states with the failures of this launch that no run directory tells of; what is done stays done.

    Args:
        states: as found on disk, in the order of the jobs.
        begun: numbers of the jobs with a run of this launch.
        errors: job number -> why it failed.
    """
    return [
        replace(state, status="failed", verdict=errors[number])
        if number in errors and state.status not in DONE and (number not in begun or state.status == "interrupted")
        else state
        for number, state in enumerate(states, start=1)
    ]
