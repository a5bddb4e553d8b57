"""Earlier runs as known points of a search: from directories of runs and sweeps, and from MLflow."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Program, Refusal
from tests.sweeps import sweep_of
from tests.test_optuna_sweeper import LR, OPTUNA, QUADRATIC, trials_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:The ..noload.. loader strategy:DeprecationWarning"),
]
SEARCH = (*OPTUNA, *QUADRATIC, LR, "hydra.sweeper.n_trials=1")


def test_runs_of_a_sweep_are_known_points_where_the_task_is_the_same(program: Program) -> None:
    sweep = program("-m", *QUADRATIC, "optimizer.lr=0.01,0.1,0.9")
    other = program(*QUADRATIC, "optimizer.lr=0.02", "train.duration=20")
    same = program(*QUADRATIC, "optimizer.lr=0.05", "train.checkpoint_every=5")
    entries = ",".join(str(done.run) for done in (sweep, other, same))
    done = program(*SEARCH, f"hydra.sweeper.known=[{entries}]")
    assert done.code == 0, done.err
    assert (
        "known points: 3 of 5 earlier runs (1 have optimizer.lr outside the space; 1 differ in train.duration)"
        in done.err
    )
    trials = trials_of(done)
    assert [trial.params["optimizer.lr"] for trial in trials[:3]] == [0.01, 0.1, 0.05]
    assert all("known" in trial.user_attrs for trial in trials[:3])
    assert len(trials) == 4, "known points do not count"
    assert "1 finished, 3 known" in done.out
    report = json.loads((done.run / "lr_report.json").read_text())
    assert [one["lr"] for one in report["runs"] if one["purpose"] == "known"] == [0.01, 0.1, 0.05]
    assert report["cost"]["runs"] == 1


def test_diverged_run_is_a_known_bad_point_and_an_option_is_known_by_its_name(program: Program) -> None:
    words = ["task=quadratic", "train.duration=30", "warmup=none"]
    first = program(*words, "optimizer.lr=9")
    assert first.code == 3
    search = ["optimizer.lr=interval(1e-3,10)", "optimizer=sgd,adam", "hydra.sweeper.n_trials=1"]
    done = program(*OPTUNA, *words, *search, f"hydra.sweeper.known={first.run}")
    assert done.code in (0, 3), done.err
    known = trials_of(done)[0]
    assert known.params == {"optimizer.lr": 9.0, "optimizer": "sgd"}
    assert known.constraints["diverged"] > 0
    assert known.user_attrs["verdict"].startswith("diverged")


@pytest.mark.slow
def test_default_search_goes_on_from_runs_that_are_known(program: Program) -> None:
    words = ["task=quadratic", "train.duration=40", "sweep.backend=sequential"]
    grid = program("mode=sweep", *words, "sweep.low=1e-2", "sweep.high=1", "sweep.points=5")
    other = program(*words[:2], "optimizer.momentum=0.5")
    search = ["mode=search", *words, f"search.known=[{grid.run},{other.run}]", "search.verify=1"]
    done = program(*search)
    assert done.code == 0, done.err
    assert "known points: 5 of 6 earlier runs (1 differ in optimizer.momentum)" in done.err
    jobs = sweep_of(done)["jobs"]
    assert "start" not in {job["varied"]["tags.purpose"] for job in jobs}
    report = json.loads((done.run / "lr_report.json").read_text())
    assert sum(one["purpose"] == "known" for one in report["runs"]) == 5
    assert report["cost"]["full_runs"] == sum(job["steps"] for job in jobs[:-1]) / 40
    assert report["notes"] == ["5 earlier runs were known before: the curve counts them, the cost does not."]
    again = program(f"resume.sweep={done.run}")
    assert (len(sweep_of(again)["jobs"]), again.err) == (len(jobs), "")


@pytest.mark.slow
def test_runs_in_mlflow_are_known_points(program: Program) -> None:
    for words in (["optimizer.lr=0.01"], ["optimizer.lr=0.1"], ["optimizer.lr=0.1", "optimizer.momentum=0.5"]):
        program(*QUADRATIC, *words, tracking="mlflow")
    done = program(*SEARCH, "hydra.sweeper.known=mlflow", tracking="mlflow")
    assert done.code == 0, done.err
    assert "known points: 2 of 3 earlier runs (1 differ in optimizer.momentum)" in done.err
    values = {trial.params["optimizer.lr"]: trial.value for trial in trials_of(done)[:2]}
    assert set(values) == {0.01, 0.1}
    assert all(0 < value < 10 for value in values.values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hydra.sweeper.known=nowhere"], "must be directories of runs or sweeps, or mlflow, got nowhere. Give a path"),
        (["hydra.sweeper.known=mlflow"], "must be directories while nothing is tracked, got mlflow."),
    ],
)
def test_known_points_that_are_not_there_are_named(
    refuse: Callable[..., Refusal], tmp_path: Path, words: list[str], message: str
) -> None:
    refusal = refuse(*SEARCH, "tracking=off", *words)
    assert refusal.code == 2
    assert f"hydra.sweeper.known: {message}" in refusal.err
