"""One curve through the detectors and the diagnosis, as a live run of the runner or a foreign curve would show them."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import yaml
from making import FAMILIES, Case, Curve
from rigged import SETTINGS

from runner.assemble import make as assemble
from runner.checks.watch import DEFAULT
from runner.diagnosis.curve import Curve as Seen
from runner.diagnosis.curve import Known
from runner.diagnosis.diagnose import diagnose
from runner.durations import Clock
from runner.nodes import Node, conf_directory
from runner.records import Alarm, Record
from runner.watch import Watch

Evidence = Literal["whole run", "loss, lr, gradient norm, val", "loss alone"]
EVIDENCE: tuple[Evidence, ...] = ("whole run", "loss, lr, gradient norm, val", "loss alone")
TRIGGERS = ("plateau", "streak")  # of schedules that react: they ring on healthy runs, as they should


class Verdict(NamedTuple):
    """What a diagnosis said."""

    cause: str
    confidence: float
    alternatives: list[str]


@functools.cache
def all_detectors() -> tuple[str, ...]:
    """Return every detector but those that drive schedules."""
    names = sorted(path.stem for path in (conf_directory() / "detector").glob("*.yaml"))
    return tuple(name for name in names if name not in (*TRIGGERS, DEFAULT))


def alarms(case: Case, curve: Curve, detectors: Sequence[str]) -> list[Alarm]:
    """Return the alarms of detectors, with the arguments of their pages, on a run that nobody stops."""
    clock = Clock(SETTINGS[case.task].batch_size, None, case.length, round(case.warmup * case.length))
    provided = {"base_lr": curve.lr, "prior_entropy": curve.prior, "clip_norm": case.clip_norm, "seed": case.seed}
    made = {name: assemble(f"detectors.{name}", _node(name), clock, provided) for name in detectors}
    watch = Watch(made, {})
    state, found = watch.start(), list[Alarm]()
    for record in curve.records():
        state, rung = watch.observe(state, record)
        found += rung
    return found


def verdict(case: Case, curve: Curve, evidence: Evidence, rung: Sequence[Alarm]) -> Verdict:
    """Return the diagnosis of a curve, given so much of what is known."""
    if evidence == "loss alone":
        found = diagnose(Seen.of_losses(curve.loss))
    elif evidence == "whole run":
        records: list[Record] = [*curve.records(), *rung]
        found = diagnose(Seen.of_records(records, _known(case, curve)))
    else:
        seen = Seen.of_records(curve._replace(signals={}, clipped=None, skipped=None).records(), Known())
        found = diagnose(seen)
    return Verdict(found.cause, found.confidence, [cause for cause, _ in found.alternatives])


def _known(case: Case, curve: Curve) -> Known:
    return Known(
        family=FAMILIES[case.optimizer],
        lr=curve.lr,
        warmup_steps=round(case.warmup * case.length),
        total_steps=case.length,
        clip_norm=math.inf if case.clip_norm is None else case.clip_norm,
        prior_entropy=curve.prior,
        precision=case.precision,
        batch_size=SETTINGS[case.task].batch_size,
        schedule={"cut": "multistep", "rising": "lambda"}.get(case.schedule, case.schedule),
    )


@functools.cache
def _node(name: str) -> Node:
    text = (conf_directory() / "detector" / f"{name}.yaml").read_text(encoding="utf-8")
    return Node.model_validate(yaml.safe_load(text))
