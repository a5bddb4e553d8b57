"""A sweep on the terminal: one live table while it runs, a row a job; one table of its settings at the end."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from runner.errors import in_words
from runner.sweep_summary import Setting, Spread, in_numbers
from runner.tracking.stderr import GatheredStderr
from runner.tracking.sweep_file import Job, JobState, Sweep
from runner.tracking.sweep_runs import DONE
from runner.tracking.tables import clock, rounded

POLL_SECONDS = 0.5
_WIDE = 200  # columns, where no terminal limits them
_MOST_SETTINGS = 50
_FRAME_LINES = 8  # title, head, rules, caption and the line of the cursor
_BESIDE_CELL = 3  # columns of padding and rule that a cell takes besides its text
_NARROWEST_VERDICT = 8  # columns
_COLOURS = {
    "running": "cyan",
    "finished": "green",
    "diverged": "red",
    "failed": "red",
    "interrupted": "yellow",
    "pruned": "dim",
}


class SweepTable:
    """Shows how far the jobs are: on a terminal as a live table, elsewhere a line when a job ends.

    Args:
        sweep: its jobs.
        states: returns the state of every job, in order.
        stderr: what jobs say on standard error is shown above the table.
        quiet: no table and no lines, only what jobs say on standard error.
        total: jobs that there will be; None for those of the sweep.
    """

    def __init__(
        self,
        sweep: Sweep,
        states: Callable[[], list[JobState]],
        *,
        stderr: GatheredStderr,
        quiet: bool = False,
        total: int | None = None,
    ) -> None:
        self._sweep = sweep
        self._total = total or 0
        self._states = states
        self._stderr = stderr
        self._console = Console(file=sys.stdout, highlight=False)  # jobs send sys.stdout elsewhere meanwhile
        self._quiet = quiet
        self._is_live = self._console.is_terminal and not quiet
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._has_complained = False
        self._started = time.monotonic()
        before = states()
        self._ended = {i for i, state in enumerate(before) if state.status in DONE}
        self._failed_before = {i: _end(state) for i, state in enumerate(before) if state.status == "failed"}

    def __enter__(self) -> Self:
        if self._is_live:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        try:
            self._try(self._show)
        finally:
            if self._is_live:
                self._try(self._live.stop)

    def grow(self, sweep: Sweep) -> None:
        """Show a sweep that has more jobs; `states` knows them already."""
        self._sweep = sweep

    def _poll(self) -> None:
        while not self._over.wait(POLL_SECONDS):
            self._try(self._show)

    def _try(self, draw: Callable[[], None]) -> None:
        """Draw; what goes wrong is told once, for the jobs go on whether they are seen or not."""
        try:
            draw()
        except Exception as error:
            if not self._has_complained:
                self._has_complained = True
                self._stderr.say(f"warning sweep: the table is not drawn ({in_words(error)}). The jobs go on.")

    def _show(self) -> None:
        sweep = self._sweep
        now = enumerate(self._states()[: len(sweep.jobs)])  # more jobs may come in between
        states = [JobState() if _end(state) == self._failed_before.get(i) else state for i, state in now]
        for line in self._stderr.new_lines():
            if self._is_live and os.isatty(self._stderr.terminal):
                self._console.print(escape(line), style="yellow")
            else:
                self._stderr.say(line)
        if self._quiet:
            return
        if self._is_live:
            seconds = time.monotonic() - self._started
            rows = max(3, self._console.height - _FRAME_LINES)
            table = live_table(sweep, states, rows=rows, width=self._console.width, seconds=seconds)
            # the cursor waits on a line of its own, where the ^C of the terminal is erased with the frame
            self._live.update(Group(table, ""), refresh=True)
            return
        for i, (job, state) in enumerate(zip(sweep.jobs, states, strict=True)):
            if _has_ended(state) and i not in self._ended:
                self._ended.add(i)
                self._console.print(escape(_line(job, state, max(self._total, len(sweep.jobs)))), soft_wrap=True)


def live_table(sweep: Sweep, states: Sequence[JobState], *, rows: int, width: int, seconds: float) -> Table:
    """Return the table of jobs; when there are more than rows, the running ones, the best and the latest.

    Number, what varied and status are always there. Of the rest, what the width allows: val loss, step and loss, in
    this order, and the verdict in what is left.
    """
    shown = choose_rows(states, most=rows)
    done = sum(_has_ended(state) for state in states)
    table = Table(
        title=f"sweep {escape(sweep.id)}: {done} of {len(states)} jobs in {_clock(seconds)}",
        title_justify="left",
        title_style="bold",
        caption=in_numbers(Counter(state.status for state in states)) if len(shown) < len(states) else None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    jobs, now = [sweep.jobs[index] for index in shown], [states[index] for index in shown]
    keys = _keys([job.varied for job in sweep.jobs])
    columns = {
        "job": [str(job.number) for job in jobs],
        **{key: [job.varied.get(key, "") for job in jobs] for key in keys},
        "status": [state.status for state in now],
    }
    numbers = {"val loss": [number(state.val_loss) for state in now]} if _has_val(states) else {}
    numbers |= {"step": [_steps(state) for state in now], "loss": [number(state.loss) for state in now]}
    left = width - 1 - sum(_cost(name, cells) for name, cells in columns.items())
    for name, cells in numbers.items():
        if (cost := _cost(name, cells)) <= left:
            columns[name] = cells
            left -= cost
    for name in columns:
        look: dict[str, Any] = {"overflow": "fold"} if name in keys else {"no_wrap": True}
        table.add_column(escape(name), justify="left" if name in (*keys, "status") else "right", **look)
    if has_verdict := left >= _NARROWEST_VERDICT + _BESIDE_CELL:
        table.add_column("verdict", no_wrap=True, overflow="ellipsis", max_width=left - _BESIDE_CELL)
    for row, state in enumerate(now):
        texts = {name: escape(cells[row]) for name, cells in columns.items()}
        texts["status"] = f"[{_COLOURS.get(state.status, 'dim')}]{state.status}[/]"
        table.add_row(*texts.values(), *([escape(_verdict(state))] if has_verdict else []))
    return table


def choose_rows(states: Sequence[JobState], *, most: int) -> list[int]:
    """Return which jobs to show, in order: all, or the running ones, then the best, the latest, and the next."""
    indices = range(len(states))
    if len(states) <= most:
        return list(indices)
    running = [i for i in indices if states[i].status == "running"]
    finished = [i for i in indices if states[i].status == "finished"]
    best = sorted(finished, key=lambda i: (math.isnan(states[i].final_loss), states[i].final_loss))
    latest = [i for i in reversed(indices) if _has_ended(states[i])]
    waiting = [i for i in indices if states[i].status == "waiting"]
    order = [*running, *best[: most // 3], *latest[: most // 2], *waiting, *latest]
    return sorted(list(dict.fromkeys(order))[:most])


def print_settings(settings: Sequence[Setting], loss_name: str) -> None:
    """Print what the sweep found, the best setting first."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDE
    table = Table(box=box.SIMPLE_HEAD)
    keys = _keys([setting.varied for setting in settings])
    has_best = any(not math.isnan(setting.best.mean) for setting in settings)
    for key in keys:
        table.add_column(escape(key), overflow="fold")
    table.add_column("seeds", justify="right")
    for name in (f"final {loss_name}", *([f"best {loss_name}"] if has_best else [])):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    for setting in settings[:_MOST_SETTINGS]:
        values = [escape(setting.varied.get(key, "")) for key in keys]
        spreads = [setting.final, *([setting.best] if has_best else [])]
        is_bad = bool({"diverged", "failed"} & setting.statuses.keys())
        table.add_row(
            *values, str(setting.seeds), *map(_spread, spreads), setting.verdict, style="red" if is_bad else ""
        )
    console.print(table)
    if len(settings) > _MOST_SETTINGS:
        console.print(f"… and {len(settings) - _MOST_SETTINGS:,} more in sweep.json")


