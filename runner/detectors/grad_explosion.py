"""Gradient norms far above their usual size, again and again."""

from __future__ import annotations

import math
from itertools import chain
from typing import Annotated, NamedTuple

from annotated_types import Ge, Gt
from pydantic import validate_call

from runner.detectors.protocol import made
from runner.detectors.told import CLIPPED, at, with_lr
from runner.records import Alarm, EvalRecord, StepRecord

_CHUNK = 16  # copying many numbers at each step would cost more than all the rest
_HALF = _CHUNK // 2


class State(NamedTuple):
    """The latest norms and what they are measured by.

    Attributes:
        chunks: the window in full chunks, the oldest first and each sorted; the norm to be judged is not among them.
        chunk: norms that come after it.
        floor: what the median of the window is not below; 0.0 before there are enough.
        first: first loss.
        level: running average of the loss over 50 steps, those with too large a norm left out.
        loss: running average over 5 steps, all of them.
        marks: one bit for each of the latest steps, 1 where the norm was too large.
        is_told: whether the alarm of this episode has been raised.
    """

    chunks: tuple[tuple[float, ...], ...] = ()
    chunk: tuple[float, ...] = ()
    floor: float = 0.0
    first: float = 0.0
    level: float = 0.0
    loss: float = 0.0
    marks: int = 0
    is_told: bool = False


class GradExplosion:
    """Alarm when the gradient norm is `factor` times its median in `count` of the last `within` steps, and it hurts.

    The median is that of the last `window` norms, made anew every 16 steps, the tested one not among them; nor was any
    of them as large, for where batches are small, norms of ten times the median come again and again. It hurts
    when the loss (average over 5 steps) has risen above its level before (over 50 steps) by `loss_back` of what the
    run had gained since the first loss, and by 5%: the norm also grows tenfold when a run leaves its first plateau,
    at the edge of stability, and at a batch that a model does not fit which fits all others. Before the run has gained
    `learned` of its first loss it has nothing to lose, for healthy runs are thrown about there, unless it is at twice
    that loss.

    Where the clipping holds that gradient it is told as info.

    Args:
        factor: how many times the median is too large; > 1.
        window: norms in the median; a multiple of 16, >= 32.
        count: steps with too large a norm; >= 1.
        within: latest steps among which they are; >= count.
        loss_back: share of the gain; >= 0.
        learned: share of the first loss that the run has gained; >= 0.
    Source: OPT and GLM-130B report surges of the norm before a collapse; 90th percentile as a clip threshold:
        Google's tuning playbook. The rule is a proposal, measured on noise and on digits.
    """

    needs: frozenset[str] = frozenset({"grad_norm"})

    @validate_call
    def __init__(
        self,
        *,
        factor: Annotated[float, Gt(1)] = 20.0,
        window: Annotated[int, Ge(32)] = 128,
        count: Annotated[int, Ge(1)] = 3,
        within: Annotated[int, Ge(1)] = 10,
        loss_back: Annotated[float, Ge(0)] = 0.25,
        learned: Annotated[float, Ge(0)] = 0.1,
    ) -> None:
        if window % _CHUNK:
            raise ValueError(f"window: must be a multiple of {_CHUNK}, got {window}.")
        if count > within:
            raise ValueError(f"count: must be at most within={within}, got {count}.")
        self.factor = factor
        self.window = window
        self.count = count
        self.within = within
        self.loss_back = loss_back
        self.learned = learned
        self._mask = (1 << within) - 1

    def init(self) -> State:
        """Return the state before the first record."""
        return State()

    def update(self, state: State, record: StepRecord | EvalRecord) -> tuple[State, Alarm | None]:
        """Return the next state, and an alarm of severity "warn" when an explosion begins."""
        if isinstance(record, EvalRecord) or not (record.grad_norm < math.inf and abs(record.loss) < math.inf):
            return state, None
        newest, norm = record.loss, record.grad_norm
        chunks, chunk, floor, first, level, loss, marks, is_told = state
        is_large = 0 < self.factor * floor < norm and self._is_large(chunks, norm)
        if not chunks and not chunk:
            first = level = loss = newest
        loss += 0.2 * (newest - loss)
        alarm = None
        if is_large or marks:
            marks = (marks << 1 | is_large) & self._mask
            is_told = is_told and marks != 0
            gained = first - level
            has_to_lose = gained > self.learned * abs(first) or loss > first + abs(first)
            hurts = has_to_lose and loss > level + max(self.loss_back * gained, 0.05 * abs(level))
            if hurts and not is_told and marks.bit_count() >= self.count:
                alarm, is_told = self._alarm(state, record, marks.bit_count(), loss), True
        if not is_large:
            level += 0.02 * (newest - level)
        chunk = (*chunk, norm)
        if len(chunk) == _CHUNK:
            chunks, chunk = (*chunks, tuple(sorted(chunk)))[-(self.window // _CHUNK) :], ()
            if 2 * len(chunks) * _CHUNK >= self.window:
                floor = min([full[_HALF] for full in chunks])  # no chunk has its median below it
        return made(State, (chunks, chunk, floor, first, level, loss, marks, is_told)), alarm

    def _is_large(self, chunks: tuple[tuple[float, ...], ...], norm: float) -> bool:
        is_highest = sum([full[-1] >= norm for full in chunks]) < 2
        return is_highest and norm > self.factor * _ordered(chunks)[len(chunks) * _HALF]

    def _alarm(self, state: State, record: StepRecord, count: int, loss: float) -> Alarm:
        ordered = _ordered(state.chunks)
        median, p90 = ordered[len(ordered) // 2], ordered[len(ordered) * 9 // 10]
        evidence = with_lr(
            record, grad_norm=record.grad_norm, median=median, p90=p90, count=count, within=self.within,
            loss=loss, loss_before=state.level,
        )  # fmt: skip
        message = (
            f"gradient norm {record.grad_norm:.4g} {at(record)} is {record.grad_norm / median:.3g} times its "
            f"median {median:.4g}, {count} such steps of the last {self.within}, and the loss "
            f"has risen from {state.level:.4g} to {loss:.4g}"
            f"{CLIPPED if record.clipped else ''}"
        )
        return Alarm(record.step, "grad_explosion", "info" if record.clipped else "warn", evidence, message)


def _ordered(chunks: tuple[tuple[float, ...], ...]) -> list[float]:
    return sorted(chain.from_iterable(chunks))  # joins what is sorted already
