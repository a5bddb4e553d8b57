"""The page of a learning-rate report: one file that needs no network, no script and no other file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from runner.curves import number
from runner.finding.group_words import group_sentences
from runner.finding.phrases import loss_told
from runner.finding.words import answer, headline, report_sentences
from runner.report.lr_figure import MOST_GROUPS, lr_svg

if TYPE_CHECKING:
    from runner.finding.group import GroupReport
    from runner.finding.observed import Observed
    from runner.finding.rates import Rate
    from runner.finding.report import LRReport
    from runner.report.lr_files import Commands

_MOST_RUNS = 1000  # in the table
# nothing is loaded, whatever a name in the tables contains
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 900px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin-top: 2em }
.lead { font-size: 1.1em; font-weight: 600 } .bad { color: #a33c00 }
body, code { overflow-wrap: anywhere } .scroll { overflow-x: auto; overflow-wrap: normal }
code { display: block; background: #f3f3f3; padding: .5em .7em; user-select: all; white-space: pre-wrap }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5em 0 }
th, td { text-align: right; padding: .15em .8em .15em 0; border-bottom: 1px solid #ddd; white-space: nowrap }
th:first-child, td:first-child { text-align: left } tr.best td { font-weight: 600 }
svg { width: 100%; height: auto } small, figcaption { color: #6b6b6b } figure { margin: 1em 0 }
"""


def lr_page(report: LRReport, commands: Commands, *, title: str) -> str:
    """Return the page as HTML.

    Args:
        report: what was found.
        commands: to show.
        title: what was swept.
    """
    titles = {f"run-{nth}": _title(report, run) for nth, run in enumerate(report.runs)}
    groups = [part for group in report.groups for part in _group(report, group, commands.uses.get(group.name, ""))]
    lead, look = answer(report), "lead"
    look += " bad" if math.isnan(report.best.recommended) or report.best.advice.is_at_edge else ""
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        f'<p class="{look}">{escape(lead[0].upper() + lead[1:])}</p>',
        *_command("Try lower ones (a click selects the line):", commands.again),
        f"<figure>{lr_svg(report, titles=titles)}",
        f"<figcaption>Every run is a mark; the mouse over it shows which.{_hidden(report)}</figcaption></figure>",
        *groups,
        "<h2>All together</h2>",
        _list(report_sentences(report)),
        *_side_by_side(report),
        "<h2>Runs</h2>",
        *_runs(report),
        *_command("Made by:", commands.made),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _command(what: str, line: str) -> list[str]:
    """Return a command line with what it does, nothing where it is not known."""
    return [f"<p>{escape(what)}</p><code>{escape(line)}</code>"] if line else []


def _hidden(report: LRReport) -> str:
    hidden = len(report.groups) - MOST_GROUPS
    return f" {hidden} groups with larger losses are not drawn." if hidden > 0 else ""


def _title(report: LRReport, run: Observed) -> str:
    """Return what the mouse over the mark of a run shows."""
    loss = f"{report.loss} {number(run.loss, 4)}"
    group = f"{run.group} " if run.group else ""
    return f"{group}{report.key}={number(run.lr, 6)} seed={run.seed}: {loss}, {run.steps:,} steps. {run.run}".strip()


def _group(report: LRReport, group: GroupReport, use: str) -> Iterable[str]:
    """Return heading, command, sentences and table of a group."""
    yield f"<h2>{escape(group.name or 'What was found')}</h2>"
    if len(report.groups) > 1:
        yield f"<p>{escape(headline(report, group))}</p>"
    yield from _command("Use it (a click selects the line):", use or report.override_line(group))
    yield _list(group_sentences(report, group))
    rows = [
        [
            number(rate.lr, 6),
            *_seeds(group, rate),
            f"{rate.failures.failed} of {rate.failures.runs}",
            f"{rate.failures.low:.0%} to {rate.failures.high:.0%}",
        ]
        for rate in group.rates
    ]
    head = [report.key, "seeds", f"mean {report.loss}", "sd", "failed", "share that fails, each bound with 95%"]
    bold = group.recommended if group.recommended in (rate.lr for rate in group.rates) else group.best_lr
    yield _table(head, rows, bold=[nth for nth, rate in enumerate(group.rates) if rate.lr == bold])


def _seeds(group: GroupReport, rate: Rate) -> list[str]:
    """Return how many seeds finished with a rate, their mean and sd: those of the curve, or else fresh ones."""
    fresh = group.verified
    if not rate.by_seed and fresh is not None and fresh.lr == rate.lr:
        return [f"{fresh.runs - fresh.failed} fresh", _number(fresh.mean), _number(fresh.sd, 2)]
    return [str(len(rate.by_seed)), _number(rate.mean), _number(rate.sd, 2)]


def _side_by_side(report: LRReport) -> Iterable[str]:
    """Return the table that compares groups, nothing for one."""
    if len(report.groups) < 2:
        return
    head = [
        "group",
        "recommended",
        f"{report.loss} there",
        "at the best rate",
        "basin, decades",
        "safety ratio",
        "LR sensitivity",
        "windowed",
        "failed",
    ]
    rows = [
        [
            group.name,
            _number(group.recommended),
            _number(loss_told(group)),
            _number(group.best_loss),
            "" if group.basin is None else f"{group.basin.decades:.2g}",
            f"{'' if group.advice.edge.is_known else 'at least '}{_number(group.advice.safety_ratio)}",
            "" if group.sensitivity is None else number(group.sensitivity),
            "" if group.windowed is None else number(group.windowed.value),
            f"{sum(rate.failures.failed for rate in group.rates)} of {sum(rate.failures.runs for rate in group.rates)}",
        ]
        for group in report.groups
    ]
    yield _table(head, rows)


def _runs(report: LRReport) -> Iterable[str]:
    """Return the table of runs, closed until it is clicked."""
    rows = [
        [
            f"{run.group} {report.key}={number(run.lr, 6)}".strip(),
            str(run.seed),
            _number(run.loss),
            run.status,
            f"{run.steps:,} of {run.planned_steps:,}",
            run.purpose,
            run.run,
        ]
        for run in report.runs[:_MOST_RUNS]
    ]
    head = ["run", "seed", report.loss, "status", "steps", "made for", "directory"]
    if not any(run.purpose for run in report.runs):
        head, rows = [*head[:5], head[6]], [[*row[:5], row[6]] for row in rows]
    more = len(report.runs) - len(rows)
    note = f"<p>and {more:,} more in lr_report.json</p>" if more else ""
    yield f"<details><summary>{len(report.runs):,} runs</summary>{_table(head, rows)}{note}</details>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, bold: Sequence[int] = ()) -> str:
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    body = "".join(f"<tr{' class=best' if nth in bold else ''}>{line}</tr>" for nth, line in enumerate(lines))
    table = f"<table><tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr>{body}</table>"
    return f'<div class="scroll" tabindex="0">{table}</div>'  # which keys scroll too


def _list(sentences: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in sentences)}</ul>"


def _number(value: float, digits: int = 3) -> str:
    return "" if math.isnan(value) else number(value, digits)
