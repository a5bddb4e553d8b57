"""A recorded curve, and what is known of the run beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from runner.curves import Point
from runner.records import Action, Alarm, EvalRecord, Record, StepRecord

Family = Literal["sgd", "momentum", "adaptive"]


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a run beside its curve; None is unknown.

    Attributes:
        family: "sgd" (plain), "momentum" (heavy ball, Nesterov), "adaptive" (Adam and everything that divides by a
            running size of the gradient).
        lr: base learning rate, as `lr_key` declares it.
        lr_key: the option that sets it; `optimizer.d_coef` where the optimizer estimates its learning rate.
        warmup_steps: length of the warmup; 0 for none.
        total_steps: steps planned, which may be more than there are.
        clip_norm: largest gradient norm let through; math.inf when nothing is clipped.
        prior_entropy: loss in nats of a model that knows only how frequent the targets are.
        precision: fp32, bf16 or fp16.
        batch_size: examples per step.
        schedule: name of the schedule, such as "cosine".
        was_cut_short: whether a person or a time limit ended it before its planned end.
        duration: `train.duration` as written, for a longer run.
        patience: `train.early_stop.patience`; 0 when nothing stops early.
        go_on: overrides that go on with an unfinished run of ours, such as "resume.from=runs/digits/x".
        resumed: whether it goes on from another run, so that other learning rates would not have the same start.
        options: config group -> option chosen, such as {"optimizer": "adamw"}.
    """

    family: Family | None = None
    lr: float | None = None
    lr_key: str = "optimizer.lr"
    warmup_steps: int | None = None
    total_steps: int | None = None
    clip_norm: float | None = None
    prior_entropy: float | None = None
    precision: str | None = None
    batch_size: int | None = None
    schedule: str | None = None
    was_cut_short: bool | None = None
    duration: str | int | None = None
    patience: int | None = None
    go_on: tuple[str, ...] = ()
    resumed: bool = False
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Curve:
    """The numbers of a run, in the order of its steps. Non-finite numbers are data.

    Attributes:
        steps: step numbers, rising; one a loss.
        losses: training loss.
        lrs: learning rate of the step; None when not recorded.
        grad_norms: gradient norm before clipping; None when not recorded.
        clipped: whether the gradient was clipped; None when unknown or nothing clips.
        skipped: whether the update was dropped by the fp16 scaler; None when unknown.
        evals: (step, loss) on held-out data.
        signals: further measurements by name, (step, value) each, such as "update_ratio/max".
        alarms: what detectors found while it ran.
        actions: what remedies did while it ran.
        known: what is known beside the curve.
        thinned: losses that were recorded for each that is kept, above 1 where a reader reduced them to blocks.
    Raises:
        ValueError: columns differ in length.
    """

    steps: Sequence[int]
    losses: Sequence[float]
    lrs: Sequence[float] | None = None
    grad_norms: Sequence[float] | None = None
    clipped: Sequence[bool] | None = None
    skipped: Sequence[bool] | None = None
    evals: Sequence[Point] = ()
    signals: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    alarms: Sequence[Alarm] = ()
    actions: Sequence[Action] = ()
    known: Known = field(default_factory=Known)
    thinned: float = 1.0

    def __post_init__(self) -> None:
        for name in ("losses", "lrs", "grad_norms", "clipped", "skipped"):
            column = getattr(self, name)
            if column is not None and len(column) != len(self.steps):
                raise ValueError(f"{name}: must be as many as steps, got {len(column)} and {len(self.steps)}.")

    @classmethod
    def of_losses(cls, losses: Sequence[float], known: Known | None = None) -> Curve:
        """Return the curve of bare losses, steps counted from 0."""
        return cls(range(len(losses)), losses, known=known or Known())

    @classmethod
    def of_records(cls, records: Iterable[Record], known: Known | None = None) -> Curve:
        """Return the curve of a run of ours; evaluations are those of the first split that has a loss, not train."""
        history = list(records)
        steps = [record for record in history if isinstance(record, StepRecord)]
        evals = [r for r in history if isinstance(r, EvalRecord) and "loss" in r.metrics and r.split != "train"]
        signals: dict[str, list[Point]] = {}
        for record in steps:
            for name, value in (record.signals or {}).items():
                signals.setdefault(name, []).append((record.step, value))
        has_clip = any(record.clipped is not None for record in steps)
        has_skip = any(record.skipped is not None for record in steps)
        return cls(
            steps=[record.step for record in steps],
            losses=[record.loss for record in steps],
            lrs=[record.lr for record in steps],
            grad_norms=[record.grad_norm for record in steps],
            clipped=[bool(record.clipped) for record in steps] if has_clip else None,
            skipped=[bool(record.skipped) for record in steps] if has_skip else None,
            evals=[(r.step, r.metrics["loss"]) for r in evals if r.split == evals[0].split],
            signals=signals,
            alarms=[record for record in history if isinstance(record, Alarm)],
            actions=[record for record in history if isinstance(record, Action)],
            known=known or Known(),
        )

    @property
    def first_non_finite(self) -> int | None:
        """Index of the first loss that is not finite."""
        return next((i for i, loss in enumerate(self.losses) if not math.isfinite(loss)), None)
