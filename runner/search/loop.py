"""A search in this process: a study asked for points in batches, whoever evaluates them, and told what came of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from runner.errors import ConfigError
from runner.finding.observed import Observed
from runner.search.ended import ended_of
from runner.search.study import Study
from runner.search.trials import Asked, Ended, OnEval, tell_refused

ENDS = ("finished", "diverged", "pruned", "failed")


class Evaluate(Protocol):
    """Runs points; lanes, this process or others, the search cannot tell."""

    def __call__(self, points: Sequence[Mapping[str, str]], *, on_eval: OnEval | None) -> Sequence[Observed]:
        """Return what came of each point, in the same order."""
        ...


def search(
    study: Study,
    evaluate: Evaluate,
    *,
    total: int,
    at_once: int,
    check: Callable[[Mapping[str, str]], int],
    pruner: Mapping[str, Any] | None = None,
    prune_after: float = 25,
    max_failure_rate: float = 0.5,
) -> list[Observed]:
    """Ask and tell until the study has its trials, too many have failed, or some did not run; return what was seen.

    A point that is refused has failed, and the search goes on.

    Args:
        study: opened; trials that an earlier process left running come first.
        evaluate: runs points.
        total: trials wanted in the study, over all launches.
        at_once: most points of a batch.
        check: overrides of a point -> updates of its run, for the percent at which it is judged; raises ConfigError
            where the page refuses it.
        pruner: section with its `_target_`; None prunes nothing.
        prune_after: percent of a run before which none is pruned.
        max_failure_rate: share of failed trials at which the search gives up.
    Raises:
        SweepError: the storage failed.
    """
    seen = list[Observed]()
    left = [trial for trials in study.in_flight().values() for trial in trials]
    while asked := left[:at_once] or study.ask(at_once, total=total):
        left = left[at_once:]
        planned = [_planned(trial, study, check) for trial in asked]
        sound = [(trial, steps) for trial, steps in zip(asked, planned, strict=True) if steps is not None]
        seen += [Observed(math.nan, 0, math.nan, "failed")] * (len(asked) - len(sound))
        judges = [study.judge([trial.number], pruner, prune_after=prune_after) for trial, _ in sound] if pruner else []

        def on_eval(place: int, step: int, metrics: Mapping[str, float], batch: Any = (sound, judges)) -> bool:
            (_, planned_steps), judge = batch[0][place], batch[1][place]
            return bool(judge(step, planned_steps, metrics))

        points = [trial.overrides for trial, _ in sound]
        observed = evaluate(points, on_eval=on_eval if judges else None) if points else []
        seen += observed
        for (trial, _), one in zip(sound, observed, strict=True):
            if one.status in ENDS:
                study.tell(trial.number, _ended(one, study.plan.metrics))
        if not all(one.status in ENDS for one in observed):  # a signal came
            break
        if study.has_too_many_failed(most=max_failure_rate):
            break
    return seen


def _planned(trial: Asked, study: Study, check: Callable[[Mapping[str, str]], int]) -> int | None:
    """Return the updates of a trial; None where it is refused, which the study is told."""
    try:
        return check(trial.overrides)
    except ConfigError as error:
        study.tell(trial.number, tell_refused(trial, error))
        return None


def _ended(one: Observed, metrics: Sequence[str]) -> Ended:
    found = ended_of(one.status, one.run, metrics, steps=one.steps)
    is_plain = one.status == "finished" and not one.run and len(metrics) == 1
    return found._replace(values=(one.loss,), first_loss=one.first_loss) if is_plain else found
