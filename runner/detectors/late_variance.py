"""A loss that swings at the end of a run whose learning rate is still high."""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

from annotated_types import Ge, Gt, Le, Lt
from pydantic import validate_call

from runner.detectors.protocol import made
from runner.detectors.told import at, with_lr
from runner.durations import TotalSteps
from runner.records import Alarm, EvalRecord, StepRecord

_ENOUGH = 0.75  # of the blocks; P(S m / W > 2.5) is 0.5% for 12 of 16 (F with 10 degrees)


class State(NamedTuple):
    """The highest learning rate, and sums over the last part of the run.

    Attributes:
        first: first loss, None before it.
        peak_lr: highest learning rate so far.
        taken: losses in the block that is being taken.
        total: sum of their logarithms.
        squares: sum of the squares of these.
        means: mean logarithm of each block.
        within: sum of squares within the blocks.
        is_over: whether the swing of the loss cannot be judged, or has been.
        is_low: whether the learning rate was low in the last part.
        vals: the latest three held-out losses.
        best: lowest median of three of them.
    """

    first: float | None = None
    peak_lr: float = 0.0
    taken: int = 0
    total: float = 0.0
    squares: float = 0.0
    means: tuple[float, ...] = ()
    within: float = 0.0
    is_over: bool = False
    is_low: bool = False
    vals: tuple[float, ...] = ()
    best: float = math.inf


