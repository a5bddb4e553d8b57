"""Pruning where a trial runs: its evaluations are reported to the study, which says whether it is given up."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import in_words
from runner.tracking.address import shown
from runner.tracking.directory import write_whole

if TYPE_CHECKING:
    from optuna import Study, Trial

STUDY = "study.json"
_VAL = "val/"


class Judge:
    """Decides at every evaluation whether a trial is given up. Steps are percent of the run.

    A storage that fails is told once; the run goes on without a judge.

    Args:
        study: with its pruner.
        numbers: of the trials that the run is; the first one decides.
        metric: such as "val/loss".
        prune_after: percent of the run before which no trial is given up.
    """

    def __init__(self, study: Study, numbers: Sequence[int], *, metric: str, prune_after: float) -> None:
        import optuna

        found = study.get_trials(deepcopy=False)
        self._trials: list[Trial] = [optuna.trial.Trial(study, found[number]._trial_id) for number in numbers]
        self._seen = {step for number in numbers for step in found[number].intermediate_values}
        self._metric = metric
        self._prune_after = prune_after
        self._is_silent = not numbers

    def __call__(self, step: int, planned_steps: int, metrics: Mapping[str, float]) -> bool:
        """Return whether the run is given up.

        Args:
            step: updates made.
            planned_steps: updates declared.
            metrics: of the val split.
        """
        percent = 100 * step // planned_steps
        value = metrics.get(self._metric.removeprefix(_VAL), math.nan) if self._metric.startswith(_VAL) else math.nan
        if self._is_silent or percent in self._seen or not math.isfinite(value):
            return False
        self._seen.add(percent)
        try:
            return self._decide(percent, float(value))
        except Exception as error:  # whatever a storage or a pruner of the user's raises
            self._is_silent = True
            print(
                f"warning search: the run is not pruned, for its study fails: {shown(in_words(error))}", file=sys.stderr
            )
            return False

    def _decide(self, percent: int, value: float) -> bool:
        from runner.search.storage import quiet_optuna

        with quiet_optuna():
            for trial in self._trials:
                trial.report(value, percent)
            if percent >= 100 or percent < self._prune_after:
                return False
            return bool(self._trials[0].should_prune())


def write_judge(directory: Path, about: Mapping[str, Any]) -> None:
    """Write what `find_judge` needs into the directory of a sweep.

    Args:
        about: storage, name, metric, pruner, prune_after, place.
    """
    text = json.dumps(dict(about), indent=2) + "\n"
    write_whole(directory / STUDY, text, is_private=True)  # the url of a database may have a password


def read_judge(directory: Path) -> dict[str, Any] | None:
    """Return what `write_judge` wrote, None when that is not there or damaged."""
    try:
        about: dict[str, Any] = json.loads((directory / STUDY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return about


def find_judge(directory: Path, job: int) -> Judge | None:
    """Return the judge of a job of a search, None where nothing is pruned.

    Args:
        directory: of the sweep.
        job: its number there.
    """
    about = read_judge(directory)
    if about is None or about["pruner"] is None:
        return None
    from runner.search.parts import make_pruner
    from runner.search.storage import open_storage, quiet_optuna
    from runner.search.study import JOB, PLACE

    with quiet_optuna():
        import optuna

        storage = open_storage(about["storage"], directory, key="search.storage")
        pruner = make_pruner(about["pruner"], key="search.pruner")
        study = optuna.load_study(storage=storage, study_name=about["name"], pruner=pruner)
        here = [
            trial.number
            for trial in study.get_trials(deepcopy=False)
            if trial.user_attrs.get(JOB) == job
            and trial.user_attrs.get(PLACE) == about["place"]
            and not trial.state.is_finished()
        ]
        return Judge(study, here, metric=about["metric"], prune_after=about["prune_after"])
