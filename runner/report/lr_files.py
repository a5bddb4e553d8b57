"""The files of a learning-rate report: lr_report.json, lr_report.png and lr_report.html."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from runner.tracking.directory import LR_FIGURE, LR_PAGE, LR_REPORT, write_whole

if TYPE_CHECKING:
    from runner.finding.report import LRReport

VERSION = 1


class Commands(NamedTuple):
    """Command lines that go with a report.

    Attributes:
        made: made the runs; "" where it is not known.
        uses: name of a group -> trains with its recommendation.
        again: tries lower learning rates, where nothing is recommended; "" where it is not known.
    """

    made: str
    uses: Mapping[str, str]
    again: str


def write_lr_report(directory: Path, report: LRReport, commands: Commands, *, title: str) -> list[Path]:
    """Write the report as JSON, as a picture and as a page; each appears whole or not at all.

    A picture or page that cannot be drawn is left out with a warning on standard error; the numbers are not.

    Args:
        directory: where to; must exist.
        report: what was found.
        commands: that go with it.
        title: what was swept.
    Returns:
        what was written.
    Raises:
        OSError: a file cannot be written.
    """
    from runner.finding.group_words import group_sentences
    from runner.finding.words import answer, headline, report_sentences
    from runner.report.lr_figure import write_lr_figure
    from runner.report.lr_page import lr_page

    sentences = {group.name: group_sentences(report, group) for group in report.groups}
    data = {
        "version": VERSION,
        "title": title,
        "command": commands.made,
        "headline": headline(report),
        "override": report.override_line(),
        "sentences": {"all": report_sentences(report), "groups": sentences},
        **report.as_json(),
    }
    write_whole(directory / LR_REPORT, json.dumps(data, indent=2, allow_nan=False) + "\n")
    written = [directory / LR_REPORT]

    def draw() -> None:
        write_lr_figure(report, directory / LR_FIGURE, title=title, verdict=answer(report))

    def tell() -> None:
        write_whole(directory / LR_PAGE, lr_page(report, commands, title=title))

    for name, write in ((LR_FIGURE, draw), (LR_PAGE, tell)):
        try:
            write()
            written.append(directory / name)
        except (ValueError, ArithmeticError, LookupError) as error:
            print(f"warning {name}: not drawn ({type(error).__name__}: {error})", file=sys.stderr)
    return written
