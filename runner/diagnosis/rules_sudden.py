"""Causes that strike suddenly: a number that is none, a batch, an exploding gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.curves import number
from runner.diagnosis.finding import Finding, clamp, factor_text, loss_text, sentences, times_text
from runner.diagnosis.holes import hole_marks, holes_text
from runner.diagnosis.spikes import CALM_NORM, WILD_NORM, material
from runner.diagnosis.verdict import Stretch

if TYPE_CHECKING:
    from runner.diagnosis.features import Features

_LIKE_SHARE = 0.25  # of the fall: a spike that large is no rare one when there are several
_LIKE = 0.3  # of the largest
_HEALED = 12.0  # standard deviations: below that a jump that is gone at the next value is the noise of healthy runs
_HOLE = 0.76  # a run that is fine has none, however well it goes on
_HUGE = 1.8  # times the prior entropy: weights of a usual size begin next to it
_ENOUGH = 16  # values before an end that show what was usual


def numeric_fault(f: Features) -> Finding | None:
    """Numbers that turn into none without a rise before: an overflow, a logarithm of 0, a broken input."""
    if f.ending is None:
        return _holes(f)
    what = f"the {f.ending.what} is {f.ending.value} at step {f.ending.step:,}"
    stretch = (Stretch(f.ending.step, f.ending.step, f"{f.ending.what} {f.ending.value}"),)
    if f.way_out is not None and not _is_noise(f):
        score = 0.15
        return Finding("numeric_fault", score, f"{what}, after a rise", (what,), stretch)
    count, norms = f.shape.count, f.norms
    if count == 1 and f.ending.what != "loss":
        text = f"{what}, before any update was made: it is not the learning rate"
        return Finding("numeric_fault", 0.95, text, (text,), stretch)
    score = 0.8 if count >= _ENOUGH else 0.3 + 0.03 * count
    quiet = f"none of the {times_text(count, 'loss')} before it rises beyond the noise" if count > 1 else None
    about_norms = None
    if norms is not None and f.ending.what == "loss":
        calm = norms.before_end < CALM_NORM
        score += 0.12 if calm else -0.4 if norms.before_end > WILD_NORM else -0.1
        about_norms = f"the gradient norm before it is {number(norms.before_end, 2)} times the usual one"
    score += 0.1 if f.known.precision == "fp16" else 0.0
    precision = f"the run computes in {f.known.precision}" if f.known.precision in ("fp16", "bf16") else None
    summary = f"{what}, and nothing before it rises: the last loss is {loss_text(f.series.losses[-1])}"
    return Finding("numeric_fault", clamp(score), summary, sentences([what, quiet, about_norms, precision]), stretch)


def batch_spike(f: Features) -> Finding | None:
    """A sudden jump whose step before was as usual: it came with the batch, not from the weights."""
    if f.ending is not None and f.way_out is None:
        return None
    found = [s for s in material(f.spikes) if s.came_from_data is not False and s.place >= _ENOUGH]
    if not found:
        return None
    worst = max(found, key=lambda spike: spike.rise)
    known = worst.came_from_data is not None
    score = 0.38 + 0.22 * worst.was_unannounced
    score += 0.2 * min(max(worst.z - 6, 0.0) / 8, 1.0) + 0.1 * known
    score *= 0.6 if f.shape.is_noise and worst.z < 20 else 1.0
    score -= 0.1 * sum(f.share(worst.place) < early for early in (0.05, 0.15)) + 0.35 * worst.is_gradual
    score -= 0.3 * (f.rises_late and f.share(worst.place) > 0.5)
    if worst.end - worst.place == 1 and not worst.told and worst.z < _HEALED:
        score -= 0.4  # it cost nothing
    like = [spike for spike in f.spikes if spike.share > max(_LIKE_SHARE, _LIKE * worst.share)]
    score -= 0.18 * max(len(like) - 1, 0)
    score -= 0.15 * sum(spike.came_from_data is False for spike in material(f.spikes))
    if not known and worst.end >= len(f.series):
        score -= 0.15  # it does not come back
    if f.ending is not None and f.way_out is not None and worst.end < f.way_out.place:
        score -= 0.5  # it came back from it, and left for good later
    places = "step" if len(found) == 1 else "steps"
    where = ", ".join(f"{f.step(spike.place):,}" for spike in found[:4]) + (", ..." if len(found) > 4 else "")
    summary = f"the loss jumps {factor_text(worst.rise)} above what the steps before lead to expect at {places} {where}"
    calm = f"the gradient norm of the step before is {number(worst.norm_before, 2)} times the usual one" if (
        worst.norm_before is not None
    ) else None  # fmt: skip
    back = (
        f"it is back after {times_text((worst.end - worst.place) * f.series.block, 'step')}"
        if worst.end < len(f.series)
        else "it does not come back"
    )
    rest = sentences([f"the first value is {number(worst.z, 2)} standard deviations out", calm, back])
    marks = tuple(Stretch(f.step(s.place), f.step(min(s.end, len(f.series)) - 1), "spike") for s in found[:8])
    return Finding("batch_spike", clamp(score), summary, rest, marks)


def gradient_explosion(f: Features) -> Finding | None:
    """A gradient far above the usual one at a loss that is still usual, before the loss jumps."""
    norms, huge = f.norms, _begins_huge(f)
    if norms is None or huge is not None:
        return huge
    led = [s for s in material(f.spikes) if s.norm_before is not None and s.norm_before > WILD_NORM]
    led = [s for s in led if s.share > _LIKE_SHARE]
    score = 0.3 + 0.15 * min(len(led), 3) if led else 0.0
    way_out = f.way_out
    if way_out is not None and way_out.norm_before is not None and way_out.norm_before > WILD_NORM:
        score = max(score, 0.45 + 0.1 * (way_out.place >= _ENOUGH))
    if f.ending is not None and way_out is None and norms.before_end > WILD_NORM:
        score = max(score, 0.6)
    if score == 0.0:
        return None
    places = norms.exploded[:8]
    worst = max([s.norm_before or 0.0 for s in led] + [way_out.norm_before or 0.0 if way_out else 0.0])
    seen = f"the gradient norm is {number(max(worst, norms.before_end), 2)} times the usual one before the loss jumps"
    count = f"{times_text(len(norms.exploded), 'step')} with a gradient norm over 10 times the median of the 16 before"
    marks = tuple(Stretch(f.step(place), f.step(place), "gradient norm over 10 times the usual") for place in places)
    return Finding("gradient_explosion", clamp(score), seen, (seen, count), marks)


def _holes(f: Features) -> Finding | None:
    """Losses that are no numbers, which the curve came back from; dropped gradients of fp16 are no fault."""
    if not f.series.holes:
        return None
    what = holes_text(f.series)
    score = 0.8 if f.known.precision == "fp16" else _HOLE  # its forward pass overflows
    return Finding("numeric_fault", score, what, (what,), hole_marks(f.series))


def _begins_huge(f: Features) -> Finding | None:
    """A first loss and a first gradient so large that the initial weights must be."""
    prior, norms, first = f.known.prior_entropy, f.series.norms, f.series.losses[0]
    if not norms or f.ending is None or f.ending.step - f.step(0) > 3 * _ENOUGH:
        return None
    is_huge = first > _HUGE * prior if prior is not None else norms[0] > 30 * max(abs(first), 1.0)
    if not is_huge:
        return None
    text = f"it begins with a loss of {loss_text(first)} and a gradient norm of {number(norms[0], 2)}"
    about = (
        f"a model that knows only how frequent the targets are has {loss_text(prior)}" if prior is not None else None
    )
    later = times_text(f.ending.step - f.step(0), "step")
    where = f"the initial weights are too large for this model; {f.ending.what} {f.ending.value} comes {later} later"
    marks = (Stretch(f.step(0), f.ending.step, "explodes from the start"),)
    return Finding(
        "gradient_explosion", 0.92 if prior is not None else 0.7, text, sentences([text, about, where]), marks
    )


def _is_noise(f: Features) -> bool:
    """Whether the last values are up no more than others before them were."""
    way_out = f.way_out
    return way_out is not None and way_out.steps == 1 and f.shape.count >= _ENOUGH and way_out.rise < 1.0
