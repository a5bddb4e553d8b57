"""What a run says on the terminal: a line every few seconds, alarms at once, the verdict at the end."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.markup import escape

from runner.records import Action, Alarm, EvalRecord, Record, RunResult, StepRecord

SECONDS_BETWEEN_LINES = 2.0
_COLOURS = {"finished": "green", "diverged": "red", "interrupted": "yellow", "failed": "red"}


class Terminal:
    """Prints a run as it goes. Colours only on a terminal, none with NO_COLOR.

    Args:
        planned_steps: steps of the run.
    """

    def __init__(self, planned_steps: int) -> None:
        self._console = Console(soft_wrap=True, highlight=False)
        self._planned_steps = planned_steps
        self._next_line = 0.0
        self._last_step: StepRecord | None = None

    def start(self, headline: str) -> None:
        """Print what is about to run."""
        self._console.print(escape(headline), style="bold")

    def show(self, record: Record) -> None:
        """Print the record, when it is time for a line or worth one of its own."""
        if isinstance(record, StepRecord):
            self._last_step = record
            return
        if isinstance(record, EvalRecord):
            now = time.monotonic()
            if now >= self._next_line or record.step == self._planned_steps:
                self._next_line = now + SECONDS_BETWEEN_LINES
                self._console.print(self._line(record))
        elif isinstance(record, Alarm):
            self._console.print(f"[yellow]alarm[/]  {escape(record.message)}")
        elif isinstance(record, Action):
            self._console.print(f"[yellow]action[/] {record.type} at step {record.step}")

    def end(self, result: RunResult, notes: list[str]) -> None:
        """Print the verdict, the best evaluation and what to do next."""
        colour = _COLOURS.get(result.status, "default")
        self._console.print(f"[bold {colour}]{escape(result.verdict)}[/]")
        steps = f"{result.steps:,} of {result.planned_steps:,} steps in {result.seconds:.1f} s"
        self._console.print(f"{escape(_best(result))}{steps}")
        for note in notes:
            self._console.print(escape(note))

    def warn(self, text: str) -> None:
        """Print a warning on standard error."""
        sys.stdout.flush()
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"[yellow]warning[/] {escape(text)}")

    def _line(self, record: EvalRecord) -> str:
        width = len(f"{self._planned_steps:,}")
        parts = [f"step {record.step:>{width},}/{self._planned_steps:,}"]
        if self._last_step is not None:
            parts += [f"loss {_number(self._last_step.loss)}", f"lr {self._last_step.lr:.3g}"]
        parts += [f"{record.split}/{name} {_number(value)}" for name, value in record.metrics.items()]
        return "  ".join(parts) + ("  [green]best[/]" if record.best else "")


def _number(value: float) -> str:
    """Return four decimals, or four digits where that would be long or all zeros."""
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.4g}"


def _best(result: RunResult) -> str:
    numbers = {name: value for name, value in result.best.items() if name != "step"}
    if not numbers:
        return ""
    metrics = ", ".join(f"{name} {_number(value)}" for name, value in numbers.items())
    return f"best {metrics} at step {result.best['step']:,.0f}; "
