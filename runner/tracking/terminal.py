"""What a run says as it goes: a progress bar on a terminal, plain lines elsewhere, the verdict at the end."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from runner.curves import sparkline
from runner.diagnosis.verdict import IN_WORDS, in_words
from runner.records import Alarm, EvalRecord, Record, RunResult, StepRecord
from runner.tracking.events import Events, count_by_type, not_shown
from runner.tracking.pace import Pace
from runner.tracking.tables import clock, rounded

SECONDS_BETWEEN_REFRESHES = 0.25
SECONDS_BETWEEN_LINES = 5.0
SECONDS_BEFORE_FIRST_LINE = 1.0
_BAR_CELLS = 40
_WORTH_NAMING = 0.1  # confidence of an alternative
_SPARKLINE_CELLS = 32
_COLOURS = {"finished": "green", "diverged": "red", "interrupted": "yellow"}


class Terminal:
    """Shows a run as it goes.

    On a terminal a bar of two lines, drawn at most four times a second, with alarms, actions and now and then a new
    best evaluation as lines above it. Elsewhere, and with TERM=dumb, plain lines every few seconds. Colours only on a
    terminal, none with NO_COLOR.

    Args:
        planned_steps: steps of the run.
        quiet: only warnings and alarms, on standard error.
    """

    def __init__(self, planned_steps: int, *, quiet: bool = False) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a name that the encoding lacks must not end a run
        self._console = Console(highlight=False)
        self._errors = Console(stderr=True, highlight=False)
        self._quiet = quiet
        self._planned_steps = planned_steps
        self._live: Live | None = None
        self._step: StepRecord | None = None
        self._eval: EvalRecord | None = None
        self._shown: tuple[StepRecord | None, EvalRecord | None] = (None, None)
        self._made: int | None = None
        self._alarms = 0
        self._pace = Pace()
        self._next_refresh = self._next_line = float("inf")
        self._events = Events()

    def start(self, headline: str) -> None:
        """Print what is about to run, and begin the bar where there is one."""
        if self._quiet:
            return
        self._print(Text(headline, "bold"))
        self._next_line = time.monotonic() + SECONDS_BEFORE_FIRST_LINE
        self._next_refresh = 0.0  # the first step starts the clock of the pace
        if sys.stdout.isatty() and self._console.is_interactive:
            self._next_line += SECONDS_BETWEEN_LINES
            # drawn by `show` alone: a thread would compete with the training
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                get_renderable=self._bar,
                redirect_stderr=sys.stderr.isatty(),
            )
            self._live.start(refresh=True)

    def show(self, record: Record) -> None:
        """Take note of the record, and print when it is time to or when it is worth a line of its own."""
        if isinstance(record, StepRecord):
            self._step = record
            if time.monotonic() >= self._next_refresh:
                self._refresh()
        elif isinstance(record, EvalRecord):
            self._eval = record
            if self._live is not None and record.best and time.monotonic() >= self._next_line:
                self._print_line()
        elif isinstance(record, Alarm):
            self._alarms += 1
            for line in self._events.alarm(record):
                self._say(line)
        else:
            for line in self._events.action(record, lr=self._step.lr if self._step is not None else None):
                self._say(line)

    def end(self, result: RunResult, notes: Iterable[str], *, losses: Sequence[float] = ()) -> None:
        """Print the verdict, the numbers at the end and what to do next.

        Args:
            result: the run, ended.
            notes: lines to print below, such as commands; never broken in two.
            losses: training losses in order, for a small picture.
        """
        self.close(steps=result.steps)
        if self._quiet:
            return
        symbols = "_.-=*#" if self._console.options.ascii_only else "▁▂▃▄▅▆▇"
        rows = _summary(result, losses, symbols, self._events.hidden)
        verdict = Text(result.verdict, f"bold {_COLOURS.get(result.status, 'default')}")
        if self._console.is_terminal:
            table = Table.grid(padding=(0, 2))
            for label, text in rows:
                table.add_row(Text(label, "dim"), Text(text))
            style = _COLOURS.get(result.status, "default")
            self._console.print(
                Panel(Group(verdict, table), title=Text(result.title), border_style=style, expand=False)
            )
        else:
            self._print(verdict, *(Text(f"{label:<6}  {text}") for label, text in rows))
        self._print(*map(Text, notes))

    def warn(self, text: str) -> None:
        """Print a warning on standard error."""
        self._say(Text.assemble(("warning", "yellow"), f" {text}"), self._errors)

    def close(self, *, steps: int | None = None) -> None:
        """Show the last step and end the bar, as soon as training ends. A second call does nothing.

        Args:
            steps: updates made, where that is known.
        """
        self._made = steps
        if self._live is not None:
            self._live.stop()
            self._live = None
            self._shown = (self._step, self._eval)
        elif not self._quiet and self._step is not None and self._shown != (self._step, self._eval):
            self._pace.add(time.monotonic(), self._step)
            self._print_line()
        self._next_refresh = float("inf")

    def _refresh(self) -> None:
        """Note the pace; draw the bar, or print a line when it is time for one."""
        now = time.monotonic()
        self._next_refresh = now + SECONDS_BETWEEN_REFRESHES
        if self._step is not None:
            self._pace.add(now, self._step)
        if self._live is not None:
            self._live.refresh()
        elif now >= self._next_line and self._pace.examples_per_second() is not None:
            self._print_line()

    def _print_line(self) -> None:
        self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES
        self._shown = (self._step, self._eval)
        left = self._pace.seconds_left(self._planned_steps)
        fields = [f"step {self._counted()}", *self._fields()]
        fields += [f"{clock(left)} left"] if left is not None and self._made is None else []
        fields += [_count(self._alarms, "alarm")] if self._alarms else []
        self._print(Text("  ".join(fields)))

    def _bar(self) -> Group:
        """Return the two lines of the bar, whatever of them fits."""
        step, width = self._steps(), self._console.width
        left = self._pace.seconds_left(self._planned_steps)
        before = f"{self._counted()} "
        after = Text(
            f" {step / self._planned_steps:4.0%}"
            + (f"  {clock(left)} left" if left is not None and self._made is None else "")
        )
        if self._alarms:
            after.append(f"  {_count(self._alarms, 'alarm')}", "yellow")
        cells = max(min(_BAR_CELLS, width - len(before) - len(after) - 1), 1)
        first = Table.grid()
        for fixed in (len(before), cells, len(after)):
            first.add_column(width=fixed, no_wrap=True)
        first.add_row(Text(before), ProgressBar(self._planned_steps, step, width=cells), after)
        fields = self._fields()
        while fields and len("  ".join(fields)) >= width:
            fields.pop()
        return Group(first, Text("  ".join(fields), no_wrap=True))

    def _fields(self) -> list[str]:
        """Return loss, learning rate, pace and the latest evaluation, the most important first."""
        fields = []
        if self._step is not None:
            fields += [f"loss {rounded(self._step.loss)}", f"lr {self._step.lr:.3g}"]
        if (examples := self._pace.examples_per_second()) is not None:
            fields.append(f"{examples:,.0f} examples/s" if examples >= 10 else f"{examples:.2g} examples/s")
        if self._eval is not None:
            fields += [f"{self._eval.split}/{name} {rounded(value)}" for name, value in self._eval.metrics.items()]
            fields += ["best"] if self._eval.best else []
        return fields

    def _steps(self) -> int:
        """Return the number of updates made; while the run goes on, the one at hand counts."""
        if self._made is not None:
            return self._made
        return self._step.step + 1 if self._step is not None else 0

    def _counted(self) -> str:
        planned = f"{self._planned_steps:,}"
        return f"{self._steps():>{len(planned)},}/{planned}"

    def _say(self, line: Text, console: Console | None = None) -> None:
        """Print a line at once, above the bar if that is where it would end up."""
        console = console or (self._errors if self._quiet else self._console)
        if self._live is not None and console.is_terminal:
            console = self._console
        sys.stdout.flush()
        console.print(line, soft_wrap=True)

    def _print(self, *lines: Text) -> None:
        for line in lines:
            self._console.print(line, soft_wrap=True)
        self._console.file.flush()


def _summary(
    result: RunResult, losses: Sequence[float], symbols: str, hidden: Mapping[str, int]
) -> list[tuple[str, str]]:
    """Return what is said of a run at its end, with the events that had no line: (label, text)."""
    best = {f"val/{name}": value for name, value in result.best.items() if name != "step"}
    rows = []
    if best:
        rows.append(("best", f"{_listed(best)} at step {result.best['step']:,.0f}"))
    if result.final:
        rows.append(("final", _listed(result.final)))
    if losses:
        line = sparkline(losses, width=_SPARKLINE_CELLS, symbols=symbols)
        rows.append(("loss", f"{line} {rounded(losses[0])} to {rounded(losses[-1])}"))
    if result.diagnosis:
        rows.append(("looks", in_words(result.diagnosis)))
        others = [(IN_WORDS[a["cause"]], a["confidence"]) for a in result.diagnosis["alternatives"]]
        named = [f"{words} ({share:.0%})" for words, share in others if share >= _WORTH_NAMING]
        rows += [("or", ", ".join(named))] if named and result.diagnosis["cause"] != "healthy" else []
    if result.alarms:
        rows.append(("alarms", f"{result.alarms:,}{not_shown(hidden['alarms'])}"))
    if did := count_by_type(result.interventions):
        rows.append(("remedy", f"{did}{not_shown(hidden['actions'])}"))
    if "lr_scale" in result.learning_rate:
        rows.append(("lr", _changes(result.learning_rate)))
    made = f"{result.steps:,} of {result.planned_steps:,} in {_spent(result.seconds)}"
    rows.append(("steps", made + _cost(result.interventions)))
    return rows


def _cost(interventions: Mapping[str, float]) -> str:
    """Return what remedies threw away, and what they tried beside the run."""
    rewound, extra = (int(interventions.get(key, 0)) for key in ("rewound_steps", "extra_steps"))
    lost = f", {rewound:,} of them undone" if rewound else ""
    ratio = interventions.get("compute_ratio", 1.0)
    return lost + (f", and {extra:,} in a probe: {ratio:.2f} times the planned compute" if extra else "")


def _changes(learning_rate: Mapping[str, Any]) -> str:
    """Return what remedies made of the learning rate."""
    nouns = {"cuts": "cut", "raises": "raise", "rollbacks": "rollback"}
    counts = [_count(int(learning_rate[key]), noun) for key, noun in nouns.items() if learning_rate[key]]
    return f"{', '.join(counts)}, at the end {learning_rate['lr_scale']:.4g} of its schedule"


def _listed(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {rounded(value)}" for name, value in metrics.items())


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _spent(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else clock(seconds)
