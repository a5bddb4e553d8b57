"""A run directory in MLflow's words: records as points, config as params, result as tags."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from runner.diagnosis.verdict import first_overrides, in_words
from runner.records import Action, Alarm, EvalRecord, Record, RunResult, StepRecord
from runner.tracking.directory import read_config

EVENTS = "instability/events_total"
ACTIONS = "instability/actions_total"
FIRST_EVENT = "instability/first_step"
FIRST_NON_FINITE = "instability/first_nonfinite_step"
_OF_OTHER_MODES = ("source", "sweep", "search", "sampler", "pruner")
LONGEST_PARAM = 500
LONGEST_TAG = 5000

# a colour a decade of learning rate from 1e-6 to 10, in the order of the rainbow, each apart from its neighbours
_COLOURS = ("#3b2fb8", "#2a7fde", "#17a2a8", "#2f9e44", "#a39a12", "#e08c14", "#e0521c", "#b0122b")
_LOWEST_DECADE = -6


class Point(NamedTuple):
    """One value of one metric."""

    key: str
    value: float
    time_ms: int
    step: int


class Counters(NamedTuple):
    """What the points of the next record depend on, besides that record.

    Attributes:
        time_ms: time of the last step or evaluation; alarms have none of their own.
        step: the last step seen; -1 before the first record.
        events: alarms so far.
        events_step: the last step with a point of `instability/events_total`.
        actions: actions so far, advice included.
        actions_step: the last step with a point of `instability/actions_total`.
        lr_scale: that of the last step.
        is_finite: whether every number so far was finite.
    """

    time_ms: int = 0
    step: int = -1
    events: int = 0
    events_step: int = -1
    actions: int = 0
    actions_step: int = -1
    lr_scale: float = 1.0
    is_finite: bool = True


def points(record: Record, counters: Counters) -> tuple[list[Point], Counters]:
    """Return the record as points, and the counters for the next one.

    MLflow stores an infinite number as 1.797e308, so it becomes nan here, and
    `instability/first_nonfinite_step` says where that first happened.
    """
    if isinstance(record, Alarm):
        return _event(record, counters)
    if isinstance(record, Action):
        return _action(record, counters)
    step, time_ms = record.step, record.time_ms
    values = _step_values(record, counters.lr_scale) if isinstance(record, StepRecord) else _eval_values(record)
    found = [Point(k, v if math.isfinite(v) else math.nan, time_ms, step) for k, v in values.items()]
    if counters.step < 0:  # the chart exists from the first step on
        found.append(Point(EVENTS, 0, time_ms, step))
        counters = counters._replace(events_step=step)
    if counters.is_finite and not all(map(math.isfinite, values.values())):
        found.append(Point(FIRST_NON_FINITE, step, time_ms, step))
        counters = counters._replace(is_finite=False)
    lr_scale = record.lr_scale if isinstance(record, StepRecord) else counters.lr_scale
    return found, counters._replace(time_ms=time_ms, step=max(step, counters.step), lr_scale=lr_scale)


def _step_values(record: StepRecord, last_lr_scale: float) -> dict[str, float]:
    values = {"train/loss": record.loss, "train/lr": record.lr, "train/grad_norm": record.grad_norm}
    for group, lr in (record.lrs or {}).items():
        values[metric_name("train/lr", group)] = lr
    for name, value in (record.scheduled or {}).items():
        values[metric_name("train", name)] = value
    if record.lr_nominal is not None:
        values["train/lr_nominal"] = record.lr_nominal
    if record.lr_scale != 1.0 or record.lr_scale != last_lr_scale:
        values["train/lr_scale"] = record.lr_scale
    if record.clipped is not None:
        values["train/clipped"] = float(record.clipped)
    if record.skipped is not None:
        values["train/skipped"] = float(record.skipped)
    if record.prev_update_norm is not None:
        values["train/prev_update_norm"] = record.prev_update_norm
    for name, value in (record.signals or {}).items():
        values[metric_name("", name) if name.startswith("stability/") else metric_name("signals", name)] = value
    return values


def _eval_values(record: EvalRecord) -> dict[str, float]:
    return {metric_name(record.split, name): value for name, value in record.metrics.items()}


def _event(alarm: Alarm, counters: Counters) -> tuple[list[Point], Counters]:
    step, events = alarm.step, counters.events
    found = _stair(EVENTS, events, counters.events_step, step, counters.time_ms)
    if events == 0:
        found.append(Point(FIRST_EVENT, step, counters.time_ms, step))
    return found, counters._replace(events=events + 1, events_step=step, step=max(step, counters.step))


def _action(action: Action, counters: Counters) -> tuple[list[Point], Counters]:
    found = _stair(ACTIONS, counters.actions, counters.actions_step, action.step, counters.time_ms)
    return found, counters._replace(actions=counters.actions + 1, actions_step=action.step)


def _stair(key: str, level: int, last_step: int, step: int, time_ms: int) -> list[Point]:
    """Return one stair: the old level up to the step before, the new one from here."""
    before = [Point(key, level, time_ms, step - 1)] if step - 1 > last_step else []
    return [*before, Point(key, level + 1, time_ms, step)]


@lru_cache(maxsize=4096)
def metric_name(prefix: str, name: str) -> str:
    """Return prefix/name with what MLflow refuses in a name replaced by "_", at most 250 characters."""
    parts = re.sub(r"[^\w\-. :/]", "_", f"{prefix}/{name}").split("/")
    return "/".join(part for part in parts if part.strip("."))[:250].rstrip("/")


def params(directory: Path) -> dict[str, str]:
    """Return config.yaml as dotted keys and short texts, without what other modes read; {} when there is none."""
    try:
        tree = read_config(directory)
    except FileNotFoundError:
        return {}
    sections = (
        {key: value for key, value in tree.items() if key not in _OF_OTHER_MODES} if isinstance(tree, dict) else {}
    )
    return flat(sections)


def flat(tree: Mapping[str, Any]) -> dict[str, str]:
    """Return a tree as dotted keys and short texts."""
    return {metric_name("", key): _short(value) for key, value in dotted(tree)}


def lr_params(result: RunResult) -> dict[str, str]:
    """Return the learning rate used after scaling, and that of each group where there are several."""
    found, groups = result.learning_rate, result.learning_rate.get("groups", {})
    lrs = {"lr.used": found["used"]} if "used" in found else {}
    if len(groups) > 1:
        lrs |= {f"lr.group.{name}": group["initial_lr"] for name, group in groups.items()}
    return {metric_name("", key): _short(value) for key, value in lrs.items()}


def known_lr(directory: Path, result: RunResult) -> float | None:
    """Return the learning rate used, or that of config.yaml; None where neither is known."""
    try:
        return float(result.learning_rate.get("used") or params(directory).get("optimizer.lr", ""))
    except ValueError:
        return None


def dotted(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of a tree and their values; an empty section is a value."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)
    return text if len(text) <= LONGEST_PARAM else text[: LONGEST_PARAM - 3] + "..."


def tags(result: RunResult, lr: float | None) -> dict[str, str]:
    """Return the tags of a run: its own, verdict, status, what its curve shows and what to try, origin of the learning
    rate, and the UI's (colour, note).
    """
    found = {**result.tags, "verdict": result.verdict, "status": result.status, "mlflow.note.content": note(result)}
    if "origin" in result.learning_rate:
        found |= _lr_tags(result.learning_rate)
    if result.diagnosis:
        found |= {"diagnosis": in_words(result.diagnosis), "try": first_overrides(result.diagnosis)}
    if lr is not None:
        found["mlflow.runColor"] = lr_colour(lr)
    return {metric_name("", key): value[:LONGEST_TAG] for key, value in found.items()}


def _lr_tags(learning_rate: Mapping[str, Any]) -> dict[str, str]:
    """Return where the learning rate comes from, and the rule that scaled it if one did."""
    found = {"lr.origin": str(learning_rate["in_words"])}
    for step in learning_rate["origin"]:
        if step["what"] == "scaled":
            found["lr.scaling"] = f"{step['rule']} x{step['lr_factor']:g}"
    return found


def note(result: RunResult) -> str:
    """Return the run's description in markdown: verdict, best evaluation, how to repeat it."""
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in result.best.items() if name != "step")
    best = f"Best: {metrics} at step {result.best.get('step', math.nan):.0f}.\n\n" if metrics else ""
    return f"**{result.verdict}**\n\n{best}Repeat it:\n\n```\n{result.command}\n```\n"


def lr_colour(lr: float) -> str:
    """Return a hex colour, blue for 1e-6 and less over purple to red for 10 and more, even in log10(lr)."""
    last = len(_COLOURS) - 1
    place = min(max(math.log10(lr) - _LOWEST_DECADE, 0.0), float(last)) if lr > 0 else 0.0
    below = min(int(place), last - 1)
    low, high = (bytes.fromhex(colour[1:]) for colour in _COLOURS[below : below + 2])
    return "#" + bytes(round(a + (place - below) * (b - a)) for a, b in zip(low, high, strict=True)).hex()
