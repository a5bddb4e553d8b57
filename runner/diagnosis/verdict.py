"""What a diagnosis says: a cause with its confidence, the steps that show it, what to try."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from runner.records import spell_non_finite

Cause = Literal[
    "healthy",
    "lr_too_high",
    "unstable_early",
    "lr_too_high_at_end",
    "lr_too_low",
    "stuck",
    "batch_spike",
    "numeric_fault",
    "gradient_explosion",
    "plateau",
    "overfitting",
    "cannot_tell",
]
CAUSES: tuple[Cause, ...] = get_args(Cause)

IN_WORDS: dict[Cause, str] = {
    "healthy": "healthy",
    "lr_too_high": "learning rate too high",
    "unstable_early": "unstable early, needs warmup",
    "lr_too_high_at_end": "learning rate too high at the end",
    "lr_too_low": "learning rate too low",
    "stuck": "stuck",
    "batch_spike": "spike from a batch",
    "numeric_fault": "numeric fault",
    "gradient_explosion": "gradient explosion",
    "plateau": "plateau",
    "overfitting": "overfitting",
    "cannot_tell": "cannot tell",
}


@dataclass(frozen=True, slots=True)
class Stretch:
    """Steps that show something; `first` == `last` for a single one.

    Attributes:
        first: first step.
        last: last step, included.
        what: what happens there, in a few words.
    """

    first: int
    last: int
    what: str


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One thing to try.

    Attributes:
        overrides: ready to paste, such as "optimizer.lr=0.003"; a comma-separated value is a multirun; empty where no
            option of ours does it, or the learning rate is not known.
        why: what to do, as a phrase: "try a learning rate ten times lower", "go on with"; multiples of an unknown
            learning rate are named in it: "LR / 10: try a learning rate ten times lower".
    """

    overrides: tuple[str, ...]
    why: str

    @property
    def is_multirun(self) -> bool:
        """Whether a value is a list for -m; commas inside brackets belong to one value."""
        return any("," in _outside_brackets(override.partition("=")[2]) for override in self.overrides)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a curve shows.

    Attributes:
        cause: one of `CAUSES`.
        summary: one sentence with the numbers, for a person.
        confidence: estimated probability that the cause is right, in [0, 1]; of "cannot_tell", which can be neither
            right nor wrong, it is what the alternatives leave, and is not shown.
        rests_on: what the verdict rests on, a sentence each, with the numbers.
        stretches: the steps that show it, in order.
        alternatives: other causes that the curve leaves open, with their confidence, the likeliest first.
        settle: what would settle the doubt; "" where there is none.
        suggestions: what to try, in this order.
    """

    cause: Cause
    summary: str
    confidence: float
    rests_on: tuple[str, ...] = ()
    stretches: tuple[Stretch, ...] = ()
    alternatives: tuple[tuple[Cause, float], ...] = ()
    settle: str = ""
    suggestions: tuple[Suggestion, ...] = ()


def to_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return the diagnosis as a tree of JSON: tuples as lists, an alternative as {cause, confidence}.

    The confidence of "cannot_tell" is null.
    """
    tree = asdict(diagnosis)
    tree["confidence"] = round(diagnosis.confidence, 3) if diagnosis.cause != "cannot_tell" else None
    tree["alternatives"] = [{"cause": cause, "confidence": round(share, 3)} for cause, share in diagnosis.alternatives]
    found: dict[str, Any] = spell_non_finite(tree)
    return found


def in_words(tree: Mapping[str, Any]) -> str:
    """Return one line on a diagnosis in its JSON form: cause, confidence where there is one, summary."""
    sure = f" ({tree['confidence']:.0%})" if tree["confidence"] is not None else ""
    return f"{IN_WORDS[tree['cause']]}{sure}: {tree['summary']}"


def first_overrides(tree: Mapping[str, Any]) -> str:
    """Return the overrides to try first as they are typed in a shell, "" when there are none."""
    return next((shlex.join(s["overrides"]) for s in tree["suggestions"] if s["overrides"]), "")


def _outside_brackets(value: str) -> str:
    depth, kept = 0, []
    for character in value:
        depth += (character in "[{(") - (character in "]})")
        if depth == 0:
            kept.append(character)
    return "".join(kept)
