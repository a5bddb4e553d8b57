"""The words that layers exchange: what happened at a step, an evaluation, an alarm, an action, a run.

Each is a frozen dataclass that turns into one JSON object. JSON has no nan or inf, so
non-finite numbers are written as the strings "nan", "inf" and "-inf".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, get_args

Severity = Literal["info", "warn", "stop"]
ActionType = Literal["SkipUpdate", "ScaleLR", "Rollback", "Rewarm", "Clip", "Probe", "Advise", "Stop"]
Status = Literal["running", "finished", "diverged", "interrupted", "pruned", "failed"]

STATUSES: tuple[str, ...] = get_args(Status)
OUT_OF_TIME = "reached train.max_seconds"  # how the verdict of a run that it ended begins


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One optimizer step, as seen before its update was made.

    Attributes:
        step: optimizer step, 0-based.
        time_ms: wall clock, milliseconds since 1970.
        loss: mean training loss of the batch (task's unit, nats for cross entropy).
        lr: learning rate used by the first parameter group; d * lr where the optimizer estimates a step size d.
        grad_norm: global L2 norm of the gradient before clipping.
        examples: training examples seen so far, this batch included.
        lr_scale: product of interventions; 1.0 when nobody intervened.
        lrs: learning rate of every group, when they differ.
        scheduled: other hyperparameters that have a schedule, as "momentum"; "momentum/<group>" where groups differ.
        lr_nominal: what `optimizer.lr`, schedule and interventions give, where `lr` is d times that.
        clipped: whether the gradient was clipped; None when clipping is off.
        skipped: True when the fp16 scaler dropped this update.
        prev_update_norm: L2 norm of the previous update, when a detector asks for it.
        signals: further measurements by name, when a detector asks for them.
    """

    kind: ClassVar[str] = "step"
    step: int
    time_ms: int
    loss: float
    lr: float
    grad_norm: float
    examples: int
    lr_scale: float = 1.0
    lrs: Mapping[str, float] | None = None
    scheduled: Mapping[str, float] | None = None
    lr_nominal: float | None = None
    clipped: bool | None = None
    skipped: bool | None = None
    prev_update_norm: float | None = None
    signals: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class EvalRecord:
    """Metrics of one split.

    Attributes:
        step: number of updates made before the evaluation.
        split: name of the data split, such as "val".
        metrics: metric name -> mean over the split.
        best: whether this is the best evaluation of the run so far.
    """

    kind: ClassVar[str] = "eval"
    step: int
    time_ms: int
    split: str
    metrics: Mapping[str, float]
    best: bool = False


@dataclass(frozen=True, slots=True)
class Alarm:
    """What a detector found at a step; `evidence` holds the numbers it rests on."""

    kind: ClassVar[str] = "alarm"
    step: int
    detector: str
    severity: Severity
    evidence: Mapping[str, float]
    message: str


@dataclass(frozen=True, slots=True)
class Action:
    """What a remedy asks for; the loop carries it out.

    Attributes:
        step: that of the alarm.
        remedy: who asks.
        type: Stop ends the run. SkipUpdate drops the update of the step, optimizer state included. ScaleLR sets the
            product of interventions. Rollback loads the weights of an earlier step, empties the optimizer's state, sets
            the product of interventions, and keeps the step. Rewarm lets the learning rate rise anew from almost zero.
            Clip sets the largest gradient norm. Probe tries learning rates on copies, and goes on with the best. Advise
            changes nothing.
        arguments: of ScaleLR `lr_scale`, the `factor` that leads to it, perhaps `recovery_steps` in which it comes back
            to what it was; of Rollback these, `to_step`, perhaps `rewarm_steps`, and once carried out `rewound_steps`,
            the updates that are lost; of Rewarm `rewarm_steps`; of Clip `clip_norm`; of Probe, once carried out, those
            of ScaleLR or Rollback and `extra_steps`, the updates of the branches.
        cause: (detector, step of its alarm).
        message: what it does, for a person; None where the type says it all.
        overrides: of Advise, what to try on the command line.
    """

    kind: ClassVar[str] = "action"
    step: int
    remedy: str
    type: ActionType
    arguments: Mapping[str, float] = field(default_factory=dict)
    cause: tuple[str, int] | None = None
    message: str | None = None
    overrides: tuple[str, ...] | None = None

    def told(self, message: str | None = None, **results: float) -> Action:
        """Return it with what became of it."""
        return replace(self, arguments={**self.arguments, **results}, message=message or self.message)


Record = StepRecord | EvalRecord | Alarm | Action


