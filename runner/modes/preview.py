"""mode=preview: what the learning rate will be, as a table, a plot, a picture and a file; trains nothing."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.console import Console

from runner import lint
from runner.check import check
from runner.config import Config, Invocation
from runner.errors import ConfigError, Problem, RunnerError
from runner.rates import Plan, Rate, joined_steps, peak, plan_of, plotted_steps, rate_table, sampled, shown_steps
from runner.report.schedule_figure import MOST_IN_ONE, Curves, rate_range, schedule_figure
from runner.report.terminal_plot import MOST_LINES, terminal_plot
from runner.tracking.directory import output_directory, write_whole
from runner.tracking.tables import print_table
from runner.variants import with_schedules

PICTURE, TABLE = "schedule.png", "schedule.csv"
WIDTH = 80  # characters of a table
_DIGITS = 10  # where exact values do not fit


class _Shown(NamedTuple):
    """What is shown of one page.

    Attributes:
        plan: its schedules.
        values: name -> one value for each step that is looked at.
        steps: rows of its table: step -> why it is shown.
    """

    plan: Plan
    values: Mapping[str, Sequence[float]]
    steps: Mapping[int, str]


def run(config: Config, invocation: Invocation) -> None:
    """Show the schedule of the page, or those of `preview.schedules` side by side; the directory is printed last.

    Args:
        config: checked.
        invocation: how the program was called.

    Raises:
        ConfigError: a schedule is refused.
        RunnerError: the files cannot be written.
    """
    choices, names = invocation.choices, config.preview.schedules
    pages = with_schedules(invocation, names, check=check) if names else {choices["schedule"]: config}
    # a multirun shows its jobs side by side at its end, which is what the directory is for
    directory = config.preview.directory if invocation.sweep is None else None
    show(pages, experiment=config.name or choices["task"], directory=directory)


def show(pages: Mapping[str, Config], *, experiment: str, directory: str | None) -> None:
    """Print and write what checked pages will use.

    Args:
        pages: name -> page.
        experiment: folder under runs/.
        directory: where the files go; None for a new one.

    Raises:
        ConfigError: a schedule is refused.
        RunnerError: the files cannot be written.
    """
    steps, shown = _look_at(pages)
    place = output_directory(directory, key="preview.directory", experiment=f"{experiment}/previews")
    names = ", ".join(shown) if len(shown) <= MOST_IN_ONE else f"{len(shown)} schedules"
    title, note = f"{experiment}: {names}", _note(pages, shown)
    curves = [_curves(name if len(pages) > 1 else "", one, steps) for name, one in shown.items()]
    quiet = all(config.quiet for config in pages.values())
    if not quiet:
        print(f"{title}\n{note}")
        _print_tables(shown, steps)
    for name, config in pages.items():
        for text in lint.warnings(config, shown[name].plan):
            print(f"warning {f'{name}: ' if len(pages) > 1 else ''}{text}", file=sys.stderr if quiet else None)
    if not quiet and len(curves) <= MOST_IN_ONE:
        print(_plot(curves), flush=True)
    try:
        schedule_figure(curves, place / PICTURE, title=title, note=note)
        write_whole(place / TABLE, _as_csv(steps, shown))
    except OSError as error:
        raise RunnerError(f"{place}: cannot be written ({error.strerror}). Give another preview.directory.") from None
    if not quiet:
        print(f"{place / PICTURE}\n{place / TABLE}")
    print(place, flush=True)


def _look_at(pages: Mapping[str, Config]) -> tuple[list[int], dict[str, _Shown]]:
    """Return the steps that are looked at, and what is shown of every page.

    Raises:
        ConfigError: with the problems of all pages; where there are several, each says which pages have it.
    """
    plans: dict[str, Plan] = {}
    found: dict[Problem, list[str]] = {}
    values: dict[str, dict[str, list[float]]] = {}

    def note(error: ConfigError, name: str) -> None:
        for problem in error.problems:
            found.setdefault(problem, []).append(name)

    for name, config in pages.items():
        try:
            plans[name] = plan_of(config)
        except ConfigError as error:
            note(error, name)
    steps = plotted_steps(plans.values()) if plans else []
    for name, plan in plans.items():
        try:
            values[name] = sampled(plan, steps)
        except ConfigError as error:
            note(error, name)
    if found:
        places = {problem: f"with {', '.join(names)}" for problem, names in found.items() if len(pages) > 1}
        raise ConfigError(found, places=places)
    return steps, {
        name: _Shown(plan, values[name], shown_steps(plan, steps, values[name])) for name, plan in plans.items()
    }


def _note(pages: Mapping[str, Config], shown: Mapping[str, _Shown]) -> str:
    """Say how long the runs are and what their factors multiply."""
    lengths = dict.fromkeys(f"T = {one.plan.steps:,} steps" for one in shown.values())
    warmups = dict.fromkeys(f"W = {one.plan.warmup_steps:,}" for one in shown.values())
    rates = dict.fromkeys(
        f"optimizer.lr {config.scaled_optimizer.lr:g}"
        f"{' after scaling' if config.scaling.rule != 'none' else ''}"
        f"{f' x d, which {config.optimizer.name} estimates' if config.optimizer.d_coef is not None else ''}"
        for config in pages.values()
    )
    return ", ".join(
        " or ".join(list(words)[:3]) + (" or ..." if len(words) > 3 else "") for words in (lengths, warmups, rates)
    )


def _print_tables(shown: Mapping[str, _Shown], steps: Sequence[int]) -> None:
    """Print every rate at the steps that tell, or one line a schedule where there are too many."""
    if len(shown) > MOST_IN_ONE:
        _print_overview(shown, steps)
        return
    rates = {_key(name, rate, shown): rate for name, one in shown.items() for rate in one.plan.rates}
    rows_at = joined_steps(one.steps for one in shown.values())
    header, rows = rate_table(rates, rows_at)
    if _width(header, rows) > WIDTH:
        header, rows = rate_table(rates, rows_at, digits=_DIGITS)
        print(f"{_DIGITS} digits; {TABLE} has all of them")
    for columns in _blocks(header, rows):
        print_table([header[i] for i in columns], [[row[i] for i in columns] for row in rows])
    for name, one in shown.items():
        for rate in one.plan.lrs:
            step, highest = peak(one.plan, steps, one.values[one.plan.name(rate)])
            last = rate.at(one.plan.steps - 1)
            print(f"{_key(name, rate, shown)}: peak {highest!r} at step {step:,}, last update {last!r}")


def _print_overview(shown: Mapping[str, _Shown], steps: Sequence[int]) -> None:
    """Print a line for each schedule and group."""
    rows = []
    for name, one in shown.items():
        for rate in one.plan.lrs:
            total = one.plan.steps
            values = [rate.at(step) for step in (0, total // 4, total // 2, 3 * total // 4, total - 1)]
            highest = peak(one.plan, steps, one.values[one.plan.name(rate)])[1]
            group = f" {rate.group}" if len(one.plan.lrs) > 1 else ""
            rows.append([f"{name}{group}", *(f"{value:.4g}" for value in (*values, highest))])
    print_table(["lr at", "first", "T/4", "T/2", "3T/4", "T-1", "peak"], rows)


def _key(name: str, rate: Rate, shown: Mapping[str, _Shown]) -> str:
    """Return what tells a rate from all others: `lr`, `lr/<group>`, or one of them after the name of its page."""
    own = shown[name].plan.name(rate)
    return own if len(shown) == 1 else f"{name} {own}"


def _width(header: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    return sum(max(len(row[i]) for row in (header, *rows)) + 2 for i in range(len(header)))


def _blocks(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[list[int]]:
    """Return the columns of the tables that fit beside each other; each begins with the steps."""
    blocks = [[0, 1]]
    for column in range(2, len(header)):
        wider = [*blocks[-1], column]
        fits = _width([header[i] for i in wider], [[row[i] for i in wider] for row in rows]) <= WIDTH
        if fits or len(blocks[-1]) == 2:
            blocks[-1] = wider
        else:
            blocks.append([0, 1, column])
    return blocks


def _curves(label: str, one: _Shown, steps: Sequence[int]) -> Curves:
    """Return what is drawn of a page: up to the end of its run, groups with the same values as one line."""
    plan = one.plan
    inside = [step for step in steps if step <= plan.steps]
    rates: dict[str, dict[str, Sequence[float]]] = {}
    for name in dict.fromkeys(rate.hyperparameter for rate in plan.rates):
        sharing: dict[tuple[float, ...], list[str]] = {}
        for rate in plan.rates:
            if rate.hyperparameter == name:
                sharing.setdefault(tuple(one.values[plan.name(rate)][: len(inside)]), []).append(rate.group)
        rates[name] = {", ".join(groups): values for values, groups in sharing.items()}
    return Curves(label, inside, rates, plan.steps, plan.warmup_steps)


def _plot(schedules: Sequence[Curves]) -> str:
    """Return the learning rates as text."""
    lines = {name: (curves.steps, values) for curves in schedules for name, values in curves.lrs.items()}
    cut = f", the first {MOST_LINES} of {len(lines)}" if len(lines) > MOST_LINES else ""
    chosen = dict(list(lines.items())[:MOST_LINES])
    return terminal_plot(
        chosen,
        rate_range(values for _, values in chosen.values()),
        title=f"learning rate{cut}",
        colour=Console().color_system is not None,
        encoding=sys.stdout.encoding or "ascii",
    )


def _as_csv(steps: Sequence[int], shown: Mapping[str, _Shown]) -> str:
    """Return a line a step with the exact value of everything that is scheduled."""
    columns = {
        _key(name, rate, shown): one.values[one.plan.name(rate)]
        for name, one in shown.items()
        for rate in one.plan.rates
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", *columns])
    writer.writerows(zip(steps, *columns.values(), strict=True))
    return text.getvalue()