class LateVariance:
    """Alarm at the end of the run, when its last third swings with a learning rate that has not decayed.

    The steps after `begin` are cut into `blocks` blocks of m; y is the logarithm of the loss. A line through the block
    means has slope b, and they scatter around it with variance S. Were the noise only that of the batches, S would be
    the variance W within the blocks over m. It is late variance when S m / W > `swing` (the weights move the loss, not
    the batches), the fall of the line is less than `z` of its standard errors, the learning rate has stayed above
    `lr_share` of its peak, the loss is below `progress` of the first one (one that has learned nothing is stuck), and
    the swing, loss * sqrt(S), is above `least` of the first one (a model that fits all batches has nothing to lose).
    Swings faster than a block cannot be told from the noise of the batches: silent. A rollback takes steps away: the
    blocks that are left are judged where they are three quarters of all. It is told as info where there are
    held-out losses, for then these say whether the last weights were a bad throw:
    it is a warning when the last one is `far` times the lowest median of three, at such a learning rate.

    Args:
        begin: share of the run; in (0, 1).
        blocks: how many; >= 8.
        swing: variance of the block means in units of what the noise explains; > 1.
        z: standard errors; > 0.
        lr_share: of the peak; in (0, 1].
        progress: share of the first loss; in (0, 1].
        least: share of the first loss; >= 0.
        far: times the lowest held-out loss; > 1.
        total_steps: length of the run; filled in by the runner.
    Source: measured on digits. P(S m / W > 2.5) is 0.2% for independent noise and 16 blocks (F with 14 degrees).
    """

    needs: frozenset[str] = frozenset({"lr"})

    @validate_call
    def __init__(
        self,
        *,
        begin: Annotated[float, Gt(0), Lt(1)] = 0.667,
        blocks: Annotated[int, Ge(8)] = 16,
        swing: Annotated[float, Gt(1)] = 2.5,
        z: Annotated[float, Gt(0)] = 3.0,
        lr_share: Annotated[float, Gt(0), Le(1)] = 0.5,
        progress: Annotated[float, Gt(0), Le(1)] = 0.8,
        least: Annotated[float, Ge(0)] = 0.01,
        far: Annotated[float, Gt(1)] = 1.5,
        total_steps: TotalSteps = 0,
    ) -> None:
        self.total_steps = total_steps
        self.begin = int(begin * total_steps)
        self.blocks = blocks
        self.length = (total_steps - self.begin) // blocks
        self.swing = swing
        self.z = z
        self.lr_share = lr_share
        self.progress = progress
        self.least = least
        self.far = far

    def init(self) -> State:
        """Return the state before the first record."""
        return State(is_over=self.length < 3)

    def update(self, state: State, record: StepRecord | EvalRecord) -> tuple[State, Alarm | None]:
        """Return the next state, and an alarm of severity "warn" when the loss swings instead of falling."""
        if isinstance(record, EvalRecord):
            return self._evaluated(state, record)
        first, peak_lr = state[:2]
        if record.step < self.begin and first is not None and record.lr <= peak_lr:
            return state, None
        if first is None or record.lr > peak_lr:
            state = state._replace(first=record.loss if first is None else first, peak_lr=max(peak_lr, record.lr))
        if record.step < self.begin:
            return state, None
        if not state.is_low and record.lr < self.lr_share * state.peak_lr:
            state = state._replace(is_over=True, is_low=True)
        return (state, None) if state.is_over else self._taken(state, record)

    def _evaluated(self, state: State, record: EvalRecord) -> tuple[State, Alarm | None]:
        value = record.metrics.get("loss") if record.split == "val" else None
        if value is None or not 0 < value < math.inf:
            return state, None
        vals, best = (*state.vals, value)[-3:], state.best
        if len(vals) == 3:
            best = min(best, sorted(vals)[1])
        state = state._replace(vals=vals, best=best)
        is_held = not state.is_low and self.length >= 3
        if record.step < self.total_steps or value < self.far * best or not is_held:
            return state, None
        evidence = {"val_loss": value, "best": best, "peak_lr": state.peak_lr}
        message = (
            f"val loss {value:.4g} at the end is {value / best:.3g} times its lowest {best:.4g}, and the learning rate "
            f"has stayed above {self.lr_share:.0%} of its peak"
        )
        return state, Alarm(record.step, "late_variance", "warn", evidence, message)

    def _taken(self, state: State, record: StepRecord) -> tuple[State, Alarm | None]:
        if not 0 < record.loss < math.inf:
            return state._replace(is_over=True), None
        first, peak_lr, taken, total, squares, means, within, _, _, vals, best = state
        y = math.log(record.loss)
        taken, total, squares = taken + 1, total + y, squares + y * y
        is_last = record.step >= self.begin + self.blocks * self.length - 1
        if taken < self.length and not is_last:
            after = (first, peak_lr, taken, total, squares, means, within, False, False, vals, best)
            return made(State, after), None
        if taken == self.length:
            means, within = (*means, total / taken), within + max(squares - total * total / taken, 0.0)
        is_over = len(means) == self.blocks or is_last
        state = State(first, peak_lr, means=means, within=within, is_over=is_over, vals=vals, best=best)
        is_judged = is_over and len(means) >= _ENOUGH * self.blocks
        return state, self._judge(state, first or 0.0, record) if is_judged else None

    def _judge(self, state: State, first: float, record: StepRecord) -> Alarm | None:
        count, middle = len(state.means), (len(state.means) - 1) / 2
        mean, width = math.fsum(state.means) / count, count * (count * count - 1) / 12
        slope = math.fsum((x - middle) * y for x, y in enumerate(state.means)) / width
        residuals = [y - mean - slope * (x - middle) for x, y in enumerate(state.means)]
        scatter = math.fsum(r * r for r in residuals) / (count - 2)
        noise = max(state.within / (count * (self.length - 1)) / self.length, 1e-12)
        error = math.sqrt(scatter / width)
        level = math.exp(mean)
        is_falling, is_material = -slope >= self.z * error, level * math.sqrt(scatter) > self.least * abs(first)
        if scatter <= self.swing * noise or is_falling or not is_material or level >= self.progress * first:
            return None
        evidence = with_lr(
            record, loss=level, fall=-slope * count, swing=math.sqrt(scatter), noise=math.sqrt(noise),
            peak_lr=state.peak_lr,
        )  # fmt: skip
        message = (
            f"loss around {level:.4g} has swung by {evidence['swing']:.2g} of itself since step {self.begin} "
            f"(noise of the batches explains {evidence['noise']:.2g}) and has not fallen {at(record)}, the learning "
            f"rate at {record.lr / state.peak_lr:.0%} of its peak"
        )
        return Alarm(record.step, "late_variance", "info" if state.best < math.inf else "warn", evidence, message)
