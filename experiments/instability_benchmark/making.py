"""One run of the benchmark: a case, trained by the runner's own loop with no remedy, and its curve."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from rigged import SETTINGS, Fault, Rigged
from torch.optim import SGD, AdamW, Optimizer

from runner.diagnosis.curve import Family
from runner.records import EvalRecord, Record, StepRecord, read_non_finite, spell_non_finite
from runner.remedies.protocol import INITIAL
from runner.schedules import decays, warmups
from runner.schedules.shape import Schedule
from runner.train.checkpoint import Checkpoints
from runner.train.logits import Logits
from runner.train.loop import fit
from runner.train.meters import Meter
from runner.train.plan import SnapshotPlan, TrainPlan
from runner.train.seeding import seed_everything
from runner.train.signals import GradientCosines, SecondMoments, UpdateRatios
from runner.watch import Watch

DIGITS = 6  # significant ones that a curve keeps
EVALUATIONS = 20
SIGNALS_EVERY = 20  # steps between two measurements: runs of 300 steps would have three of the default 100
METERS = (UpdateRatios, SecondMoments, GradientCosines, Logits)
DEAD_STEPS = 40  # losses in a row that are not finite, after which a run is over
FAMILIES: dict[str, Family] = {"sgd": "sgd", "momentum": "momentum", "adamw": "adaptive"}


class Case(NamedTuple):
    """A run before it is made.

    Attributes:
        family: what was done to it, which its label rests on.
        task: name of the setting.
        optimizer: sgd, momentum (0.9), adamw.
        seed: weights, data order, faults.
        multiple: its learning rate over the best one of (task, optimizer).
        steps: length; 0 is that of the setting.
        warmup: share of the run.
        schedule: cosine, linear, constant, rising (to the end), cut (x 0.001 after `cut_at` of the run).
        cut_at: share of the run, for "cut"; start of a linear fall to 0 for the others that have none, 1 for none.
        clip_norm: largest gradient norm; None does not clip.
        precision: fp32 or fp16.
        fault: what is wrong beside the learning rate.
    """

    family: str
    task: str
    optimizer: str
    seed: int
    multiple: float = 1.0
    steps: int = 0
    warmup: float = 0.05
    schedule: str = "cosine"
    cut_at: float = 1.0
    clip_norm: float | None = None
    precision: str = "fp32"
    fault: Fault = Fault()

    @property
    def length(self) -> int:
        """Steps of the run."""
        return self.steps or SETTINGS[self.task].steps

    @property
    def name(self) -> str:
        """What tells it from every other case, fit for a file; the family says only why it was made."""
        parts = [
            self.task,
            self.optimizer,
            f"x{self.multiple:g}",
            self.schedule,
            f"w{self.warmup:g}",
            f"n{self.length}",
        ]
        parts += [f"at{self.cut_at:g}"] if self.cut_at != 1.0 else []
        parts += [f"clip{self.clip_norm:g}"] if self.clip_norm is not None else []
        parts += [self.precision] if self.precision != "fp32" else []
        if self.fault.kind != "none":
            at = f"{self.fault.steps[0]}-{self.fault.steps[-1]}-{len(self.fault.steps)}" if self.fault.steps else "all"
            parts += [f"{self.fault.kind}{self.fault.size:g}at{at}"]
        return "_".join([*parts, f"s{self.seed}"])


class Curve(NamedTuple):
    """What a run leaves: a column a quantity, a row a step.

    Attributes:
        lr: base learning rate.
        prior: loss of a model that knows only the frequencies of the targets, nats; None where unknown.
        loss, lrs, grad_norm: of every step.
        clipped: of every step; None where nothing clips.
        skipped: steps whose update the fp16 scaler dropped.
        evals: (step, loss) on the val split.
        signals: name -> (step, value).
    """

    lr: float
    prior: float | None
    loss: list[float]
    lrs: list[float]
    grad_norm: list[float]
    clipped: list[int] | None
    skipped: list[int] | None
    evals: list[tuple[int, float]]
    signals: dict[str, list[tuple[int, float]]]

    @property
    def final_val(self) -> float:
        """Loss on the val split at the end, inf where the run diverged."""
        last = self.evals[-1][1] if self.evals else math.nan
        return last if self.first_non_finite is None and math.isfinite(last) else math.inf

    @property
    def final_train(self) -> float:
        """Mean training loss over the last tenth of the run, inf where it diverged."""
        last = self.loss[-max(1, len(self.loss) // 10) :]
        return fmean(last) if self.first_non_finite is None and all(map(math.isfinite, last)) else math.inf

    @property
    def first_non_finite(self) -> int | None:
        """First step whose loss or gradient norm is not finite and whose update was made."""
        kept = set(self.skipped or ())
        pairs = enumerate(zip(self.loss, self.grad_norm, strict=True))
        return next((i for i, (a, b) in pairs if not (math.isfinite(a) and math.isfinite(b)) and i not in kept), None)

    def records(self) -> list[StepRecord | EvalRecord]:
        """Return the records in the order in which the loop wrote them."""
        by_step: dict[int, dict[str, float]] = {}
        for name, points in self.signals.items():
            for step, value in points:
                by_step.setdefault(step, {})[name] = value
        evals, skipped = dict(self.evals), set(self.skipped or ())
        found: list[StepRecord | EvalRecord] = []
        for step, loss in enumerate(self.loss):
            record = StepRecord(
                step=step,
                time_ms=0,
                loss=loss,
                lr=self.lrs[step],
                grad_norm=self.grad_norm[step],
                examples=0,
                clipped=None if self.clipped is None else bool(self.clipped[step]),
                skipped=True if step in skipped else None,
                signals=by_step.get(step),
            )
            found.append(record)
            if step + 1 in evals:
                found.append(EvalRecord(step + 1, 0, "val", {"loss": evals[step + 1]}))
        return found


class NoCheckpoints(Checkpoints):
    """Nothing is saved: no run of the benchmark goes on."""

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""


def make(case: Case, best_lrs: Mapping[str, Mapping[str, float]]) -> Curve:
    """Train a case to its end, or until its losses have been no numbers for some steps."""
    task = Rigged(case.task, case.fault, seed=case.seed)
    lr = case.multiple * best_lrs[case.task][case.optimizer]
    return curve_of(train(case, lr, task, meters=[meter(SIGNALS_EVERY) for meter in METERS]), lr, task.prior_entropy)


def train(
    case: Case,
    lr: float,
    task: Rigged,
    *,
    meters: Sequence[Meter] = (),
    watch: Watch | None = None,
    on_record: Callable[[Record], None] = lambda record: None,
    is_over: Callable[[], bool] = lambda: False,
) -> list[Record]:
    """Return the records of a case trained at a learning rate, with the remedies of a watch where one is given."""
    seed_everything(case.seed)
    model = task.model()
    groups = [{"params": list(model.parameters()), "name": "all", "initial_lr": lr}]
    watch = watch if watch is not None else Watch({}, {})
    plan = TrainPlan(
        steps=case.length,
        clip_norm=case.clip_norm,
        precision="fp16" if case.precision == "fp16" else "fp32",
        eval_every=max(1, case.length // EVALUATIONS),
        snapshots=SnapshotPlan(None, keeps_initial=True) if INITIAL in watch.keeps else None,
    )
    records: list[Record] = []

    def keep(record: Record) -> None:
        records.append(record)
        on_record(record)

    fit(
        task,
        model,
        _optimizer(case.optimizer, groups, lr),
        {("all", "lr"): schedule(case)},
        plan=plan,
        watch=watch,
        checkpoints=NoCheckpoints(Path()),
        on_record=keep,
        meters=meters,
        interrupted=lambda: "the end of its numbers" if _is_dead(records) or is_over() else None,
    )
    return records


def schedule(case: Case) -> Schedule:
    """Return the factor of the learning rate."""
    total, warmup = case.length, round(case.warmup * case.length)
    ramp = warmups.linear(duration=warmup)
    bodies: dict[str, Callable[[], Schedule]] = {
        "cosine": lambda: decays.cosine(total_steps=total, warmup_steps=warmup),
        "linear": lambda: decays.linear(total_steps=total, warmup_steps=warmup),
        "rising": lambda: lambda step: (step + 1) / total * fall(step),
        "cut": lambda: lambda step: 1.0 if step < case.cut_at * total else 1e-3,
        "constant": lambda: fall,
    }

    def fall(step: int) -> float:
        return min(1.0, (1 - step / total) / (1 - case.cut_at)) if case.cut_at < 1.0 else 1.0

    body = bodies[case.schedule]()
    return lambda step: ramp.factor(step) * body(step)


def write(path: Path, curve: Curve) -> None:
    """Write a curve as gzipped JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(spell_non_finite(curve._asdict()), separators=(",", ":"))
    partial = path.with_suffix(".part")
    with gzip.GzipFile(partial, "wb", mtime=0) as file:  # the same bytes whenever it is made
        file.write(text.encode())
    partial.rename(path)


