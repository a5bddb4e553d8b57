"""A diagnosis on the terminal: what, where, how sure, what to try. A panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from runner.commands import changed
from runner.diagnosis.verdict import IN_WORDS, Diagnosis, Stretch, Suggestion

Row = tuple[str, Text]
_HEALTHY, _UNSURE = {"healthy"}, {"cannot_tell", "plateau", "overfitting", "lr_too_low"}


def show_diagnosis(diagnosis: Diagnosis, *, title: str, command: str = "") -> None:
    """Print a diagnosis on standard output.

    Args:
        diagnosis: what was found.
        title: what it is about.
        command: the command line that repeats the run, where it is one of ours; "" shows overrides alone.
    """
    console = Console(highlight=False)
    head = Text.assemble((headline(diagnosis), f"bold {_colour(diagnosis)}"))
    rows = list(_rows(diagnosis, command))
    if console.is_terminal:
        table = Table.grid(padding=(0, 2))
        for label, text in rows:
            table.add_row(Text(label, "dim"), text)
        body = Group(head, Text(diagnosis.summary), Text(""), table) if rows else Group(head, Text(diagnosis.summary))
        console.print(Panel(body, title=Text(title), border_style=_colour(diagnosis), expand=False))
        return
    width = max((len(label) for label, _ in rows), default=0) + 2
    console.print(Text(f"{title}: ") + head, soft_wrap=True)
    console.print(Text(diagnosis.summary), soft_wrap=True)
    for label, text in rows:
        console.print(Text(label.ljust(width)) + text, soft_wrap=True)


def headline(diagnosis: Diagnosis) -> str:
    """Return the verdict with its confidence, in a few words; that nothing can be told has none."""
    if diagnosis.cause == "cannot_tell":
        return IN_WORDS[diagnosis.cause]
    return f"{IN_WORDS[diagnosis.cause]} (confidence {diagnosis.confidence:.0%})"


def pasted(suggestion: Suggestion, command: str = "") -> str:
    """Return a suggestion as it is typed in a shell: the command of the run with its overrides, or these alone."""
    if command:
        return changed(command, suggestion.overrides, multirun=suggestion.is_multirun)
    return " ".join([*(["-m"] if suggestion.is_multirun else []), *map(shlex.quote, suggestion.overrides)])


def span(stretch: Stretch) -> str:
    """Return the steps of a stretch in words."""
    if stretch.first == stretch.last:
        return f"step {stretch.first:,}"
    return f"steps {stretch.first:,} to {stretch.last:,}"


def _colour(diagnosis: Diagnosis) -> str:
    return "green" if diagnosis.cause in _HEALTHY else "yellow" if diagnosis.cause in _UNSURE else "red"


def _rows(diagnosis: Diagnosis, command: str) -> Iterator[Row]:
    for nth, stretch in enumerate(diagnosis.stretches):
        yield "" if nth else "where", Text(f"{span(stretch)}: {stretch.what}")
    for nth, sentence in enumerate(diagnosis.rests_on):
        yield "" if nth else "rests on", Text(sentence)
    if diagnosis.alternatives:
        others = "; ".join(f"{IN_WORDS[cause]} {share:.0%}" for cause, share in diagnosis.alternatives)
        yield "or else", Text(others)
    if diagnosis.settle:
        yield "settled by", Text(diagnosis.settle)
    for nth, suggestion in enumerate(diagnosis.suggestions, start=1):
        label = f"{'try ' if nth == 1 else '    '}{nth}"
        if not suggestion.overrides:
            yield label, Text(suggestion.why)
            continue
        yield label, Text(pasted(suggestion, command), "bold")
        yield "", Text(suggestion.why)
