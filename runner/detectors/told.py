"""What every alarm says of the step that it is about."""

from __future__ import annotations

from runner.records import StepRecord

CLIPPED = "; its gradient was clipped"


def at(record: StepRecord) -> str:
    """Return "at step 12 (lr 0.1)"; without the learning rate where the curve has none."""
    return f"at step {record.step} (lr {record.lr:.4g})" if record.lr else f"at step {record.step}"


def with_lr(record: StepRecord, **evidence: float) -> dict[str, float]:
    """Return the evidence with the learning rate, where the curve has one."""
    return {**evidence, "lr": record.lr} if record.lr else evidence
