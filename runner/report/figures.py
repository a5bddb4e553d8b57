"""PNG figures of a run, drawn from its records. matplotlib is imported only when a figure is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.curves import axis_range, hugs_zero, number, spells
from runner.records import Action, Alarm, EvalRecord, Record, StepRecord
from runner.report.panels import (
    FEW,
    LEFT_INCHES,
    RIGHT_INCHES,
    Steps,
    arrange,
    draw_curve,
    draw_line,
    draw_marks,
    draw_strays,
    finish_panel,
    set_steps,
)
from runner.report.stretches import draw_stretches
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

    from runner.diagnosis.verdict import Stretch

_SEVERITIES = {"stop": RED, "warn": ORANGE, "info": SKY}
_SPLITS = ((GREEN, "o"), (BLACK, "s"), (ORANGE, "^"))
_GROUPS = (BLUE, ORANGE, GREEN, PURPLE, BLACK, SKY)
_ACTIONS = {
    "Stop": "X",
    "Rollback": "<",
    "ScaleLR": "v",
    "Rewarm": "^",
    "SkipUpdate": "o",
    "Clip": "_",
    "Probe": "D",
    "Advise": "*",
}
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1, 1.5)))  # one a detector

_RIGHT_AXIS_INCHES = 0.7
_PANEL_INCHES = (2.7, 1.1, 1.3)


def curves(
    records: Iterable[Record], path: Path, *, title: str, verdict: str, stretches: Sequence[Stretch] = ()
) -> None:
    """Draw loss, learning rate and gradient norm over the steps, with alarms and actions, as a PNG.

    Losses that span more than 1.5 decades get a log axis. Values far out (`robust_limits`) are arrows at the edge of
    their panel, non-finite ones crosses on the x axis; the legend counts both. A noisy curve gets its average: `ema`
    over the n values on the axis, decay max(0.8, 1 - 150 / n). 1500 pixels wide and about 1400 high, as legends need.

    Args:
        records: in the order in which they were written; may be empty.
        path: the PNG to write; it appears whole or not at all.
        title: the run's readable name.
        verdict: how the run ended; at most two lines of it are shown.
        stretches: steps that a diagnosis rests on, a bar above the loss each.
    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    history = list(records)
    steps = [r for r in history if isinstance(r, StepRecord)]
    evals = [r for r in history if isinstance(r, EvalRecord)]
    accuracy = next((k for r in evals for k, v in r.metrics.items() if "accuracy" in k and math.isfinite(v)), "")
    figure = Figure(figsize=(WIDTH_INCHES, sum(_PANEL_INCHES)), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    right = 1 - (_RIGHT_AXIS_INCHES if accuracy else RIGHT_INCHES) / WIDTH_INCHES
    grid = {"left": LEFT_INCHES / WIDTH_INCHES, "right": right, "height_ratios": _PANEL_INCHES}
    panels: list[Axes] = list(figure.subplots(3, 1, sharex=True, gridspec_kw=grid))
    set_steps(panels[-1], [r.step for r in history])
    _draw_loss(panels[0], steps, evals=evals, accuracy=accuracy)
    _draw_rates(panels[1], steps)
    _draw_norms(panels[2], steps)
    if events := [*_draw_events(panels, history), *draw_stretches(panels[0], stretches)]:
        draw_legend(figure.legend, events, inches=WIDTH_INCHES - 2 * RIGHT_INCHES)
    arrange(figure, panels, _PANEL_INCHES, title=title, verdict=verdict)
    save(figure, path)


def _draw_loss(ax: Axes, steps: Sequence[StepRecord], *, evals: Sequence[EvalRecord], accuracy: str) -> None:
    """Draw training loss and its average, the losses of each split, and the best evaluation with its value."""
    names = dict.fromkeys(r.split for r in evals if "loss" in r.metrics)
    splits = {name: [r for r in evals if r.split == name and "loss" in r.metrics] for name in names}
    at, train = [r.step for r in steps], [r.loss for r in steps]
    shown = axis_range([train, *([r.metrics["loss"] for r in found] for found in splits.values())])
    lines = draw_curve(ax, at, train, shown=shown, name="train loss")
    strays = draw_strays(ax, at, train, shown=shown, color=BLUE, name="")
    for (split, found), (color, marker) in zip(splits.items(), _SPLITS, strict=False):
        at, losses = [r.step for r in found], [r.metrics["loss"] for r in found]
        look: dict[str, Any] = {"marker": marker, "ms": 4.5 if len(found) <= 60 else 0, "lw": 1.4, "zorder": 4}
        lines += draw_line(ax, at, shown.clamp(losses), color=color, label=f"{split} loss", **look)
        strays += draw_strays(ax, at, losses, shown=shown, color=color, name=f"{split} loss ")
    finite = [r for r in evals if math.isfinite(r.metrics.get("loss", math.nan))]
    if finite:
        best = next((r for r in reversed(finite) if r.best), min(finite, key=lambda r: r.metrics["loss"]))
        color = dict(zip(splits, _SPLITS, strict=False)).get(best.split, (BLACK, ""))[0]
        label = f"best {best.split} loss {number(best.metrics['loss'], 4)}, step {best.step:,}"
        look = {"marker": "*", "ms": 13, "mec": BLACK, "mew": 0.7, "ls": "none", "zorder": 6}
        lines += draw_line(ax, [best.step], shown.clamp([best.metrics["loss"]]), color=color, label=label, **look)
    if accuracy:
        lines += _draw_accuracy(ax, evals, name=accuracy)
    empty = "" if finite or any(map(math.isfinite, train)) else "no finite loss"
    finish_panel(ax, shown, label="loss", handles=lines + strays, empty=empty)


def _draw_accuracy(ax: Axes, evals: Sequence[EvalRecord], *, name: str) -> Handles:
    """Draw a metric of the first split that has it, all of its range and 1, on an axis at the right."""
    split = next(r.split for r in evals if name in r.metrics)
    found = [r for r in evals if r.split == split and math.isfinite(r.metrics.get(name, math.nan))]
    values = [r.metrics[name] for r in found]
    twin = ax.twinx()
    twin.spines[["top", "left"]].set_visible(False)
    twin.set_ylabel(f"{split} {name}", fontsize=TEXT, color=PURPLE)
    twin.tick_params(labelsize=SMALL, colors=PURPLE)
    set_y(twin, axis_range([[value] for value in (*values, 1.0)], log=False))  # one by one, none of them is far out
    look: dict[str, Any] = {"color": PURPLE, "ls": (0, (4, 1.5)), "lw": 1.1, "marker": ".", "ms": 3}
    return draw_line(twin, [r.step for r in found], values, label=f"{split} {name} (right axis)", **look)


def _draw_rates(ax: Axes, steps: Sequence[StepRecord]) -> None:
    """Draw the learning rate used, one line a parameter group when they differ; d * lr where d is estimated."""
    groups = dict.fromkeys(name for r in steps for name in r.lrs or ())
    rates = {name: [(r.lrs or {name: r.lr}).get(name, math.nan) for r in steps] for name in groups or [""]}
    known = [v for rate in rates.values() for v in rate if math.isfinite(v)]
    log = any(hugs_zero(rate, peak=max(known)) for rate in rates.values() if known)
    shown = axis_range([*rates.values(), *([] if log else [[0.0]])], log=log)
    handles: Handles = []
    for i, (name, rate) in enumerate(rates.items()):
        look: dict[str, Any] = {"ls": ("-", "--", "-.")[i % 3], "marker": "." if len(rate) <= FEW else ""}
        look |= {"color": _GROUPS[i % len(_GROUPS)], "lw": 1.5, "label": name}
        handles += draw_line(ax, [r.step for r in steps], shown.clamp(rate), **look)
    if len(handles) > len(_GROUPS):
        del handles[len(_GROUPS) :]
        handles[-1].set_label(f"{handles[-1].get_label()} … of {len(rates)} groups")
    empty = "" if known else "no learning rate"
    label = "learning rate, d x lr" if any(r.lr_nominal is not None for r in steps) else "learning rate"
    finish_panel(ax, shown, label=label, handles=handles if groups else [], empty=empty)


def _draw_norms(ax: Axes, steps: Sequence[StepRecord]) -> None:
    """Draw the gradient norm, its average, and where it was clipped."""
    at, norms = [r.step for r in steps], [r.grad_norm for r in steps]
    shown = axis_range([norms], log=True)
    handles = draw_curve(ax, at, norms, shown=shown, name="gradient norm") if shown.log else []
    handles += draw_strays(ax, at, norms, shown=shown, color=BLUE, name="")
    clipped = [r.step for r in steps if r.clipped]
    if clipped:
        label = f"clipped in {number(100 * len(clipped) / sum(r.clipped is not None for r in steps))}% of the steps"
        handles.append(draw_marks(ax, clipped, 0.03, marker="|", color=GREY, label=label))
    empty = "no gradient norm above 0" if any(map(math.isfinite, norms)) else "no finite gradient norm"
    finish_panel(ax, shown, label="gradient norm", handles=handles, empty="" if shown.log else empty)


def _draw_events(panels: Sequence[Axes], history: Sequence[Record]) -> Handles:
    """Draw alarms, coloured by severity and dashed by detector, and actions, with a marker for each type."""
    found: dict[tuple[int, str, str], list[int]] = {}
    for record in history:
        if isinstance(record, Alarm):
            key = (list(_SEVERITIES).index(record.severity), record.severity, record.detector)
            found.setdefault(key, []).append(record.step)
        elif isinstance(record, Action):
            found.setdefault((len(_SEVERITIES), "action", record.type), []).append(record.step)
    handles: Handles = []
    for nth, ((_, kind, name), at) in enumerate(sorted(found.items())):
        if kind == "action":
            _draw_spells(panels, at, color=BLACK, lw=0.9, ls=":")
            handles.append(draw_marks(panels[0], at, 1.0, marker=_ACTIONS.get(name, "D"), color=BLACK))
        else:
            look: dict[str, Any] = {"color": _SEVERITIES[kind], "ls": _DASHES[nth % len(_DASHES)]}
            handles.append(_draw_spells(panels, at, lw=1.8 if kind == "stop" else 1.2, **look))
        when = f"{len(at):,} times from step" if len(at) > 1 else "step"
        handles[-1].set_label(f"{name} ({kind}), {when} {at[0]:,}")
    return handles


def _draw_spells(panels: Sequence[Axes], steps: Steps, **style: Any) -> Any:
    """Draw lines where something happened, a shade for as long as it went on happening; return one of the lines."""
    left, right = panels[0].get_xlim()
    for first, last in spells(steps, gap=0.012 * (right - left)):
        for ax in panels:
            line = ax.axvline(first, zorder=1.7, **style)
            if last > first:
                ax.axvspan(first, last, facecolor=style["color"], alpha=0.2, lw=0, zorder=1.6)
    return line
