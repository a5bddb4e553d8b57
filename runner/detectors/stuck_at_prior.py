"""A loss that stays where a model is that has learned nothing but how frequent the targets are."""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

from annotated_types import Ge, Gt, Lt
from pydantic import validate_call

from runner.detectors.protocol import made
from runner.detectors.told import at, with_lr
from runner.durations import PriorEntropy, Steps
from runner.records import Alarm, EvalRecord, Severity, StepRecord


class State(NamedTuple):
    """The block that is being taken, how many in a row were at the entropy, and whether that has been told."""

    taken: int = 0
    total: float = 0.0
    squares: float = 0.0
    blocks: int = 0
    is_told: bool = False
    is_warned: bool = False


class StuckAtPrior:
    """Alarm when the mean of the latest losses is the entropy of the targets' frequencies.

    |mean of `window` losses - H| < tolerance * H, twice in a row, at `begin` or later (info) and at `sure` or later
    (warn), where H is what predicting the frequencies alone costs; twice the standard error of that mean must be less
    than tolerance * H too, for batches so noisy tell nothing. It also finds a model that falls back there, and not one
    that only passes. It rings once as either until the mean has left by twice as much.
    A run with a learning rate far too low is there as well; a loss that is no cross entropy has no H: silent.

    Args:
        begin: steps after which most runs have left: info from there on; a duration > 0.
        sure: steps after which healthy runs have left: a warning from there on, told anew; a duration > 0.
        window: losses in a mean; >= 2.
        tolerance: share of H; in (0, 1).
        prior_entropy: H in nats; filled in by the runner, None when the task has none.
    Source: measured on a transformer that a learning rate of 10 times the best one held there (post-LN, AdamW).
    """

    needs: frozenset[str] = frozenset()

    @validate_call
    def __init__(
        self,
        *,
        begin: Steps = 1,
        sure: Steps = 1,
        window: Annotated[int, Ge(2)] = 20,
        tolerance: Annotated[float, Gt(0), Lt(1)] = 0.05,
        prior_entropy: PriorEntropy = None,
    ) -> None:
        self.begin = begin
        self.sure = sure
        self.window = window
        self.tolerance = tolerance
        self.prior_entropy = prior_entropy

    def init(self) -> State:
        """Return the state before the first record."""
        return State()

    def update(self, state: State, record: StepRecord | EvalRecord) -> tuple[State, Alarm | None]:
        """Return the next state, and an alarm when the loss is stuck at H."""
        prior = self.prior_entropy
        if prior is None or record.step <= self.begin - 2 * self.window or isinstance(record, EvalRecord):
            return state, None
        loss = record.loss
        taken, total, squares, blocks, is_told, is_warned = state
        taken, total, squares = taken + 1, total + loss, squares + loss * loss
        if taken < self.window:
            return made(State, (taken, total, squares, blocks, is_told, is_warned)), None
        mean = total / taken
        away, allowed = abs(mean - prior), self.tolerance * prior
        error = math.sqrt(max(squares / taken - mean * mean, 0.0) / taken)
        if not (away < allowed and 2 * error < allowed):
            is_near = away < 2 * allowed
            return State(is_told=is_told and is_near, is_warned=is_warned and is_near), None
        is_sure = record.step > self.sure - 2
        is_found = blocks >= 1 and not (is_warned if is_sure else is_told)
        alarm = self._alarm(record, mean, prior, "warn" if is_sure else "info") if is_found else None
        is_warned = is_warned or (is_found and is_sure)
        return State(blocks=blocks + 1, is_told=is_told or is_found, is_warned=is_warned), alarm

    def _alarm(self, record: StepRecord, mean: float, prior: float, severity: Severity) -> Alarm:
        evidence = with_lr(record, mean=mean, prior_entropy=prior, window=self.window, tolerance=self.tolerance)
        message = (
            f"mean loss {mean:.4g} of the last {self.window} steps {at(record)} is the entropy of the targets "
            f"{prior:.4g}: the model tells their frequencies and nothing else"
        )
        return Alarm(record.step, "stuck_at_prior", severity, evidence, message)
