"""The picture of a calibration. matplotlib is imported only when it is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runner.calibration import Calibration, Trial
from runner.curves import axis_range, ema
from runner.report.style import (
    BLACK,
    BLUE,
    DPI,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    SMALL,
    TEXT,
    WIDTH_INCHES,
    Handles,
    draw_legend,
    save,
    set_y,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, BLACK)
_SMOOTHING = 0.9


def calibration_figure(trials: Sequence[Trial], found: Calibration, path: Path, *, title: str) -> None:
    """Draw the smoothed losses of all warmups, and the gradient norms of the safe one with the threshold, as a PNG.

    Args:
        trials: without the ones that clip.
        found: what they tell.
        path: the PNG to write; it appears whole or not at all.
        title: what was calibrated.
    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, 5.0), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    _draw_losses(upper, trials, found)
    _draw_norms(lower, trials, found)
    lower.set_xlabel("optimizer step", fontsize=TEXT)
    figure.suptitle(f"{title}\n{'; '.join(found.in_words()[:1])}", fontsize=TEXT, parse_math=False)
    save(figure, path)


def _draw_losses(ax: Axes, trials: Sequence[Trial], found: Calibration) -> None:
    smoothed = [ema([loss for loss in trial.losses if math.isfinite(loss)], decay=_SMOOTHING) for trial in trials]
    shown = axis_range(smoothed)
    warmups, handles = sorted({trial.warmup_steps for trial in trials}), Handles()
    for trial, losses in zip(trials, smoothed, strict=True):
        nth = warmups.index(trial.warmup_steps)
        is_found = trial.warmup_steps == found.warmup_steps
        label = f"warmup {trial.warmup_steps:,}{' (shortest safe)' if is_found else ''}"
        (line,) = ax.plot(
            shown.clamp(losses), color=_COLOURS[nth % len(_COLOURS)], lw=2 if is_found else 1.2, label=label
        )
        if trial.stopped and losses:
            ax.plot(len(losses) - 1, shown.clamp(losses)[-1], "X", color=RED, ms=8)
        if all(handle.get_label() != label for handle in handles):
            handles.append(line)
    _finish(ax, "loss, smoothed")
    set_y(ax, shown)
    draw_legend(ax.legend, handles, inches=WIDTH_INCHES - 1)


def _draw_norms(ax: Axes, trials: Sequence[Trial], found: Calibration) -> None:
    chosen = [trial for trial in trials if trial.warmup_steps == found.warmup_steps] or list(trials)
    norms = [[norm if math.isfinite(norm) else math.nan for norm in trial.grad_norms] for trial in chosen]
    shown = axis_range(norms)
    for values in norms:
        ax.plot(shown.clamp(values), color=BLUE, lw=0.8)
    if found.clip_norm is not None:
        line = ax.axhline(found.clip_norm, color=RED, lw=1.4, ls="--", label=f"90th percentile {found.clip_norm:g}")
        draw_legend(ax.legend, [line], inches=WIDTH_INCHES - 1)
    _finish(ax, "gradient norm")
    set_y(ax, shown)


def _finish(ax: Axes, label: str) -> None:
    ax.set_ylabel(label, fontsize=TEXT)
    ax.tick_params(labelsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color=GREY, alpha=0.15)
