"""The figure of the page: what the diagnosis calls a run, against what is true of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from replay import EVIDENCE

from runner.diagnosis.verdict import CAUSES
from runner.report.style import SMALL, TEXT, WIDTH_INCHES, save

if TYPE_CHECKING:
    from score import Row

MOSTLY = 0.5  # share of a row from which its number is written in white


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw the confusion matrix: a row a true cause, its shares in colour, its runs in numbers."""
    said = Counter((row.cause, row.verdicts[EVIDENCE[0]].cause) for row in rows if row.cause != "dropped")
    true = [cause for cause in CAUSES if any(key[0] == cause for key in said)]
    counts = [[said[cause, verdict] for verdict in CAUSES] for cause in true]
    shares = [[count / sum(line) for count in line] for line in counts]
    figure = Figure((WIDTH_INCHES, 1.6 + 0.32 * len(true)), layout="constrained")
    ax = figure.subplots()
    ax.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    for y, line in enumerate(counts):
        for x, count in enumerate(line):
            if count:
                colour = "white" if shares[y][x] > MOSTLY else "black"
                ax.text(x, y, str(count), ha="center", va="center", fontsize=SMALL, color=colour)
    words = [cause.replace("_", " ") for cause in CAUSES]
    ax.set_xticks(range(len(CAUSES)), labels=words, rotation=40, ha="right", fontsize=SMALL)
    ax.set_yticks(range(len(true)), labels=[cause.replace("_", " ") for cause in true], fontsize=SMALL)
    ax.set_xlabel("diagnosis", fontsize=SMALL)
    ax.set_ylabel("label", fontsize=SMALL)
    ax.set_title("Test runs by label and diagnosis", loc="left", fontsize=TEXT)
    save(figure, path)
