"""What a curve without an accident shows: progress, none, or progress on the wrong data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.curves import number
from runner.diagnosis.features import LEARNED, WANDER, came_back_to_prior
from runner.diagnosis.finding import Finding, clamp, loss_text, sentences, share_text, times_text
from runner.diagnosis.shape import BEYOND_NOISE
from runner.diagnosis.verdict import Stretch
from runner.trends import FEW, noise

if TYPE_CHECKING:
    from runner.diagnosis.features import Features

LEAST = 4  # values fewer than that show nothing, unless one is no number
_CUT_EARLY = 0.6  # of the run: a schedule that falls smoothly is above a tenth of its peak until later
_WORSE = 0.1  # held-out loss over its best, relative
_BEGINS = 0.03  # share of its gain given back: overfitting begins there


def stuck(f: Features) -> Finding | None:
    """The loss rests where a model rests that has learned only how frequent the targets are."""
    prior, shape = f.known.prior_entropy, f.shape
    if prior is None:
        return None
    if not (f.rests_at_prior or f.never_learned):
        return _hardly_learned(f, prior)
    if not f.was_wild and shape.late_fall >= 4:
        return None  # on its way
    score = (0.95 if f.was_wild else 0.62) if f.never_learned else 0.45
    if came_back_to_prior(f) or (f.was_wild and f.warned_of_rate):
        score = 0.62  # it had learned something: the learning rate threw it back
    if f.is_far_above_prior:
        score = 0.4  # it does not rest there
    text = (
        f"the loss ends at {loss_text(shape.end)}; a model that knows only how frequent the targets are has "
        f"{loss_text(prior)}"
    )
    lowest = f"its lowest level was {loss_text(shape.long_low)}" if f.never_learned else None
    first = f.step(round(0.7 * (shape.count - 1)))
    marks = (Stretch(first, f.series.steps[-1], "at the prior entropy"),)
    return Finding("stuck", score, text, sentences([text, lowest]), marks)


def _hardly_learned(f: Features, prior: float) -> Finding | None:
    """A detector said that the loss rests at the prior entropy, and it has hardly left that since."""
    alarm = next((a for a in f.alarms if a.detector == "stuck_at_prior" and a.severity == "warn"), None)
    if alarm is None or f.ending is not None or f.shape.end < prior - 2 * LEARNED:
        return None
    text = (
        f"the loss ends at {loss_text(f.shape.end)}, hardly below the {loss_text(prior)} of a model that knows only "
        "how frequent the targets are"
    )
    about = f"the detector stuck_at_prior says at step {alarm.step:,}: {alarm.message}"
    score = 0.4 if f.shape.over_first > 0.05 or f.warned_of_rate else 0.65
    return Finding(
        "stuck", score, text, (text, about), (Stretch(alarm.step, f.series.steps[-1], "near the prior entropy"),)
    )


def plateau(f: Features) -> Finding | None:
    """A loss that stands still although the run goes on: at a rate that has not fallen, or since it was cut."""
    shape = f.shape
    if f.ending is not None or shape.count < 3 * FEW or not 0.05 < shape.fall < 0.97 or f.never_learned:
        return None
    since, share = _flat_since(f)
    cut = _cut_at(f)
    if share < 0.4 or (f.rates is not None and f.rates.end < 0.3 and cut is None):
        return None
    at = round(since * (shape.count - 1))
    text = f"the loss has been at {loss_text(shape.end)} since step {f.step(at):,}, {share_text(share)} of the curve"
    about = None
    if cut is not None:
        about = f"the learning rate has been below a tenth of its peak since step {f.step(cut):,}"
        score = 0.85
    else:
        score = (0.25 + 0.35 * share) if f.rates is not None else 0.3 + 0.2 * share
    return Finding("plateau", score, text, sentences([text, about]), (Stretch(f.step(at), f.series.steps[-1], "flat"),))


def _flat_since(f: Features) -> tuple[float, float]:
    """Return from where on, as a share of the curve, all levels are that of its end, and how much that is."""
    levels, end = f.shape.levels, f.shape.end
    around = max(3 * noise(levels), 0.01 * abs(end))
    since = len(levels)
    while since > 0 and abs(levels[since - 1] - end) <= around:
        since -= 1
    return since / len(levels), 1 - since / len(levels)


def _cut_at(f: Features) -> int | None:
    """Return the block since which the learning rate is below a tenth of its peak, if in the first 60% of the run."""
    lrs = f.series.lrs
    if not lrs or f.rates is None:
        return None
    place = len(lrs)
    while place > 0 and lrs[place - 1] < 0.1 * f.rates.peak:
        place -= 1
    return place if place < _CUT_EARLY * len(lrs) else None


def overfitting(f: Features) -> Finding | None:
    """Held-out loss rises while training loss falls: nothing that a learning rate cures."""
    evals, shape = f.evals, f.shape
    if (
        evals is None
        or evals.count < 5
        or f.ending is not None
        or evals.worse < _WORSE
        or evals.given_back < _BEGINS
        or evals.best_at > 0.85
    ):
        return None
    at = next((i for i, step in enumerate(f.series.steps) if step >= evals.best_step), shape.count - 1)
    width = max(shape.count // 20, 1)
    near = f.series.losses[max(0, at - width) : at + width]
    train_then = sorted(near)[len(near) // 2]
    if shape.end > train_then or shape.end > evals.best:
        return None
    score = 0.4 + 0.45 * min((evals.given_back - _BEGINS) / 0.05, 1.0) - 0.25 * (shape.wander > WANDER)
    text = (
        f"held-out loss was lowest at step {evals.best_step:,} ({loss_text(evals.best)}) and is "
        f"{share_text(evals.worse)} higher at the end, while training loss fell from {loss_text(train_then)} "
        f"to {loss_text(shape.end)}"
    )
    marks = (Stretch(evals.best_step, f.series.steps[-1], "held-out loss rises"),)
    return Finding("overfitting", clamp(score), text, (text,), marks)


def healthy(f: Features) -> Finding | None:
    """The loss fell and ends near its lowest."""
    shape = f.shape
    if f.ending is not None or shape.fall <= 0:
        return None
    if shape.count < FEW:
        steady = shape.ups < 0.5 and shape.given_back < 0.15
        if not steady or shape.count < LEAST or shape.fall < 0.02:
            return None
        text = f"the loss fell from {loss_text(shape.first)} to {loss_text(shape.end)}"
        return Finding("healthy", 0.45 + 0.02 * shape.count, text, (text,))
    if shape.moved < 3 or shape.fall < 0.02:
        return None
    score = 0.75 if shape.fall > 0.1 else 0.45
    score -= min(2 * shape.wander, 0.4) + 0.3 * min(shape.given_back / 0.3, 1.0)
    text = f"the loss fell from {loss_text(shape.first)} to {loss_text(shape.end)}"
    ups = f"{share_text(shape.ups)} of the steps raised it, which is normal" if shape.ups > 0.05 else None
    close = f"it ends within {share_text(max(shape.given_back, 0.01))} of its fall of the lowest level"
    return Finding("healthy", clamp(score), text, sentences([text, close, ups]))


def cannot_tell(f: Features) -> Finding:
    """The numbers do not move beyond their noise, or there are too few of them."""
    shape = f.shape
    if shape.count < LEAST:
        verb = "is" if shape.count == 1 else "are"
        return Finding("cannot_tell", 0.6, f"{times_text(shape.count, 'value')} {verb} too few to say", ())
    if (
        f.ending is None
        and shape.over_usual < BEYOND_NOISE
        and abs(shape.moved) < 5
        and abs(shape.fall) < max(0.03, 3 * shape.noise)
    ):
        text = (
            f"the loss stays at {loss_text(shape.end)}: its change over the whole curve is "
            f"{number(abs(shape.moved), 2)} times the noise of its mean"
        )
        return Finding("cannot_tell", 0.6, text, (text,))
    return Finding("cannot_tell", 0.3 if shape.count < FEW else 0.2, "no rule of ours fits this curve", ())
