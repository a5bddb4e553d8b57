"""A run directory in MLflow's words (points, params, tags), and the loop that sends it. MLflow is not known here."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple, Protocol

from runner.records import Action, Alarm, EvalRecord, Record, RunResult, StepRecord, from_json
from runner.tracking.jsonl import RECORDS

STATE = "mlflow.json"
CONFIG = "config.yaml"
EVENTS = "instability/events_total"
FIRST_EVENT = "instability/first_step"
FIRST_NON_FINITE = "instability/first_nonfinite_step"
LARGEST_BATCH = 1000
LONGEST_PARAM = 500
LONGEST_TAG = 5000
POLL_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0

# a colour a decade of learning rate from 1e-6 to 10: even steps of OKLCh, lightness 0.45 to 0.65, hue 262 to 389
_COLOURS = ("#0647c1", "#4f42c9", "#773dc5", "#993ab9", "#b738a4", "#d03989", "#e44069", "#f04f40")
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
        lr_scale: that of the last step.
        is_finite: whether every number so far was finite.
    """

    time_ms: int = 0
    step: int = -1
    events: int = 0
    events_step: int = -1
    lr_scale: float = 1.0
    is_finite: bool = True


@dataclass(frozen=True, slots=True)
class State:
    """`mlflow.json`: where the records went and how many of their bytes have arrived.

    Attributes:
        uri: absolute, with a password hidden.
        experiment_id: MLflow experiment; None before one is found.
        run_id: MLflow run; None before it is made.
        sent: bytes of records.jsonl that the server has.
        counters: what the next points depend on.
    """

    uri: str
    experiment_id: str | None = None
    run_id: str | None = None
    sent: int = 0
    counters: Counters = field(default_factory=Counters)


class Sender(Protocol):
    """The place that records are sent to. Each method may raise anything; it is then called again later."""

    def open(self, state: State) -> State:
        """Find or make the run; return the state to go on from."""

    def send(self, state: State, points: list[Point]) -> None:
        """Send points; the same points may be sent again."""

    def close(self, state: State) -> None:
        """Send what is known only at the end."""


class Batch(NamedTuple):
    """Points of whole lines, and the state once they have arrived."""

    points: list[Point]
    after: State


def follow(directory: Path, sender: Sender, *, uri: str, ended: Event, on_problem: Callable[[Exception], None]) -> bool:
    """Send records as they are written, until the run has ended and all of them have arrived.

    After a failure the state on disk is taken up again, after a pause that doubles up to 30 s while the run lives.

    Args:
        directory: the run directory.
        sender: where to.
        uri: its name in mlflow.json.
        ended: set once nothing more will be written; one last try is made then.
        on_problem: called with every failure.
    Returns:
        Whether everything has arrived.
    """
    state: State | None = None
    pause = POLL_SECONDS
    failures = 0
    while True:
        is_last = ended.is_set()
        try:
            state = state or sender.open(read_state(directory, uri) or State(uri))
            state = _drain(directory, sender, state)
            pause = POLL_SECONDS
            if is_last:
                _end(directory, sender, state)
                return True
        except Exception as error:
            if failures == 0:
                traceback.print_exc()
            failures += 1
            on_problem(error)
            if is_last:
                return False
            state, pause = None, min(2 * pause, LONGEST_PAUSE_SECONDS)
        ended.wait(pause)


def _drain(directory: Path, sender: Sender, state: State) -> State:
    for batch in batches(directory / RECORDS, state):
        sender.send(batch.after, batch.points)
        state = batch.after
        write_state(directory, state)
    return state


def _end(directory: Path, sender: Sender, state: State) -> None:
    counters = state.counters
    if counters.step > counters.events_step:  # draw the staircase up to the last step
        sender.send(state, [Point(EVENTS, counters.events, counters.time_ms, counters.step)])
        write_state(directory, replace(state, counters=counters._replace(events_step=counters.step)))
    sender.close(state)


