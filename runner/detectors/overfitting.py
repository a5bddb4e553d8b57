"""A validation loss that rises while the training loss falls: not a matter of the learning rate."""

from __future__ import annotations

import math
from typing import Annotated, Any, NamedTuple

from annotated_types import Ge, Gt, Lt
from pydantic import validate_call

from runner.detectors.protocol import made
from runner.records import Alarm, EvalRecord, StepRecord


class Evals(NamedTuple):
    """Smoothed losses of the evaluations, and what they were at their best.

    Attributes:
        average: smoothed validation loss.
        latest: validation loss of the latest evaluation.
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
    changes: tuple[float, ...] = ()
    evals: int = 0
    best: float = math.inf
    best_step: int = 0
    best_train: float = 0.0
    train: float = 0.0
    bad: int = 0
    is_told: bool = False


class State(NamedTuple):
    """Training losses since the latest evaluation, summed, how many, and what is known of the evaluations (`Evals`)."""

    loss_sum: float = 0.0
    steps: int = 0
    evals: tuple[Any, ...] = tuple(Evals())


class Overfitting:
    """Alarm when the validation loss has turned while the training loss goes on falling.

    v is the running average of `val/loss` over the evaluations, u that of the mean training loss between them, j the
    mean |change of val/loss| at the last eight. An evaluation is bad when v > best v + max(rise |best v|, jitter j) and
    u is below what it was at the best v. `patience` bad ones in a row are an alarm, one until there is a new best v.
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
            loss_sum, steps, of_evals = state
            return made(State, (loss_sum + record.loss, steps + 1, of_evals)), None
        value = record.metrics.get("loss") if record.split == "val" else None
        if value is None or not abs(value) < math.inf or not state.steps:
            return state, None
        evals = self._taken(Evals(*state.evals), record, value, state.loss_sum / state.steps)
        if evals.bad < self.patience or evals.is_told:
            return State(evals=tuple(evals)), None
        return State(evals=tuple(evals._replace(is_told=True))), self._alarm(evals, record, value)

    def _taken(self, state: Evals, record: EvalRecord, value: float, train: float) -> Evals:
        old = self.smoothing if state.evals else 0.0
        average = old * state.average + (1 - old) * value
        train = old * state.train + (1 - old) * train
        changes = (*state.changes, abs(value - state.latest))[-8:] if state.evals else ()
        is_best = average < state.best
        is_bad = not is_best and train < state.best_train and self._is_worse(average - state.best, state.best, changes)
        return Evals(
            average=average,
            latest=value,
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
            "train_loss": state.train, "train_loss_at_best": state.best_train, "evaluations": state.bad,
        }  # fmt: skip
        message = (
            f"val loss rose from {state.best:.4g} at step {state.best_step} to {state.average:.4g} at step "
            f"{record.step} while the training loss fell from {state.best_train:.4g} to {state.train:.4g}: "
            "overfitting, which a lower learning rate does not cure"
        )
        return Alarm(record.step, "overfitting", "warn", evidence, message)