def read(path: Path) -> Curve:
    """Read a curve back."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return Curve(**read_non_finite(json.load(file)))


def _optimizer(name: str, groups: Sequence[dict[str, Any]], lr: float) -> Optimizer:
    if name == "adamw":
        return AdamW(groups, lr=lr, fused=True)
    return SGD(groups, lr=lr, momentum=0.9 if name == "momentum" else 0.0, fused=True)


def _is_dead(records: Sequence[Record]) -> bool:
    last = [record.loss for record in records[-2 * DEAD_STEPS :] if isinstance(record, StepRecord)]
    return len(last) >= DEAD_STEPS and not any(map(math.isfinite, last[-DEAD_STEPS:]))


def curve_of(records: Sequence[Record], lr: float, prior: float | None) -> Curve:
    """Return what is kept of a run."""
    steps = [record for record in records if isinstance(record, StepRecord)]
    evals = [record for record in records if isinstance(record, EvalRecord)]
    signals: dict[str, list[tuple[int, float]]] = {}
    for record in steps:
        for name, value in (record.signals or {}).items():
            signals.setdefault(name, []).append((record.step, _rounded(value)))
    clips = any(record.clipped is not None for record in steps)
    skipped = [record.step for record in steps if record.skipped]
    return Curve(
        lr=lr,
        prior=prior,
        loss=[_rounded(record.loss) for record in steps],
        lrs=[_rounded(record.lr) for record in steps],
        grad_norm=[_rounded(record.grad_norm) for record in steps],
        clipped=[int(bool(record.clipped)) for record in steps] if clips else None,
        skipped=skipped or None,
        evals=[(record.step, _rounded(record.metrics["loss"])) for record in evals],
        signals=signals,
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


torch.set_num_threads(1)  # also in the processes that import this file: sums differ between numbers of threads