@dataclass(frozen=True, slots=True)
class RunResult:
    """`result.json`: written when the run starts (status "running") and again when it ends.

    Attributes:
        mode: the mode that made it, such as "train".
        status: running, finished, diverged, interrupted, pruned (a search gave it up) or failed.
        verdict: one phrase a person can read.
        title: readable run name, such as "sgd lr=0.1 cosine w100".
        experiment: the run's `name`, which is also its MLflow experiment.
        command: the command line that repeats it.
        overrides: what was given on the command line.
        choices: config group -> option, such as {"optimizer": "sgd"}.
        tags: tags for MLflow.
        steps: updates made.
        planned_steps: updates declared.
        final: metrics at the end, as "train/loss", "val/loss" ...
        best: metrics of the best evaluation, with its "step"; empty without evaluation.
        alarms: number of alarms.
        stopped_by: the alarm that stopped it, with its evidence and step.
        actions: number of actions other than updates.
        interventions: what remedies did: number of actions by type; `rewound_steps`, updates thrown away by rollbacks;
            `extra_steps`, updates of branch probes; `compute_ratio`, all updates over the planned ones. {} without any.
        learning_rate: as written, as used, the steps between the two, groups with their multipliers, typical range,
            what the optimizer makes of it; what remedies made of it: cuts, raises, rollbacks and the last lr_scale.
        initial_weights: what task.init_from loaded, what stayed fresh, what the model has no place for; empty without.
        dataset: name, number of examples by split, digest of the content, prior entropy in nats or None.
        seconds: wall time of training, start-up excluded; of a run in lanes its share of that.
        seconds_measuring: those of them that the sharpness meter took.
        versions: library versions and the machine's device.
        commit: git commit of the working directory, if any.
        seed: the seed.
        mlflow_run_id: id of the MLflow run, when tracking reached one.
        diagnosis: what its curve shows (`runner.diagnosis.verdict.to_json`); empty before the end.
        signal: number of the signal that it received, in time to be interrupted or not.
    """

    mode: str
    status: Status
    verdict: str
    title: str
    experiment: str
    command: str
    seed: int
    overrides: tuple[str, ...] = ()
    choices: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    steps: int = 0
    planned_steps: int = 0
    final: Mapping[str, float] = field(default_factory=dict)
    best: Mapping[str, float] = field(default_factory=dict)
    alarms: int = 0
    stopped_by: Mapping[str, Any] | None = None
    actions: int = 0
    interventions: Mapping[str, float] = field(default_factory=dict)
    learning_rate: Mapping[str, Any] = field(default_factory=dict)
    initial_weights: Mapping[str, Any] = field(default_factory=dict)
    dataset: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    seconds_measuring: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None
    mlflow_run_id: str | None = None
    diagnosis: Mapping[str, Any] = field(default_factory=dict)
    signal: int | None = None

    @property
    def is_out_of_time(self) -> bool:
        """Whether `train.max_seconds` ended it with steps left."""
        return self.status == "finished" and self.verdict.startswith(OUT_OF_TIME)


_KINDS: dict[str, type[StepRecord] | type[EvalRecord] | type[Alarm] | type[Action]] = {
    cls.kind: cls for cls in (StepRecord, EvalRecord, Alarm, Action)
}
_NAMES = {cls: tuple(f.name for f in fields(cls)) for cls in _KINDS.values()}
_compact = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def to_json(record: Record) -> str:
    """Return the record as one line of JSON, without fields that are None."""
    data: dict[str, Any] = {"kind": record.kind}
    for name in _NAMES[type(record)]:
        value = getattr(record, name)
        if value is not None:
            data[name] = value
    try:
        return _compact(data)
    except ValueError:
        return _compact(spell_non_finite(data))


def from_json(line: str) -> Record:
    """Return the record of one line of JSON.

    Raises:
        ValueError: the line is not JSON, or of no known kind, or lacks a field.
    """
    data = json.loads(line)
    if not isinstance(data, dict) or data.get("kind") not in _KINDS:
        raise ValueError(f"not a record: {line[:80]!r}")
    cls = _KINDS[data.pop("kind")]
    words = {"message", "detector", "severity", "split", "remedy", "type", "overrides"}
    values = {k: v if k in words else read_non_finite(v) for k, v in data.items()}
    for name in ("cause", "overrides"):
        if values.get(name) is not None:
            values[name] = tuple(values[name])
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"not a record: {error}") from None


def spell_non_finite(value: Any) -> Any:
    """Return the value with every nan and inf inside it replaced by its name."""
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if value != value else ("inf" if value > 0 else "-inf")
    if isinstance(value, Mapping):
        return {k: spell_non_finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [spell_non_finite(v) for v in value]
    return value


def read_non_finite(value: Any) -> Any:
    """Return the value with the names "nan", "inf" and "-inf" inside it read as numbers."""
    if isinstance(value, str) and value in ("nan", "inf", "-inf"):
        return float(value)
    if isinstance(value, dict):
        return {k: read_non_finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [read_non_finite(v) for v in value]
    return value
