"""A search in this process: asked in batches, judged on the way, told, gone on with."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from runner.errors import ConfigError, Problem
from runner.finding.observed import Observed
from runner.search.loop import search
from runner.search.study import Study
from runner.search.trials import OnEval
from tests.studies import option, plan
from tests.test_tracking import postgresql  # noqa: F401  a fixture

LR = "optimizer.lr=interval(1e-4,1)"
THRESHOLD = {"_target_": "optuna.pruners.ThresholdPruner", "upper": 2.0}
Points = Sequence[Mapping[str, str]]


def thirty(overrides: Mapping[str, str]) -> int:
    return 30


def valley(points: Points, *, on_eval: OnEval | None) -> list[Observed]:
    """A loss that is quadratic in ln lr, best at 0.01, and diverges from 0.3 on."""
    seen = []
    for place, point in enumerate(points):
        lr = float(point["optimizer.lr"])
        loss, status = math.log(lr / 0.01) ** 2 / 4, "diverged" if lr > 0.3 else "finished"
        for step in (5, 10, 20, 30):
            if status == "finished" and on_eval is not None and on_eval(place, step, {"loss": loss}):
                status = "pruned"
        seen.append(Observed(lr, 0, loss if status == "finished" else math.nan, status, first_loss=2.3, steps=30))
    return seen


def test_search_finds_the_valley_and_stops_at_its_trials(tmp_path: Path) -> None:
    study = Study(plan(LR, sampler="tpe"), tmp_path)
    seen = search(study, valley, total=25, at_once=3, check=thirty)
    assert len(seen) == 25
    [best] = study.best()
    assert 0.003 < best.params["optimizer.lr"] < 0.03
    assert search(Study(plan(LR, sampler="tpe"), tmp_path), valley, total=25, at_once=3, check=thirty) == []


def test_trials_are_judged_in_percent_of_their_steps_and_not_early(tmp_path: Path) -> None:
    study = Study(plan(LR), tmp_path)
    seen = search(study, valley, total=20, at_once=4, check=lambda _: 40, pruner=THRESHOLD, prune_after=25)
    counts = study.counts()
    assert counts.pruned == sum(one.status == "pruned" for one in seen) > 0
    assert counts.finished + counts.pruned + counts.diverged == 20
    pruned = [trial for trial in study._study.trials if trial.state.name == "PRUNED"]
    assert all(list(trial.intermediate_values)[:2] == [12, 25] for trial in pruned)


def test_every_trial_is_judged_by_its_own_length(tmp_path: Path) -> None:
    study = Study(plan(LR), tmp_path)
    lengths: dict[str, int] = {}

    def check(overrides: Mapping[str, str]) -> int:
        return lengths.setdefault(overrides["optimizer.lr"], 30 * (1 + len(lengths) % 2))

    search(study, valley, total=8, at_once=4, check=check, pruner={"_target_": "optuna.pruners.NopPruner"})
    seen = {str(list(trial.intermediate_values)) for trial in study._study.trials if trial.intermediate_values}
    assert seen == {"[16, 33, 66, 100]", "[8, 16, 33, 50]"}


def test_trial_that_is_refused_has_failed_and_the_search_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [left] = Study(plan(LR), tmp_path).ask(1, total=12)

    def check(overrides: Mapping[str, str]) -> int:
        if overrides == left.overrides:
            raise ConfigError([Problem("optimizer.lr", "must be another", "Choose one")])
        return 30

    study = Study(plan(LR), tmp_path)
    seen = search(study, valley, total=12, at_once=4, check=check, pruner=THRESHOLD, max_failure_rate=1)
    counts = study.counts()
    assert [one.status for one in seen].count("failed") == counts.failed == 1
    assert (len(seen), counts.running, counts.finished + counts.diverged + counts.pruned) == (12, 0, 11)
    assert "is refused: optimizer.lr: must be another. Choose one." in capsys.readouterr().err
    assert study._study.trials[left.number].state.name == "FAIL"


def test_search_that_is_interrupted_begins_with_what_did_not_run(tmp_path: Path) -> None:
    def one_only(points: Points, *, on_eval: OnEval | None) -> list[Observed]:
        waiting = [Observed(math.nan, 0, math.nan, "waiting") for _ in points[1:]]
        return [*valley(points[:1], on_eval=on_eval), *waiting]

    first = search(Study(plan(LR), tmp_path), one_only, total=6, at_once=3, check=thirty)
    assert [one.status for one in first][1:] == ["waiting", "waiting"]
    seen = []

    def remembering(points: Points, *, on_eval: OnEval | None) -> list[Observed]:
        seen.append([point["optimizer.lr"] for point in points])
        return valley(points, on_eval=on_eval)

    rest = search(Study(plan(LR), tmp_path), remembering, total=6, at_once=3, check=thirty)
    assert [len(batch) for batch in seen] == [2, 3]
    assert len(rest) == 5


def test_search_gives_up_when_too_many_fail(tmp_path: Path) -> None:
    def failing(points: Points, *, on_eval: OnEval | None) -> list[Observed]:
        return [Observed(1.0, 0, math.nan, "failed") for _ in points]

    seen = search(Study(plan(LR), tmp_path), failing, total=50, at_once=1, check=thirty)
    assert len(seen) == 3


@pytest.mark.parametrize("pruner", ["median", "percentile", "asha", "hyperband"])
def test_every_pruner_judges_a_search(pruner: str, tmp_path: Path) -> None:
    study = Study(plan(LR), tmp_path)
    search(study, valley, total=15, at_once=1, check=thirty, pruner=option("pruner", pruner))
    counts = study.counts()
    assert counts.finished + counts.diverged + counts.pruned == 15
    assert counts.pruned > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ..noload.. loader strategy:DeprecationWarning")
def test_study_in_postgresql_is_searched_and_gone_on_with(
    postgresql: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    shared = plan(LR, sampler="tpe", storage=postgresql)
    search(Study(shared, tmp_path), valley, total=3, at_once=2, check=thirty)
    assert len(search(Study(shared, tmp_path), valley, total=5, at_once=2, check=thirty)) == 2
