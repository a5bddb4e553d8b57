"""What a run is called: by what was done to it and by how it ended, before any detector has seen it."""

from __future__ import annotations

import math
from itertools import accumulate
from statistics import fmean, median
from typing import NamedTuple

from cases import declared, tuned
from making import Case, Curve

REGRESSION_PRIOR = 1.0  # mean squared error of the mean, of a standardised target
EARLY = 0.5  # share of the run: what has diverged before it did not do so at the end
BEFORE = 50  # steps before a spoiled batch, whose highest loss it has to exceed
BRIEF = 5  # steps after a spoiled batch in which it can show
RISE = 1.25  # times the lowest level so far: a level above it is a rise that can be seen
LEVEL_STEPS = 9  # losses whose median is a level
GRADUAL_STEPS = 10  # from leaving for good to the first number that is none: from so many on there was time to see it
LEFT_STEPS = 5  # losses whose median leaves, so that no single one does


class Label(NamedTuple):
    """What is true of a run.

    Attributes:
        cause: a cause of `runner.diagnosis.verdict.CAUSES`, or "dropped" where construction and outcome disagree.
        equal: further causes that are as true of it, one by construction and one by outcome.
        near: causes that come close; counted in a column of their own.
        silent: a failure without an event that could be alarmed.
        why: the rule that decided.
    """

    cause: str
    equal: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    silent: bool = False
    why: str = ""


NEITHER = Label("dropped", why="neither as good as the tuned runs nor clearly worse")


def label(case: Case, curve: Curve, twin: Curve | None) -> Label:
    """Return the label of a run, given the run that it is compared with."""
    rules = {
        "lr": _of_lr,
        "no_warmup": _of_no_warmup,
        "edge": _of_edge,
        "spoiled": _of_spoiled,
        "numeric": _of_numeric,
        "exploding": _of_exploding,
        "vanishing": _of_vanishing,
        "late": _of_late,
        "cut": _of_cut,
        "few": _of_few,
    }
    return rules[case.family](case, curve, twin)


def is_good(case: Case, curve: Curve) -> bool:
    """Return whether a run ended about as well as the tuned ones."""
    return _excess(case, curve, "good") <= 0.0


def is_bad(case: Case, curve: Curve) -> bool:
    """Return whether a run ended clearly worse than the tuned ones; between good and bad is neither."""
    return _excess(case, curve, "bad") > 0.0


def _excess(case: Case, curve: Curve, limit: str) -> float:
    """Return by how much the final val loss is above a limit."""
    known = tuned()[case.task][case.optimizer]
    return _beyond(case, curve, float(known["loss"]), limit)


def _beyond(case: Case, curve: Curve, reference: float, limit: str) -> float:
    rooms, deviations = declared()["labels"][limit]
    ignorant = curve.prior if curve.prior is not None else REGRESSION_PRIOR
    room = min(reference, abs(ignorant - reference))
    return float(curve.final_val - reference - max(rooms * room, deviations * tuned()[case.task][case.optimizer]["sd"]))


def has_learned(curve: Curve) -> bool:
    """Return whether the loss ever was clearly below that of a model that only knows how frequent the targets are."""
    if curve.prior is None:
        return True
    levels = [fmean(curve.loss[i : i + 20]) for i in range(0, len(curve.loss), 20)]
    return bool(min(filter(math.isfinite, levels), default=math.inf) < curve.prior - declared()["labels"]["learned"])


def is_silent(curve: Curve) -> bool:
    """Return whether nothing happened that could be seen: all numbers, no level far above an earlier one."""
    if curve.first_non_finite is not None:
        return False
    levels = [median(curve.loss[i : i + LEVEL_STEPS]) for i in range(0, len(curve.loss), LEVEL_STEPS)]
    lowest = math.inf
    for level in levels:
        if level > RISE * lowest:
            return False
        lowest = min(lowest, level)
    return True


def left_for_good(curve: Curve) -> int | None:
    """Return the first step from which on the median of five losses is above all such medians before, up to the NaN."""
    until = curve.first_non_finite
    if until is None:
        return None
    medians = [median(curve.loss[max(0, i - LEFT_STEPS + 1) : i + 1]) for i in range(until)]
    lowest_after = list(accumulate(reversed(medians), min))[::-1]
    highest_before = list(accumulate(medians, max))
    return next((i for i in range(1, until) if lowest_after[i] > highest_before[i - 1]), None)


def is_gradual(curve: Curve) -> bool:
    """Return whether a run that ends in numbers that are none left for good ten steps before; no detector is asked."""
    left, until = left_for_good(curve), curve.first_non_finite
    return left is not None and until is not None and until - left >= GRADUAL_STEPS


def _of_lr(case: Case, curve: Curve, twin: Curve | None) -> Label:
    rule = declared()["labels"]
    if is_good(case, curve):
        return Label("healthy", why="ended as well as the tuned runs")
    if not is_bad(case, curve):
        return NEITHER
    if case.multiple <= rule["low"]:
        equal = () if has_learned(curve) else ("stuck",)
        return Label("lr_too_low", equal, silent=True, why="a low rate, and worse than the tuned runs")
    if case.multiple < rule["high"]:
        return Label("dropped", why="a good rate that ended badly")
    return _too_high(case, curve)


