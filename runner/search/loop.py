"""A search in this process: a study asked for points in batches, whoever evaluates them, and told what came of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from runner.finding.observed import Observed
from runner.search.ended import ended_of
from runner.search.study import Study
from runner.search.trials import Ended, has_too_many_failed

OnEval = Callable[[int, int, Mapping[str, float]], bool]
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
    planned_steps: int,
    pruner: Mapping[str, Any] | None = None,
    prune_after: float = 25,
    max_failure_rate: float = 0.5,
) -> list[Observed]:
    """Ask and tell until the study has its trials, too many have failed, or some did not run; return what was seen.

    Args:
        study: opened; trials that an earlier process left running come first.
        evaluate: runs points.
        total: trials wanted in the study, over all launches.
        at_once: most points of a batch.
        planned_steps: updates of a run, for the percent at which it is judged.
        pruner: section with its `_target_`; None prunes nothing.
        prune_after: percent of a run before which none is pruned.
        max_failure_rate: share of failed trials at which the search gives up.
    Raises:
        SweepError: the storage failed.
    """
    seen, failed, ended = list[Observed](), 0, 0
    left = [trial for trials in study.in_flight().values() for trial in trials]
    while asked := left[:at_once] or study.ask(at_once, total=total):
        left = left[at_once:]
        judges = [study.judge([trial.number], pruner, prune_after=prune_after) for trial in asked] if pruner else []

        def on_eval(place: int, step: int, metrics: Mapping[str, float], judges: Sequence[Any] = judges) -> bool:
            return bool(judges[place](step, planned_steps, metrics))

        observed = evaluate([trial.overrides for trial in asked], on_eval=on_eval if judges else None)
        seen += observed
        for trial, one in zip(asked, observed, strict=True):
            if one.status in ENDS:
                told = _ended(one, study.plan.metrics)
                study.tell(trial.number, told)
                ended, failed = ended + 1, failed + (told.status == "failed")
        if not all(one.status in ENDS for one in observed):  # a signal came
            break
        if has_too_many_failed(failed, ended, most=max_failure_rate):
            break
    return seen


def _ended(one: Observed, metrics: Sequence[str]) -> Ended:
    found = ended_of(one.status, one.run, metrics, steps=one.steps)
    is_plain = one.status == "finished" and not one.run and len(metrics) == 1
    return found._replace(values=(one.loss,), first_loss=one.first_loss) if is_plain else found