def batches(path: Path, state: State) -> Iterator[Batch]:
    """Yield what lies behind `state.sent`, whole lines only, at most 1,000 points at once."""
    if not path.exists():
        return
    found: list[Point] = []
    sent, counters = state.sent, state.counters
    with path.open("rb") as lines:
        lines.seek(sent)
        for line in lines:
            if not line.endswith(b"\n"):
                break
            more, after = _points_of_line(line, counters)
            if found and len(found) + len(more) > LARGEST_BATCH:
                yield Batch(found, replace(state, sent=sent, counters=counters))
                found = []
            found += more
            sent, counters = sent + len(line), after
    if sent > state.sent:
        yield Batch(found, replace(state, sent=sent, counters=counters))


def _points_of_line(line: bytes, counters: Counters) -> tuple[list[Point], Counters]:
    try:
        return points(from_json(line.decode()), counters)
    except ValueError as error:
        print(f"left out: {error}", file=sys.stderr)
        return [], counters


def points(record: Record, counters: Counters) -> tuple[list[Point], Counters]:
    """Return the record as points, and the counters for the next one.

    MLflow stores an infinite number as 1.797e308, so it becomes nan here, and
    `instability/first_nonfinite_step` says where that first happened.
    """
    if isinstance(record, Alarm):
        return _event(record, counters)
    if isinstance(record, Action):
        return [], counters
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
    if record.lr_scale != 1.0 or record.lr_scale != last_lr_scale:
        values["train/lr_scale"] = record.lr_scale
    if record.clipped is not None:
        values["train/clipped"] = float(record.clipped)
    if record.skipped is not None:
        values["train/skipped"] = float(record.skipped)
    if record.prev_update_norm is not None:
        values["train/prev_update_norm"] = record.prev_update_norm
    for name, value in (record.signals or {}).items():
        values[metric_name("signals", name)] = value
    return values


def _eval_values(record: EvalRecord) -> dict[str, float]:
    return {metric_name(record.split, name): value for name, value in record.metrics.items()}


def _event(alarm: Alarm, counters: Counters) -> tuple[list[Point], Counters]:
    """Return one stair: the old level up to the step before, the new one from here."""
    step, time_ms, events = alarm.step, counters.time_ms, counters.events
    found = [Point(EVENTS, events, time_ms, step - 1)] if step - 1 > counters.events_step else []
    found.append(Point(EVENTS, events + 1, time_ms, step))
    if events == 0:
        found.append(Point(FIRST_EVENT, step, time_ms, step))
    return found, counters._replace(events=events + 1, events_step=step, step=max(step, counters.step))


@lru_cache(maxsize=4096)
def metric_name(prefix: str, name: str) -> str:
    """Return prefix/name with what MLflow refuses in a name replaced by "_", at most 250 characters."""
    parts = re.sub(r"[^\w\-. :/]", "_", f"{prefix}/{name}").split("/")
    return "/".join(part for part in parts if part.strip("."))[:250].rstrip("/")


def read_state(directory: Path, uri: str) -> State | None:
    """Return the state of earlier sending to the same place, None when there is none that fits."""
    try:
        data = json.loads((directory / STATE).read_text(encoding="utf-8"))
        state = State(**{**data, "counters": Counters(**data["counters"])})
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
    records = directory / RECORDS
    size = records.stat().st_size if records.exists() else 0
    return state if state.uri == uri and state.sent <= size else None


def write_state(directory: Path, state: State) -> None:
    """Write mlflow.json so that a reader sees the old one or the new one, never half."""
    data = {**asdict(state), "counters": state.counters._asdict()}
    temporary = directory / f".{STATE}.{os.getpid()}"
    temporary.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, directory / STATE)


def params(directory: Path) -> dict[str, str]:
    """Return config.yaml as dotted keys and short texts; {} when there is none."""
    import yaml

    try:
        tree = yaml.safe_load((directory / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {metric_name("", key): _short(value) for key, value in _flat(tree if isinstance(tree, dict) else {}, "")}


def _flat(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)
    return text if len(text) <= LONGEST_PARAM else text[: LONGEST_PARAM - 3] + "..."


def tags(result: RunResult, lr: float | None) -> dict[str, str]:
    """Return the tags of a run: its own, verdict, status, and those that the MLflow UI reads (colour, note)."""
    found = {**result.tags, "verdict": result.verdict, "status": result.status, "mlflow.note.content": note(result)}
    if lr is not None:
        found["mlflow.runColor"] = lr_colour(lr)
    return {metric_name("", key): value[:LONGEST_TAG] for key, value in found.items()}


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