def number(value: float) -> str:
    """Return a loss in four digits; "" for nan."""
    return "" if math.isnan(value) else rounded(value)


def _spread(spread: Spread) -> str:
    if math.isnan(spread.mean):
        return "-"
    return number(spread.mean) if math.isnan(spread.sd) else f"{number(spread.mean)} ± {number(spread.sd)}"


def _cost(name: str, cells: Sequence[str]) -> int:
    """Return the columns of the terminal that a column of the table takes."""
    return max(cell_len(text) for text in (name, *cells)) + _BESIDE_CELL


def _has_val(states: Sequence[JobState]) -> bool:
    return any(not math.isnan(state.val_loss) for state in states)


def _has_ended(state: JobState) -> bool:
    return state.status in (*DONE, "failed")


def _keys(varied: Sequence[Mapping[str, str]]) -> list[str]:
    return list(dict.fromkeys(key for one in varied for key in one))


def _steps(state: JobState) -> str:
    return f"{state.steps:,}/{state.planned_steps:,}" if state.planned_steps else ""


def _end(state: JobState) -> tuple[str, str | None, str]:
    """Return what tells one end of a job from another."""
    return state.status, state.run, state.verdict


def _verdict(state: JobState) -> str:
    if state.status == "finished":
        return _clock(state.seconds)
    return " ".join(state.verdict.split()).removeprefix("diverged: ")


def _line(job: Job, state: JobState, jobs: int) -> str:
    """Return what is said of a job that has ended; one that failed before its run began has made no steps."""
    name = f" ({job.name})" if job.name else ""
    verdict = " ".join(state.verdict.split())
    if not verdict.startswith(state.status):
        verdict = f"{state.status}: {verdict}"
    text = f"job {job.number}/{jobs}{name}: {verdict}"
    if state.status == "finished":
        text += f", loss {number(state.final_loss)}"
    return text + (f", {_steps(state)} steps in {state.seconds:.1f} s" if state.planned_steps else "")


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return clock(seconds) if round(seconds) >= 3600 else f"{clock(seconds)} min"
