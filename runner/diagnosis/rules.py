"""The rules, and what they say together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.diagnosis.finding import Finding, Rule
from runner.diagnosis.rules_late import lr_too_high_at_end
from runner.diagnosis.rules_low import lr_too_low
from runner.diagnosis.rules_progress import LEAST, cannot_tell, healthy, overfitting, plateau, stuck
from runner.diagnosis.rules_rate import lr_too_high, unstable_early
from runner.diagnosis.rules_sudden import batch_spike, gradient_explosion, numeric_fault

if TYPE_CHECKING:
    from runner.diagnosis.features import Features

_SICK: tuple[Rule, ...] = (
    numeric_fault,
    lr_too_high,
    unstable_early,
    lr_too_high_at_end,
    batch_spike,
    gradient_explosion,
    stuck,
    lr_too_low,
    overfitting,
    plateau,
)
_PENALTY = 0.6  # of the best sickness, off the score of health


def rank(f: Features) -> list[Finding]:
    """Return what every rule finds, the likeliest cause first."""
    few = f.ending is None and f.shape.count < LEAST  # of two values one is always higher
    sick = [finding for rule in ((numeric_fault,) if few else _SICK) if (finding := rule(f)) is not None]
    worst = max((finding.score for finding in sick), default=0.0)
    found = [*sick, cannot_tell(f)]
    fine = healthy(f)
    if fine is not None:
        score = max(fine.score + 0.2 * (worst < 0.3) - _PENALTY * max(worst - 0.3, 0.0), 0.0)
        found.append(Finding(fine.cause, min(score, 1.0), fine.summary, fine.rests_on, fine.stretches))
    return sorted(found, key=lambda finding: -finding.score)
