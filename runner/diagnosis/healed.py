"""Runs that a remedy has healed: judged by what followed its last action."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from runner.curves import number
from runner.diagnosis.curve import Curve
from runner.diagnosis.verdict import Diagnosis, Stretch, Suggestion
from runner.records import Action
from runner.trends import FEW, median

_FINE = ("healthy", "plateau", "lr_too_low", "cannot_tell")  # of what followed: none of them is an accident


def last_cure(curve: Curve) -> Action | None:
    """Return the last action that went back, or changed the learning rate on an alarm to stop or by a probe."""
    loud = {(alarm.detector, alarm.step) for alarm in curve.alarms if alarm.severity == "stop"}
    cures = [
        action
        for action in curve.actions
        if action.type == "Rollback"
        or (action.type == "ScaleLR" and action.cause in loud)
        or (action.type == "Probe" and action.arguments.get("factor", 1.0) < 1.0)
    ]
    return cures[-1] if cures else None


def after(curve: Curve, cure: Action) -> Curve | None:
    """Return what followed an action; None where that is too little to judge."""
    start = next((i for i, step in enumerate(curve.steps) if step > cure.step), len(curve.steps))
    if len(curve.steps) - start < FEW:
        return None
    columns = {name: getattr(curve, name) for name in ("steps", "losses", "lrs", "grad_norms", "clipped", "skipped")}
    cut = {name: values[start:] for name, values in columns.items() if values is not None}
    later = [point for point in curve.evals if point[0] > cure.step]
    signals = {name: [point for point in points if point[0] > cure.step] for name, points in curve.signals.items()}
    alarms = [alarm for alarm in curve.alarms if alarm.step > cure.step]
    known = replace(curve.known, lr=_rate_after(curve, cure))
    return replace(curve, **cut, evals=later, signals=signals, alarms=alarms, actions=(), known=known)


def _rate_after(curve: Curve, cure: Action) -> float | None:
    """Return the base learning rate that an action leaves for good, to two digits where it has changed it."""
    return _rate(curve, 1.0 if "recovery_steps" in cure.arguments else cure.arguments.get("lr_scale", 1.0))


def _rate(curve: Curve, scale: float) -> float | None:
    lr = curve.known.lr
    return lr if lr is None or scale == 1.0 else float(f"{lr * scale:.2g}")


def at_failed_rate(curve: Curve, cure: Action) -> Curve:
    """Return a curve whose last action left too little to judge, with the lowest learning rate that failed as its own.

    That is what the action left, where a stop follows it, else what it found.
    """
    lr, found = _rate_after(curve, cure), cure.arguments
    if "lr_scale" in found and "recovery_steps" not in found:
        failed_too = any(alarm.severity == "stop" and alarm.step > cure.step for alarm in curve.alarms)
        lr = _rate(curve, found["lr_scale"] / (1.0 if failed_too else found.get("factor", 1.0)))
    return replace(curve, known=replace(curve.known, lr=lr))


def advice(suggestions: Iterable[Suggestion], cure: Action) -> tuple[Suggestion, ...]:
    """Return what to try after a remedy has acted: not the same remedy, and rates below the lowest that failed."""
    new = [s for s in suggestions if s.overrides != (f"remedy=[{cure.remedy.partition('/')[0]}]",)]
    if "lr_scale" not in cure.arguments:
        return tuple(new)
    return tuple(replace(s, why=s.why.replace("times lower", "times lower than the lowest that failed")) for s in new)


def healed(curve: Curve, cure: Action, rest: Curve, found: Diagnosis) -> Diagnosis:
    """Return the verdict of what followed, saying what was done; healthy where the run went on below its start."""
    end = median(list(rest.losses[-max(len(rest.losses) // 10, 1) :]))
    did = f"the remedy {cure.remedy} acted at step {cure.step:,} ({cure.type})"
    marks = (Stretch(cure.step, cure.step, f"{cure.type} by {cure.remedy}"), *found.stretches)
    if found.cause not in _FINE or not end < curve.losses[0]:
        summary = f"{did}; after it {found.summary}"
        return replace(found, summary=summary, rests_on=(did, *found.rests_on), stretches=marks)
    summary = f"healed: {did}, and the loss went on from {number(curve.losses[0], 3)} at the start to {number(end, 3)}"
    lr = rest.known.lr
    hints: tuple[Suggestion, ...] = found.suggestions
    if lr is not None and "lr_scale" in cure.arguments and "recovery_steps" not in cure.arguments:
        rate = f"{curve.known.lr_key}={number(lr, 2)}"
        hints = (Suggestion((rate,), "start at the learning rate that the remedy ended at"),)
    share = max(found.confidence, 0.5) if found.cause == "healthy" else 0.6
    return replace(
        found, cause="healthy", summary=summary, confidence=share, rests_on=(did, *found.rests_on), stretches=marks,
        alternatives=(), suggestions=hints,
    )  # fmt: skip
