"""A validation loss that rises while the training loss falls: not a matter of the learning rate."""

from __future__ import annotations

import math
from typing import Annotated, Any, NamedTuple

from annotated_types import Ge, Gt, Lt
from pydantic import validate_call

from runner.detectors.protocol import made
from runner.records import Alarm, EvalRecord, StepRecord

_NOTHING = 0.015  # of what the run had gained: a rise that matters
_FAR = 0.25  # of the lowest validation loss
_LOST = 0.05  # of what the run had gained


class Evals(NamedTuple):
    """Smoothed losses of the evaluations, and what they were at their best.

    Attributes:
        average: smoothed validation loss.
        latest: validation loss of the latest evaluation.
        lowest: lowest of them.
        above: evaluations in a row far above that.
        changes: |change of it| at the latest evaluations.
        evals: evaluations so far.
        best: lowest smoothed validation loss.
        best_step: step of that evaluation.
        best_train: mean training loss before it.
        train: smoothed mean training loss.
        bad: evaluations in a row that are worse while the training loss is better.
        is_told: whether the alarm has been raised since the best one.
    """

    average: float = 0.0
    latest: float = 0.0
    lowest: float = math.inf
    above: int = 0
    changes: tuple[float, ...] = ()
    evals: int = 0
    best: float = math.inf
    best_step: int = 0
    best_train: float = 0.0
    train: float = 0.0
    bad: int = 0
    is_told: bool = False


class State(NamedTuple):
    """Training losses since the latest evaluation, summed, how many, what is known of evaluations, the first loss."""

    loss_sum: float = 0.0
    steps: int = 0
    evals: tuple[Any, ...] = tuple(Evals())
    first: float = -math.inf


class Overfitting:
    """Alarm when the validation loss has turned while the training loss goes on falling.

    v is the running average of `val/loss` over the evaluations, u that of the mean training loss between them, j the
    mean |change of val/loss| at the last eight. An evaluation is bad when v > best v + max(rise |best v|, jitter j) and
    u is below what it was at the best v, and v has risen by 0.015 of what the run had gained since its first loss.
    So is one whose val/loss itself is a quarter of its lowest and 0.05 of that gain above its lowest, with a training
    loss of at most half of it. `patience` of one kind in a row are an alarm, one until there is a new best v.
    A lower learning rate is no cure; stop earlier, take the best checkpoint, regularise or get more data.

    Args:
        rise: share of the best value; > 0.
        patience: bad evaluations in a row; >= 1.
        jitter: how many times the mean change between evaluations; >= 0.
        smoothing: decay of the averages per evaluation; in [0, 1).
    Source: the rule is a proposal; the jitter keeps noise from being compared with its own lucky minimum.
    """

    needs: frozenset[str] = frozenset({"eval"})

    @validate_call
    def __init__(
        self,
        *,
        rise: Annotated[float, Gt(0)] = 0.1,
        patience: Annotated[int, Ge(1)] = 3,
        jitter: Annotated[float, Ge(0)] = 4.0,
        smoothing: Annotated[float, Ge(0), Lt(1)] = 0.5,
    ) -> None:
        self.rise = rise
        self.patience = patience
        self.jitter = jitter
        self.smoothing = smoothing

    def init(self) -> State:
        """Return the state before the first record."""
        return State()

    def update(self, state: State, record: StepRecord | EvalRecord) -> tuple[State, Alarm | None]:
        """Return the next state, and an alarm of severity "warn" when the run overfits."""
        if isinstance(record, StepRecord):
            if not abs(record.loss) < math.inf:
                return state, None
            loss_sum, steps, of_evals, first = state
            if first == -math.inf:
                first = record.loss
            return made(State, (loss_sum + record.loss, steps + 1, of_evals, first)), None
        value = record.metrics.get("loss") if record.split == "val" else None
        if value is None or not abs(value) < math.inf or not state.steps:
            return state, None
        evals = self._taken(Evals(*state.evals), record, value, state.loss_sum / state.steps, state.first)
        if max(evals.bad, evals.above) < self.patience or evals.is_told:
            return State(evals=tuple(evals), first=state.first), None
        return State(evals=tuple(evals._replace(is_told=True)), first=state.first), self._alarm(evals, record, value)

    def _taken(self, state: Evals, record: EvalRecord, value: float, train: float, first: float) -> Evals:
        is_above = value - state.lowest > max(_FAR * abs(state.lowest), _LOST * (first - state.lowest))
        is_above = is_above and 2 * train < value
        old = self.smoothing if state.evals else 0.0
        average = old * state.average + (1 - old) * value
        train = old * state.train + (1 - old) * train
        changes = (*state.changes, abs(value - state.latest))[-8:] if state.evals else ()
        is_best = average < state.best
        is_bad = not is_best and train < state.best_train and self._is_worse(average - state.best, state.best, changes)
        is_bad = is_bad and average - state.best > _NOTHING * (first - state.best)
        return Evals(
            average=average,
            latest=value,
            lowest=min(value, state.lowest),
            above=state.above + 1 if is_above else 0,
            changes=changes,
            evals=state.evals + 1,
            best=average if is_best else state.best,
            best_step=record.step if is_best else state.best_step,
            best_train=train if is_best else state.best_train,
            train=train,
            bad=state.bad + 1 if is_bad else 0,
            is_told=state.is_told and not is_best,
        )

    def _is_worse(self, rise: float, best: float, changes: tuple[float, ...]) -> bool:
        return rise > self.rise * abs(best) and rise > self.jitter * sum(changes) / len(changes)

    def _alarm(self, state: Evals, record: EvalRecord, value: float) -> Alarm:
        evidence = {
            "val_loss": value, "average": state.average, "best": state.best, "best_step": state.best_step,
            "train_loss": state.train, "train_loss_at_best": state.best_train, "lowest": state.lowest,
            "evaluations": max(state.bad, state.above),
        }  # fmt: skip
        if state.bad >= self.patience:
            rise = f"from {state.best:.4g} at step {state.best_step} to {state.average:.4g}"
            train = f"fell from {state.best_train:.4g} to {state.train:.4g}"
        else:
            rise, train = f"from its lowest {state.lowest:.4g} to {value:.4g}", f"is {state.train:.4g}"
        message = (
            f"val loss rose {rise} at step {record.step} while the training loss {train}: "
            "overfitting, which a lower learning rate does not cure"
        )
        return Alarm(record.step, "overfitting", "warn", evidence, message)
