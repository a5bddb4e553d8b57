"""A loss that falls as steeply late in the run as in the beginning: the learning rate could be higher."""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

from annotated_types import Ge, Gt, Lt
from pydantic import validate_call

from runner.detectors.protocol import made
from runner.detectors.told import with_lr
from runner.durations import TotalSteps
from runner.records import Alarm, EvalRecord, StepRecord

_BLOCKS = (0.0, 0.5, 0.75)  # where in the run the mean losses are taken: the last one ends there


class State(NamedTuple):
    """Sums over the block that is being taken, and the blocks that are.

    Attributes:
        path: sum of the learning rates so far.
        clipped: steps whose gradient was clipped.
        taken: losses in the block.
        total: their sum.
        squares: sum of their squares.
        at: sum of `path` over the block.
        blocks: (mean loss, variance of that mean, mean path) of each block.
    """

    path: float = 0.0
    clipped: int = 0
    taken: int = 0
    total: float = 0.0
    squares: float = 0.0
    at: float = 0.0
    blocks: tuple[tuple[float, float, float], ...] = ()


class TooLow:
    """Alarm once, after three quarters of the run, when the loss still falls in a straight line.

    With P(t) the sum of the learning rates up to step t, and A, B, C the mean losses over T/10 steps at the start, at
    half of the run T and before three quarters of it, it is too low when
    (B - C) / (P_C - P_B) >= straight * (A - C) / (P_C - P_A), both falls are more than `z` of their standard errors,
    and C > A - (1 - remaining) |A|. P in place of the step makes a decaying learning rate no flattening of the curve.
    A run that is too short for its learning rate looks the same. A loss that has hardly moved tells nothing,
    and where most gradients are clipped it is the clipping that sets the size of the updates: silent.

    Args:
        straight: how steep the late part must be in units of the whole; 1 is a straight line; > 0.
        remaining: share of the first loss that must be left; in (0, 1).
        z: standard errors; > 0.
        least_steps: shortest run that is judged; >= 20.
        total_steps: T; filled in by the runner.
    Source: measured on digits (an MLP of two and of six layers; SGD and Adam at 0.003 to 300 times the best rate).
    """

    needs: frozenset[str] = frozenset({"lr"})

    @validate_call
    def __init__(
        self,
        *,
        straight: Annotated[float, Gt(0)] = 0.75,
        remaining: Annotated[float, Gt(0), Lt(1)] = 0.4,
        z: Annotated[float, Gt(0)] = 4.0,
        least_steps: Annotated[int, Ge(20)] = 100,
        total_steps: TotalSteps = 0,
    ) -> None:
        self.straight = straight
        self.remaining = remaining
        self.z = z
        self.length = total_steps // 10
        first, second, last = (int(share * total_steps) for share in _BLOCKS)
        is_judged = total_steps >= least_steps
        self.begins = (first, second, last - self.length) if is_judged else ()

    def init(self) -> State:
        """Return the state before the first record."""
        return State()

    def update(self, state: State, record: StepRecord | EvalRecord) -> tuple[State, Alarm | None]:
        """Return the next state, and one alarm of severity "warn" when the learning rate is too low."""
        path, clipped, taken, total, squares, at, blocks = state
        if isinstance(record, EvalRecord) or len(blocks) == len(self.begins):
            return state, None
        loss = record.loss
        path += record.lr
        if record.clipped:
            clipped += 1
        if record.step < self.begins[len(blocks)] or not abs(loss) < math.inf:
            return made(State, (path, clipped, taken, total, squares, at, blocks)), None
        taken, total, squares, at = taken + 1, total + loss, squares + loss * loss, at + path
        if taken < self.length:
            return made(State, (path, clipped, taken, total, squares, at, blocks)), None
        mean = total / taken
        variance = max(squares / taken - mean * mean, 0.0) / (taken - 1)
        state = State(path, clipped, blocks=(*blocks, (mean, variance, at / taken)))
        return state, self._judge(state, record) if len(state.blocks) == len(self.begins) else None

    def _judge(self, state: State, record: StepRecord) -> Alarm | None:
        (first, first_variance, begin), (half, half_variance, middle), (last, last_variance, end) = state.blocks
        late_error, whole_error = math.sqrt(half_variance + last_variance), math.sqrt(first_variance + last_variance)
        is_sure = half - last > self.z * late_error and first - last > self.z * whole_error
        if not is_sure or not begin < middle < end or 2 * state.clipped > record.step:
            return None
        straight = (half - last) / (end - middle) * (end - begin) / (first - last)
        if straight < self.straight or last <= first - (1 - self.remaining) * abs(first):
            return None
        evidence = with_lr(record, first=first, half=half, last=last, straightness=straight, error=late_error)
        message = (
            f"loss fell from {first:.4g} at the start to {half:.4g} at half of the run and {last:.4g} at step "
            f"{record.step} (lr {record.lr:.4g}), {straight:.2g} times as fast as a straight line: "
            "the learning rate is too low or the run too short"
        )
        return Alarm(record.step, "too_low", "warn", evidence, message)
