"""Draw learning rate x sharpness / bound over the steps of runs: python figure.py out.png NAME=RUN_DIRECTORY ..."""

import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from runner.records import StepRecord
from runner.report.style import BLACK, BLUE, DPI, GREEN, ORANGE, TEXT, WIDTH_INCHES
from runner.stability import EDGE
from runner.tracking.jsonl import read_records


def main() -> None:
    path, *runs = sys.argv[1:]
    figure = Figure(figsize=(WIDTH_INCHES, 4.5), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    loss, ratio = figure.subplots(2, 1, sharex=True)
    for run, color in zip(runs, (GREEN, BLUE, ORANGE), strict=False):
        name, _, directory = run.partition("=")
        steps = [record for record in read_records(Path(directory)) if isinstance(record, StepRecord)]
        loss.plot([record.step for record in steps], [record.loss for record in steps], color=color, lw=1, label=name)
        seen = [(record.step, record.signals[EDGE]) for record in steps if record.signals and EDGE in record.signals]
        ratio.plot(*zip(*seen, strict=True), color=color, lw=1.3, label=name)
    loss.set_yscale("log")
    loss.set_ylabel("loss", fontsize=TEXT)
    loss.legend(fontsize=TEXT, frameon=False)
    ratio.axhline(1.0, color=BLACK, lw=1, ls="--")
    ratio.set_ylim(0, 1.3)
    ratio.set_ylabel("learning rate x sharpness / bound", fontsize=TEXT)
    ratio.set_xlabel("optimizer step", fontsize=TEXT)
    figure.savefig(path)


main()
