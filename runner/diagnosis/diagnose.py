"""From a curve to a verdict: the one entrance."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import replace

from runner.diagnosis.confidence import confidence, most_healthy
from runner.diagnosis.curve import Curve
from runner.diagnosis.ends import Ending
from runner.diagnosis.features import read_features
from runner.diagnosis.finding import times_text
from runner.diagnosis.healed import advice, after, at_failed_rate, healed, last_cure
from runner.diagnosis.holes import hole_marks, holes_text
from runner.diagnosis.lost_norms import dropped_text, lost_norms_text
from runner.diagnosis.rules import rank
from runner.diagnosis.series import Series
from runner.diagnosis.settle import settle
from runner.diagnosis.suggest import suggestions
from runner.diagnosis.verdict import Diagnosis, Stretch

_LEAST = 0.15  # score of an alternative worth naming


def diagnose(curve: Curve) -> Diagnosis:
    """Say what a curve shows, with a confidence, what it rests on, and what to try.

    Never raises on any numbers. A curve without a finite loss has no update to blame.
    """
    cure = last_cure(curve)
    if cure is not None:
        rest = after(curve, cure)
        found = healed(curve, cure, rest, diagnose(rest)) if rest is not None else _of_one(at_failed_rate(curve, cure))
        return replace(found, suggestions=advice(found.suggestions, cure))
    return _of_one(curve)


def _of_one(curve: Curve) -> Diagnosis:
    """Return what a curve shows that no remedy has cut in two."""
    f = read_features(curve)
    if f is None:
        return _without_a_number(curve)
    best, *others = rank(f)
    runner_up = others[0].score if others else 0.0
    count = f.shape.count * f.series.block
    is_bare = f.norms is None and f.rates is None
    family = f.known.family
    is_finite = f.ending is None
    share = confidence(best.score, runner_up, count=count, is_finite=is_finite, is_bare=is_bare, family=family)
    if best.cause == "healthy":
        share = min(share, most_healthy(family, is_bare=is_bare))
    named = [finding for finding in others if finding.score >= _LEAST and finding.cause != "cannot_tell"][:3]
    total = sum(finding.score for finding in others) or 1.0
    marks = [_to_its_end(stretch, f.series) for stretch in best.stretches]
    after_end = _zeros_text(curve, f.ending) or dropped_text(curve, f.ending)
    facts = [
        (holes_text(f.series), hole_marks(f.series)),
        _end_said(f.ending),
        _broken_evals(curve, f.ending),
        lost_norms_text(curve, f.ending),
    ]
    for text, stretches in facts:
        if text and not any(text in said for said in (best.summary, *best.rests_on)):
            best = replace(best, summary=f"{best.summary}; {text}", rests_on=(*best.rests_on, text))
            marks = sorted((*stretches, *marks), key=lambda stretch: stretch.first)
    return Diagnosis(
        cause=best.cause,
        summary=best.summary,
        confidence=share,
        rests_on=(*best.rests_on, after_end) if after_end else best.rests_on,
        stretches=tuple(marks),
        alternatives=tuple((finding.cause, (1 - share) * finding.score / total) for finding in named),
        settle=settle(best.cause, f),
        suggestions=suggestions(best.cause, f),
    )


def _to_its_end(stretch: Stretch, series: Series) -> Stretch:
    """Return a stretch of several steps up to the last one of its last block, as rules know blocks."""
    if stretch.first == stretch.last or not series.steps[0] <= stretch.last <= series.rows.steps[-1]:
        return stretch
    return replace(stretch, last=max(stretch.last, series.ends(bisect_right(series.steps, stretch.last) - 1)))


def _end_said(ending: Ending | None) -> tuple[str, tuple[Stretch, ...]]:
    """Return where a curve ends, which any verdict shall say."""
    if ending is None:
        return "", ()
    mark = Stretch(ending.step, ending.step, f"{ending.what} {ending.value}")
    return f"the {ending.what} is {ending.value} at step {ending.step:,}", (mark,)


def _broken_evals(curve: Curve, ending: Ending | None) -> tuple[str, tuple[Stretch, ...]]:
    """Return where losses on held-out data are no numbers while those in training are."""
    broken = [(step, loss) for step, loss in curve.evals if not math.isfinite(loss)]
    broken = [(step, loss) for step, loss in broken if ending is None or step < ending.step]
    if not broken:
        return "", ()
    step, loss = broken[0]
    more = f" and in {times_text(len(broken) - 1, 'evaluation')} after it" if len(broken) > 1 else ""
    return f"the held-out loss is {loss} at step {step:,}{more}", (Stretch(step, step, f"held-out loss {loss}"),)


def _zeros_text(curve: Curve, ending: Ending | None) -> str:
    """Return what is said of losses that are exactly 0 from the end of a curve on, "" where they are not."""
    rest = curve.losses[bisect_left(curve.steps, ending.step) :] if ending is not None else ()
    if ending is None or len(rest) < 2 or any(loss != 0 for loss in rest):
        return ""
    return f"all {len(rest):,} losses from step {ending.step:,} on are exactly 0, to which no training falls at once"


def _without_a_number(curve: Curve) -> Diagnosis:
    if not len(curve.losses):
        return Diagnosis("cannot_tell", "there are no values", 1.0, settle="the losses of at least a few steps")
    first, last = curve.steps[0], curve.steps[-1]
    text = f"the loss is {curve.losses[0]} from the first step on: no update was made, so it is not the learning rate"
    marks = (Stretch(first, last, "no finite loss"),)
    return Diagnosis("numeric_fault", text, 0.9, (text,), marks, settle="the data and the initial weights")