def _too_high(case: Case, curve: Curve) -> Label:
    if not has_learned(curve) and curve.first_non_finite is None:
        return Label("lr_too_high", ("stuck",), why="too high a rate, and nothing was ever learned")
    if curve.final_train <= 1.1 * tuned()[case.task][case.optimizer]["train"]:
        if _overfits(curve):
            return Label("overfitting", ("lr_too_high",), why="trained as far as the tuned runs; val loss rose")
        return Label("dropped", why="trained as far as the tuned runs, but the val loss is worse")
    silent = case.optimizer == "adamw" and is_silent(curve)
    why = "a high rate, and worse than the tuned runs"
    return Label("lr_too_high", near=("unstable_early",), silent=silent, why=why)


def _overfits(curve: Curve) -> bool:
    vals = [loss for _, loss in curve.evals if math.isfinite(loss)]
    is_over = bool(vals) and curve.final_val > declared()["labels"]["overfits"] * min(vals)
    return is_over and curve.final_train < curve.final_val / 2


def _of_no_warmup(case: Case, curve: Curve, twin: Curve | None) -> Label:
    assert twin is not None
    if is_good(case, curve):
        return Label("healthy", why="ended as well as the tuned runs")
    if is_bad(case, curve) and is_good(case, twin):
        silent = case.optimizer == "adamw" and is_silent(curve) and has_learned(curve)
        equal = () if has_learned(curve) else ("stuck",)
        return Label("unstable_early", equal, ("lr_too_high",), silent, why="bad without a warmup, good with one")
    return _of_lr(case, curve, None)


def _of_edge(case: Case, curve: Curve, twin: Curve | None) -> Label:
    assert twin is not None
    is_better = curve.final_train < twin.final_train
    return Label("healthy" if is_better else "dropped", why="compared with a quarter of the rate")


def _of_spoiled(case: Case, curve: Curve, twin: Curve | None) -> Label:
    assert twin is not None
    first, last = case.fault.steps[0], case.fault.steps[-1] + BRIEF
    pairs = list(zip(curve.loss[first : last + 1], twin.loss[first : last + 1], strict=False))
    rule = declared()["labels"]
    highest = max(curve.loss[max(0, first - BEFORE) : first])
    shows = any(not a <= rule["visible"] * max(b, highest) for a, b in pairs)
    hides = all(a <= rule["hidden"] * b for a, b in pairs)
    # of text the loss is large anyway: it cannot double
    shows = shows or (case.task.startswith("char") and any(a > b + 0.75 for a, b in pairs))
    if shows:
        return Label("batch_spike", why="the loss was far above that of the same run without the batch")
    return Label("healthy" if hides and is_good(case, curve) else "dropped", why="the batch did not show clearly")


def _of_numeric(case: Case, curve: Curve, twin: Curve | None) -> Label:
    if all(math.isfinite(loss) for loss in curve.loss[case.fault.steps[0] :]):
        return Label("dropped", why="the fault left all losses finite")
    # with the fp16 scaler a single spoiled batch costs one update, and the run goes on
    equal = ("batch_spike",) if case.precision == "fp16" and len(case.fault.steps) == 1 else ()
    return Label("numeric_fault", equal, why="numbers ended where they were made to")


def _of_exploding(case: Case, curve: Curve, twin: Curve | None) -> Label:
    assert twin is not None
    if is_good(case, curve):
        return Label("healthy", why="ended as well as the tuned runs")
    if is_bad(case, curve) and twin.final_val < curve.final_val / 2:
        near = ("lr_too_high", "unstable_early")
        return Label("gradient_explosion", near=near, why="clipping at 1.0 halves the loss at the same rate")
    return Label("dropped", why="clipping does not cure it")


def _of_vanishing(case: Case, curve: Curve, twin: Curve | None) -> Label:
    return Label("dropped") if has_learned(curve) else Label("stuck", why="small weights, and nothing was ever learned")


def _of_late(case: Case, curve: Curve, twin: Curve | None) -> Label:
    assert twin is not None
    rule = declared()["labels"]
    broke = curve.first_non_finite
    if broke is not None and broke < EARLY * case.length:
        return _too_high(case, curve) if case.multiple >= rule["high"] else Label("dropped", why="diverged early")
    if not has_learned(curve):
        return _too_high(case, curve) if case.multiple >= rule["high"] else Label("dropped", why="learned nothing")
    if _beyond(case, curve, twin.final_val, "bad") > 0.0:
        return Label("lr_too_high_at_end", near=("lr_too_high",), why="clearly worse than with a fall to 0 at the end")
    return Label("healthy" if is_good(case, curve) else "dropped", why="not clearly worse than with a fall to 0")


def _of_cut(case: Case, curve: Curve, twin: Curve | None) -> Label:
    if is_good(case, curve):
        return Label("healthy", why="ended as well as the tuned runs")
    if not is_bad(case, curve):
        return NEITHER
    # from the cut on the rate is too low: nothing happens that could be alarmed, as with other low rates
    return Label(
        "plateau", ("lr_too_low",), silent=True, why="the rate was cut too early, and the end is worse than tuned"
    )


def _of_few(case: Case, curve: Curve, twin: Curve | None) -> Label:
    if _overfits(curve):
        return Label("overfitting", why="few examples, val loss far above its best and above the training loss")
    return Label("dropped", why="few examples, but no overfitting")
