"""A gradient that is clipped at most steps."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from annotated_types import Ge, Gt, Lt
from pydantic import validate_call

from runner.detectors.protocol import made
from runner.detectors.told import at, with_lr
from runner.durations import ClipNorm, TotalSteps, WarmupSteps
from runner.records import Alarm, EvalRecord, StepRecord


class State(NamedTuple):
    """One bit for each of the latest steps, 1 where the gradient was clipped, and how many there are."""

    marks: int = 0
    steps: int = 0
    is_told: bool = False


class ClipSaturation:
    """Alarm when more than `fraction` of the last `window` gradients were clipped.

    Then the clipping sets the size of the updates and not the learning rate; it also hides a divergence, whose loss
    stays finite and flat. Steps of the warmup and of the first tenth of the run do not count: a gradient is large at
    the start. A run can be healthy so: info. It rings once until the share has fallen to half of `fraction`.

    Args:
        fraction: share of clipped steps; in (0, 1).
        window: latest steps; >= 10.
        total_steps: length of the run; filled in by the runner.
        warmup_steps: length of the warmup; filled in by the runner.
        clip_norm: what gradients are clipped at, for the message; filled in by the runner, None when not known.
    Source: google-research/tuning_playbook: more than 50% of updates clipped is extremely aggressive, lower the
        learning rate instead.
    """

    needs: frozenset[str] = frozenset({"clipped"})

    @validate_call
    def __init__(
        self,
        *,
        fraction: Annotated[float, Gt(0), Lt(1)] = 0.5,
        window: Annotated[int, Ge(10)] = 100,
        total_steps: TotalSteps = 0,
        warmup_steps: WarmupSteps = 0,
        clip_norm: ClipNorm = None,
    ) -> None:
        self.fraction = fraction
        self.window = window
        self.clip_norm = clip_norm
        self.begin = max(warmup_steps, total_steps // 10)
        self._mask = (1 << window) - 1

    def init(self) -> State:
        """Return the state before the first record."""
        return State()

    def update(self, state: State, record: StepRecord | EvalRecord) -> tuple[State, Alarm | None]:
        """Return the next state, and an alarm of severity "info" when most gradients are clipped."""
        if isinstance(record, EvalRecord) or record.clipped is None or record.step < self.begin:
            return state, None
        (marks, steps, is_told), window = state, self.window
        if steps < window:
            steps += 1
        elif not marks and not record.clipped and not is_told:
            return state, None
        marks = (marks << 1 | record.clipped) & self._mask
        share = marks.bit_count() / window
        if steps < window or share <= self.fraction or is_told:
            return made(State, (marks, steps, is_told and 2 * share > self.fraction)), None
        evidence = with_lr(record, fraction=share, window=self.window, grad_norm=record.grad_norm)
        norm = f" at {self.clip_norm:g}" if self.clip_norm is not None else ""
        message = (
            f"{share:.0%} of the last {self.window} gradients were clipped{norm} {at(record)}: "
            "the clipping sets the size of the updates, not the learning rate"
        )
        return State(marks, steps, True), Alarm(record.step, "clip_saturation", "info", evidence, message)
