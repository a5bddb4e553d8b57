"""A loss that leaves its level within a few steps."""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

from annotated_types import Ge, Gt, Lt
from pydantic import validate_call

from runner.detectors.protocol import made
from runner.detectors.told import at, with_lr
from runner.records import Alarm, EvalRecord, StepRecord

_JOINT = 0.2  # share of the newest step in the average of the joint climb, which noise reaches a third of
_JOINT_NOISE = math.sqrt(_JOINT / (2 - _JOINT))
_QUICK = 0.5  # share of the newest logarithm of the loss in the quick average
_CLIPPED_STEPS = 10  # more steps in a row where the gradient of the first one was clipped


class State(NamedTuple):
    """Running averages of the loss, its lowest value, its noise, and how long it has been above the bound.

    Attributes:
        steps: losses so far.
        first: first loss.
        start: logarithm of the level of the start.
        average: sum of the weighted losses.
        weight: sum of their weights.
        best: lowest average.
        best_steps: losses that were in it, at most 10.
        above: steps in a row above a bound; below 0 while it waits for more as the first gradient was clipped.
        latest: logarithm of the loss of the step before.
        falls: running average of how much the logarithm falls from one loss to the next; 0 where it rises.
        quick: sum of the weighted logarithms of the loss, over three steps or so.
        norm_start: logarithm of the highest gradient norm of the start.
        climb: running average of how far loss and gradient norm both are above the start, on the log scale.
    """

    steps: int = 0
    first: float = 0.0
    start: float = 0.0
    average: float = 0.0
    weight: float = 0.0
    best: float = float("inf")
    best_steps: int = 1
    above: int = 0
    latest: float = 0.0
    falls: float = 0.0
    quick: float = 0.0
    norm_start: float = -math.inf
    climb: float = 0.0


class BlowUp:
    """Alarm when the loss has risen far above its lowest value or where it began, as measured by its own noise.

    With s the bias-corrected exponential average of the loss, b its lowest value before and n <= 10 the losses in it,
    s > b exp(noise j / sqrt(n)) + max((factor - 1) |b|, margin |first loss|), from step `grace` on: a rise that comes
    back within them (a catapult) is none. Or, from the fourth loss on, with c the average over about nine steps of the
    smaller of ln(loss / highest of the first three) and the same of the gradient norm,
    c > ln(joint_factor) + joint_noise j / 3: where steps are too long both climb, step by step.
    j is the noise, twice the average of how much ln(loss) falls where it falls: a rise does not make it larger.
    It rings when either held for `patience` steps in a row (10 more where the first gradient was clipped), and again
    after every `repeat` steps.

    It sees within a few steps what `divergence` sees after dozens.

    Args:
        factor: how many times the lowest average is too high; > 1.
        margin: how far above it at least, as a share of the first loss; >= 0, unitless.
        noise: how much of j counts there; >= 0.
        joint_factor: how many times the start both averages are too high; > 1.
        joint_noise: how much of j counts there; >= 0.
        smoothing: decay of the average per step; in [0, 1).
        patience: steps in a row; >= 1.
        grace: steps at the start that are not judged against the lowest average; >= 0.
        repeat: steps after an alarm; >= 1.
    Source: measured on half of experiments/instability_benchmark and on noise.
    """

    needs: frozenset[str] = frozenset()

    @validate_call
    def __init__(
        self,
        *,
        factor: Annotated[float, Gt(1)] = 2.0,
        margin: Annotated[float, Ge(0)] = 1.0,
        noise: Annotated[float, Ge(0)] = 4.0,
        joint_factor: Annotated[float, Gt(1)] = 1.5,
        joint_noise: Annotated[float, Ge(0)] = 1.0,
        smoothing: Annotated[float, Ge(0), Lt(1)] = 0.9,
        patience: Annotated[int, Ge(1)] = 1,
        grace: Annotated[int, Ge(0)] = 30,
        repeat: Annotated[int, Ge(1)] = 20,
    ) -> None:
        self.factor = factor
        self.margin = margin
        self.noise = noise
        self.smoothing = smoothing
        self.patience = patience
        self.grace = grace
        self.repeat = repeat
        self._log_joint = math.log(joint_factor)
        self.joint_noise = joint_noise
        self._new = 1 - smoothing

    def init(self) -> State:
        """Return the state before the first record."""
        return State()

    def update(self, state: State, record: StepRecord | EvalRecord) -> tuple[State, Alarm | None]:
        """Return the next state, and an alarm of severity "warn" when the loss has blown up."""
        if isinstance(record, EvalRecord) or not abs(record.loss) < math.inf:
            return state, None
        loss, keep, new = record.loss, self.smoothing, self._new
        steps, first, start, average, weight, best, best_steps, above, latest, falls, quick, norm_start, climb = state
        level = math.log(loss) if loss > 0 else latest
        if not steps:
            first, latest, quick = loss, level, level
        steps += 1
        norm = math.log(record.grad_norm) if 0 < record.grad_norm < math.inf else 0.0
        if steps <= 3:
            start = max(start, level) if steps > 1 else level
            norm_start = max(norm_start, norm)
        else:
            climb += _JOINT * (min(level - start, norm - norm_start) - climb)
        average, weight = keep * average + new * loss, keep * weight + new
        falls *= 0.98
        if level < latest:
            falls += 0.02 * (latest - level)
        quick += _QUICK * (level - quick)
        smooth = average / weight
        far = False
        if smooth > best + self.margin * abs(first) or climb > self._log_joint:  # else it cannot be far
            j = min(2 * falls / (1 - 0.98**steps if steps < 300 else 1), 100.0)
            far = climb > self._log_joint + self.joint_noise * _JOINT_NOISE * j
            far = far or (steps > self.grace and smooth > self._bound(first, best, j / math.sqrt(best_steps)))
        if smooth < best:
            best, best_steps = smooth, steps if steps < 10 else 10
        above = (above + 1 or 1) if far else 0
        if above == 1 and not state.above and record.clipped:  # clipping bounds the growth
            above = -_CLIPPED_STEPS
        after = made(
            State,
            (steps, first, start, average, weight, best, best_steps, above, level, falls, quick, norm_start, climb),
        )
        if above < self.patience or (above - self.patience) % self.repeat:
            return after, None
        return after, self._alarm(state, record, math.exp(min(quick, 700.0)) if loss > 0 else smooth, above)

    def _bound(self, first: float, best: float, noise: float) -> float:
        low = best * math.exp(self.noise * noise) if best > 0 else best
        return low + max((self.factor - 1) * abs(best), self.margin * abs(first))

    def _alarm(self, state: State, record: StepRecord, loss: float, above: int) -> Alarm:
        evidence = with_lr(record, smoothed_loss=loss, lowest=state.best, first=state.first, steps=above)
        message = (
            f"smoothed loss {loss:.4g} {at(record)} is far from its lowest {state.best:.4g} and "
            f"from the first loss {state.first:.4g}, further than its noise explains"
        )
        return Alarm(record.step, "blow_up", "warn", evidence, message)
