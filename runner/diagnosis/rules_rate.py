"""Causes that are the learning rate: too high, or too high at the start."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from runner.curves import number
from runner.diagnosis.features import LOST, OF_THE_RATE, WANDER, before_bad_batch, came_back_to_prior
from runner.diagnosis.finding import Finding, clamp, factor_text, loss_text, sentences, share_text, times_text
from runner.diagnosis.spikes import CALM_NORM, WILD_NORM, material
from runner.diagnosis.verdict import Stretch
from runner.trends import FEW

if TYPE_CHECKING:
    from runner.diagnosis.features import Features

Evidence = tuple[float, str, Stretch]

EARLY = 0.2  # of the run
_RECOVERED = 0.97  # fall of the loss, share of the first one: whatever happened on the way did no harm
_SETTLED = 0.45  # of the run: by then the loss is below the first one for good
_AGAIN = 0.025  # of the steps: no healthy run of ours was above its first loss as often and as late
_HARMLESS = 0.9  # fall of the loss, share of the first one
_PAST_START = 0.25  # of the run
LARGE_LOG_Z = 50.0  # nats, that of conf/detector/logit_growth.yaml
_SLIGHT = 0.35  # score of evidence that a run which is fine may have


def lr_too_high(f: Features) -> Finding | None:
    """Rises for good, or comes to rest high after a wild stretch, or never settles."""
    if f.ending is not None:
        return _runs_away(f)
    shape, seen = f.shape, _evidence(f)
    if not seen:
        return None
    score = seen[0][0] + 0.06 * (len(seen) - 1)
    if f.rises_late or f.gave_up_late:
        score -= 0.35
    before = before_bad_batch(f)
    if before is not None and max((entry[0] for entry in _evidence(before)), default=0.0) < _SLIGHT:
        score -= 0.5  # all of it comes after the batch
    if f.never_learned and not (came_back_to_prior(f) or f.warned_of_rate or f.is_far_above_prior):
        score -= 0.2  # then it is called stuck
    if shape.is_noise:
        score *= 0.4
    marks = tuple(stretch for _, _, stretch in seen[:1])
    return Finding("lr_too_high", clamp(score), seen[0][1], tuple(text for _, text, _ in seen), marks)


def _evidence(f: Features) -> list[Evidence]:
    """Return what speaks for a rate that is too high in a curve that ends in a number, the strongest first."""
    found = [
        _gave_back(f),
        _thrown_up(f),
        _wanders(f),
        _stays_above(f),
        _many_spikes(f),
        _rests_after_a_rise(f),
        _was_alarmed(f),
        _saturates(f),
    ]
    return sorted((entry for entry in found if entry is not None), key=lambda entry: -entry[0])


def unstable_early(f: Features) -> Finding | None:
    """A rise far above the first loss within the first fifth, and a fall after it."""
    shape, way_out = f.shape, f.way_out
    adaptive = f.known.family == "adaptive"
    no_warmup = f.known.warmup_steps == 0
    bonus = 0.12 * adaptive + 0.08 * no_warmup
    if f.ending is not None:
        if way_out is None or f.share(way_out.place) > EARLY or f.known.total_steps is None:
            return None
        text = f"the loss leaves at step {f.step(way_out.place):,}, in the first fifth of the planned steps"
        return Finding("unstable_early", 0.25 + bonus, text, (text,))
    if shape.over_first < 0.1 or shape.over_first_at > EARLY or shape.last_above > 2 * EARLY or shape.fall < 0.1:
        return None
    score = 0.25 + min(shape.above_first / 0.04, 1.0) * 0.35 + bonus - min(shape.wander, 0.3)
    score -= 0.3 * f.rests_at_prior
    top, last = shape.first * math.exp(min(shape.over_first, 600.0)), round(shape.last_above * (shape.count - 1))
    text = (
        f"the loss goes from {loss_text(shape.first)} up to {loss_text(top)} within the first "
        f"{share_text(max(shape.over_first_at, 0.01))} of the steps, and then falls to {loss_text(shape.end)}"
    )
    above = f"{share_text(shape.above_first)} of the steps are above the first loss, the last one is {f.step(last):,}"
    warm = "there is no warmup" if no_warmup else None
    marks = (Stretch(f.step(0), f.step(last), "above the first loss"),)
    return Finding("unstable_early", clamp(score), text, sentences([text, above, warm]), marks)


def _runs_away(f: Features) -> Finding | None:
    """A rise that ends in numbers that are none."""
    ending, way_out, count = f.ending, f.way_out, f.shape.count
    assert ending is not None
    end = f"the {ending.what} is {ending.value} at step {ending.step:,}"
    if way_out is None:
        score = 0.5 if count < 4 else 0.35 if count < 8 else 0.2
        if f.norms is not None and f.norms.before_end > WILD_NORM:
            score += 0.3
        return Finding("lr_too_high", score, end, (end,))
    gradual = way_out.steps >= 3 and not way_out.is_jump
    score = 0.6 + 0.12 * (way_out.rise > math.log(3)) + 0.1 * gradual
    score += 0.08 * (f.norms is not None and f.norms.before_end > WILD_NORM)
    from_data = way_out.is_jump and way_out.place >= 8 and way_out.norm_before is not None
    if from_data and (way_out.norm_before or 0.0) < CALM_NORM:
        score -= 0.3
    if f.rises_late and f.share(way_out.place) > 0.5:
        score -= 0.3
    before = before_bad_batch(f)
    if before is not None and _leaves_with(f, len(before.series)):
        score -= 0.4  # it leaves with the batch
    first, last = f.step(way_out.place), f.series.steps[-1]
    text = (
        f"from {loss_text(way_out.base)} the loss rises {factor_text(way_out.rise)} its size within "
        f"{times_text(way_out.steps * f.series.block, 'step')}, then {end}"
    )
    norms = (
        f"the gradient norm ends {number(f.norms.before_end, 2)} times above what was usual"
        if f.norms is not None and f.norms.before_end > CALM_NORM
        else None
    )
    marks = (Stretch(first, last, "rises"), Stretch(ending.step, ending.step, f"{ending.what} {ending.value}"))
    return Finding("lr_too_high", clamp(score), text, sentences([text, norms]), marks)


def _gave_back(f: Features) -> Evidence | None:
    shape = f.shape
    if shape.given_back < 0.3 or not shape.first > shape.low:
        return None
    depth = (shape.first - shape.low) / (abs(shape.first) or 1.0)
    if depth < max(0.03, 4 * shape.noise) and shape.over_first < 0.1:
        return None
    score = 0.5 + 0.35 * min((shape.given_back - 0.3) / 0.4, 1.0) - 0.2 * (shape.count < FEW)
    at = round(shape.low_at * (shape.count - 1))
    text = (
        f"the loss fell from {loss_text(shape.first)} to {loss_text(shape.low)} around step {f.step(at):,} "
        f"and is back at {loss_text(shape.end)}"
    )
    return score, text, Stretch(f.step(at), f.series.steps[-1], "does not come back down")


def _recovered(f: Features) -> bool:
    """Whether the loss fell nearly to 0 and stayed there after whatever happened, and so did that on held-out data."""
    shape = f.shape
    fell = shape.fall > _RECOVERED and shape.given_back < 0.01 and shape.late_wander == 0
    return fell and shape.last_above < _SETTLED and not (f.evals is not None and f.evals.given_back > LOST)


def _wanders(f: Features) -> Evidence | None:
    shape = f.shape
    if shape.wander < WANDER or shape.count < FEW:
        return None
    score = 0.4 + 0.4 * min((shape.wander - WANDER) / 0.3, 1.0)
    lost = f.evals is not None and f.evals.given_back > LOST
    if _recovered(f):
        score *= 0.4
    if shape.rises == 1 and shape.given_back < 0.1:
        score *= 0.6  # once, and back again
    score += 0.1 * lost
    text = f"smoothed, the loss keeps rising again, by {number(shape.wander, 2)} times the first loss in sum"
    return score, text, Stretch(f.step(0), f.series.steps[-1], "never settles")


def _stays_above(f: Features) -> Evidence | None:
    shape = f.shape
    level = max(shape.above_first, 1.0 if shape.end > 1.02 * abs(shape.first) + 4 * shape.noise * shape.first else 0.0)
    stays = shape.over_first > 0.02 and shape.fall < 0.05 and shape.over_first > 4 * shape.log_noise
    if level < 0.1 and not stays:
        return None
    score = 0.55 + 0.25 * min(level / 0.4, 1.0) if level >= 0.1 else 0.6 + 0.2 * min(shape.over_first / 0.3, 1.0)
    if shape.count < FEW:
        score -= 0.1
    share, stretch = _above_first(f)
    above = f"{share_text(share)} of the losses are above the first one, {loss_text(shape.first)}"
    text = f"{above}; it ends at {loss_text(shape.end)}"
    return score, text, stretch


def _above_first(f: Features) -> tuple[float, Stretch]:
    """Return which share of the losses is above the first one, and from where to where they are."""
    places = [i for i, loss in enumerate(f.series.losses) if loss > f.shape.first]
    first, last = (places[0], places[-1]) if places else (0, 0)
    return len(places) / len(f.series), Stretch(f.step(first), f.step(last), "above the first loss")


def _thrown_up(f: Features) -> Evidence | None:
    """Above twice the first loss and above the first loss again and again, past the start, in more than one batch."""
    shape = f.shape
    if shape.above_first < _AGAIN or shape.last_above < _PAST_START or shape.over_first < math.log(2.0):
        return None
    if shape.last_above < _SETTLED and shape.fall > _HARMLESS:
        return None
    share, stretch = _above_first(f)
    text = (
        f"the loss is thrown up to {factor_text(shape.over_first)} the first one; {share_text(share)} of "
        f"the losses are above that, the last one at step {stretch.last:,}"
    )
    return 0.82, text, stretch


def _was_alarmed(f: Features) -> Evidence | None:
    loud = {"stop": 0.6, "warn": 0.4}
    found = [a for a in f.alarms if a.severity == "stop" or (a.severity == "warn" and a.detector in OF_THE_RATE)]
    alarm = max(found, key=lambda alarm: loud[alarm.severity], default=None)
    if alarm is None:
        return None
    text = f"the detector {alarm.detector} says at step {alarm.step:,}: {alarm.message}"
    score = loud[alarm.severity] * (0.5 if alarm.severity == "warn" and _recovered(f) else 1.0)
    return score, text, Stretch(alarm.step, alarm.step, f"alarm of {alarm.detector}")


def _saturates(f: Features) -> Evidence | None:
    """Outputs so large that a softmax sees one entry only: steps too long, or a batch that made them."""
    if f.log_z is None or f.log_z[1] < LARGE_LOG_Z:
        return None
    step, size = f.log_z
    text = (
        f"the outputs have grown to a log-sum-exp of {number(size, 2)} nats at step {step:,}, where a softmax saturates"
    )
    return 0.68, text, Stretch(step, step, "outputs saturate a softmax")


def _rests_after_a_rise(f: Features) -> Evidence | None:
    if not f.rests_at_prior or f.shape.over_first < max(0.05, 4 * f.shape.log_noise):
        return None
    prior = loss_text(f.known.prior_entropy or 0.0)
    text = (
        f"after a rise to {factor_text(f.shape.over_first)} the first loss it rests at {loss_text(f.shape.end)}, "
        f"where a model that knows only how frequent the targets are has {prior}"
    )
    at = round(f.shape.over_first_at * (f.shape.count - 1))
    return 0.7, text, Stretch(f.step(at), f.series.steps[-1], "at the prior entropy")


def _many_spikes(f: Features) -> Evidence | None:
    found = [spike for spike in material(f.spikes) if spike.came_from_data is not True or spike.z < 12]
    if len(found) < 3:
        return None
    score = 0.4 + 0.06 * min(len(found), 5)
    text = f"{len(found)} sudden rises of the loss"
    return score, text, Stretch(f.step(found[0].place), f.step(found[-1].place), "spikes")


def _leaves_with(f: Features, place: int) -> bool:
    """Whether the curve leaves for good with the jump at a place, which it did not come back from."""
    end = next((spike.end for spike in f.spikes if spike.place == place), place)
    return f.way_out is not None and place - 1 <= f.way_out.place <= end + 1
