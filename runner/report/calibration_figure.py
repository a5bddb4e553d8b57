"""The picture of a calibration. matplotlib is imported only when it is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runner.calibration import Calibration, Trial
from runner.curves import axis_range, ema
from runner.report.panels import LEFT_INCHES, RIGHT_INCHES, arrange, finish_panel, set_steps
from runner.report.style import BLACK, BLUE, DPI, GREEN, ORANGE, PURPLE, RED, SKY, WIDTH_INCHES, Handles, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, BLACK)
_SMOOTHING = 0.9
_PANEL_INCHES = (2.7, 1.2)


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

    figure = Figure(figsize=(WIDTH_INCHES, sum(_PANEL_INCHES)), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    grid = {"left": LEFT_INCHES / WIDTH_INCHES, "right": 1 - RIGHT_INCHES / WIDTH_INCHES}
    panels: list[Axes] = list(figure.subplots(2, 1, sharex=True, gridspec_kw={**grid, "height_ratios": _PANEL_INCHES}))
    set_steps(panels[-1], range(max(len(trial.losses) for trial in trials)))
    _draw_losses(panels[0], trials, found)
    _draw_norms(panels[1], trials, found)
    arrange(figure, panels, _PANEL_INCHES, title=title, verdict=found.in_words()[0])
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
    finish_panel(ax, shown, label="loss, smoothed", handles=handles, empty="")


def _draw_norms(ax: Axes, trials: Sequence[Trial], found: Calibration) -> None:
    chosen = [trial for trial in trials if trial.warmup_steps == found.warmup_steps] or list(trials)
    norms = [[norm if math.isfinite(norm) else math.nan for norm in trial.grad_norms] for trial in chosen]
    shown = axis_range(norms)
    for values in norms:
        ax.plot(shown.clamp(values), color=BLUE, lw=0.8)
    handles = Handles()
    if found.clip_norm is not None:
        label = f"90th percentile {found.clip_norm:g}"
        handles.append(ax.axhline(found.clip_norm, color=RED, lw=1.4, ls="--", label=label))
    finish_panel(ax, shown, label="gradient norm", handles=handles, empty="")
