"""`-m hydra/sweeper=optuna` through the program: searched, recorded, pruned, told, gone on with, and refused."""

import json
import re
import signal
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Done, Program, Refusal, call_command, call_program
from tests.studies import sqlite
from tests.sweeps import multirun_that_gets, runs_of, statuses, sweep_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:The ..noload.. loader strategy:DeprecationWarning"),
]
OPTUNA = ("-m", "hydra/sweeper=optuna")
QUADRATIC = ("task=quadratic", "train.duration=10", "warmup=none")
LR = "optimizer.lr=interval(1e-3,0.3)"

PARTS = """
import os, pathlib, signal, time
from runner.tasks.quadratic import Quadratic

class Slow(Quadratic):
    def batch(self, step, split, part=(0, 1)):
        if step >= 20 and not os.path.exists("fast"):
            time.sleep(0.05)
        return super().batch(step, split, part)

class Broken(Quadratic):
    def model(self):
        raise RuntimeError("no model today")

class Dying(Quadratic):
    def batch(self, step, split, part=(0, 1)):
        if step == 7 and len(list(pathlib.Path("runs/quadratic").iterdir())) == 3 and not os.path.exists("has_died"):
            pathlib.Path("has_died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(step, split, part)

def ask(page, trial):
    assert page.hydra.sweeper.n_trials
    kind = trial.suggest_categorical("optimizer", ["sgd", "adamw"])
    if kind == "adamw":
        trial.suggest_float("optimizer.weight_decay", 0.01, 0.1)

def asking_twice(page, trial):
    assert trial.user_attrs["warmup"] == "none"
    trial.suggest_categorical("train.duration", [5, 10])

def misspelling(page, trial):
    trial.suggest_float("optimizer.lrr", 0.1, 0.2)

def raising(page, trial):
    raise ValueError("no space today")
"""


@pytest.fixture
def parts(tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text(PARTS)


def trials_of(done: Done, storage: str | None = None, name: str | None = None) -> list[Any]:
    """Trials of the study of a search."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    where = storage or JournalStorage(JournalFileBackend(str(done.run / "study.journal")))
    study = optuna.load_study(storage=where, study_name=name or done.run.name)
    return study.get_trials()


def states_of(trials: list[Any]) -> list[str]:
    return [trial.state.name for trial in trials]


def test_search_is_a_sweep_whose_runs_are_the_trials_of_a_study(program: Program, tmp_path: Path) -> None:
    wide = "optimizer.lr=interval(1e-2,10)"
    done = program(*OPTUNA, *QUADRATIC, "train.duration=30", wide, "hydra.sweeper.n_trials=5")
    assert done.code == 0, done.err
    sweep, trials = sweep_of(done), trials_of(done)
    jobs = {job["number"]: job for job in sweep["jobs"]}
    assert states_of(trials) == ["COMPLETE"] * 5
    assert {"finished", "diverged"} == set(statuses(done)), "the range goes far beyond what is stable"
    for trial in trials:
        job = jobs[trial.user_attrs["job"]]
        assert float(job["varied"]["optimizer.lr"]) == pytest.approx(trial.params["optimizer.lr"], rel=1e-5)
        result = json.loads((tmp_path / job["run"] / "result.json").read_text())
        assert result["tags"]["sweep"] == sweep["id"]
        assert not any("hydra" in text or "study" in text for text in result["overrides"])
        is_diverged = job["status"] == "diverged"
        assert (trial.constraints["diverged"] > 0) is is_diverged
        assert trial.user_attrs["steps"] == job["steps"]
        if not is_diverged:
            assert trial.value == result["final"]["train/loss"]
    best = min(job["final_loss"] for job in sweep["jobs"] if job["status"] == "finished")
    assert yaml.safe_load((done.run / "optimization_results.yaml").read_text())["best_value"] == best
    assert "job 1/5 (optimizer.lr=" in done.out
    assert re.search(r"^search \S+: \d finished, \d diverged$", done.out, re.MULTILINE)
    assert (done.run / "lr_report.json").is_file()


@pytest.mark.slow
def test_same_seed_gives_the_same_search_and_another_another(program: Program) -> None:
    words = [*OPTUNA, *QUADRATIC, LR, "hydra/sweeper/sampler=random", "hydra.sweeper.n_trials=1"]
    rates = [
        [
            job["varied"]["optimizer.lr"]
            for job in sweep_of(program(*words, f"hydra.sweeper.sampler.seed={seed}"))["jobs"]
        ]
        for seed in (3, 3, 4)
    ]
    assert rates[0] == rates[1]
    assert rates[0] != rates[2]


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (["optimizer.lr=interval(1,1e-3)"], ["optimizer.lr: must have its low bound below its high one, got inter"]),
        (["optimizer.lr=interval(0,1)"], ["optimizer.lr: must have bounds > 0 on a log scale, got interval(0,1). Ra"]),
        (["optimizer.lr=interval(nan,1)"], ["optimizer.lr: must have finite bounds, got interval(nan,1)."]),
        ([], ["hydra.sweeper.params: must have something vary in a search, got nothing that does. Add for example"]),
        (
            ["optimizer.lrr=interval(1e-3,1)", "train.duraton=5"],
            [
                "optimizer.lrr: unknown key, did you mean optimizer.lr?",
                "train.duraton: unknown key, did you mean train",
            ],
        ),
        (["optimizer=sgd,adamm"], ["got 'adamm'. Did you mean optimizer=adam? [job 2 of 2: optimizer=adamm]"]),
        (
            ["train.batch_size=interval(8,64)"],
            ["train.batch_size: must be an integer >= 1, got 28.6012.", "[job 2 of 3: train.batch_size=28.6012]"],
        ),
        (
            [LR, "hydra.sweeper.metric=acuracy"],
            ["hydra.sweeper.metric: must be a metric that the runs report, got acuracy. Set train/loss."],
        ),
        (
            [LR, "task=digits", "hydra.sweeper.metric=val/acuracy"],
            ["got val/acuracy. Set val/accuracy, or one of val/loss, val/accuracy, train/loss."],
        ),
        (
            [LR, "hydra.sweeper.n_trials=0", "hydra.sweeper.max_failure_rate=2", "hydra.sweeper.direction=down"],
            [
                "hydra.sweeper.n_trials: must be an integer >= 1, got 0.",
                "hydra.sweeper.max_failure_rate: must be ",
                "hydra.sweeper.direction",
            ],
        ),
        ([LR, "hydra.sweeper.direction=[minimize,maximize]"], ["hydra.sweeper.direction: must have one direction for"]),
        (
            [LR, "hydra.sweeper.metric=[loss,accuracy]", "hydra.sweeper.direction=[minimize,maximise]"],
            ["got ['minimize', 'maximise']. Set hydra.sweeper.direction=[minimize,maximize]."],
        ),
        (["hydra.sweeper.params=5"], ["hydra.sweeper.params: must be a section of dotted keys, got 5."]),
        (["+hydra.sweeper.params.optimizer.lr='interval(1,2)'", "train.duration=0"], ["train.duration: "]),
        ([LR, "hydra.sweeper.sampler.sed=1"], ["hydra.sweeper.sampler.sed: unknown key"]),
        (
            [LR, "+hydra.sweeper.sampler.sed=1"],
            ["hydra.sweeper.sampler.sed: unknown key, did you mean hydra.sweeper.sa"],
        ),
        (
            [LR, "hydra/sweeper/sampler=lr"],
            ["hydra/sweeper/sampler: must be one of cmaes, gp, grid, nsgaii, qmc, random, tpe, got 'lr'"],
        ),
        (
            [LR, "hydra/sweeper/sampler=grid"],
            ["optimizer.lr: must be a list or a range for sampler=grid, got interval"],
        ),
        (
            [LR, "hydra.sweeper.custom_search_space=parts.nothing"],
            ["hydra.sweeper.custom_search_space: must be the dotted"],
        ),
        (
            [LR, "hydra.sweeper.custom_search_space=parts.raising"],
            ["must ask the trial and return, but raised ValueError"],
        ),
        (
            [LR, "hydra.sweeper.custom_search_space=parts.asking_twice"],
            ["hydra.sweeper.custom_search_space: must leave what the command line sets, but asked for train.duration"],
        ),
        ([LR, "hydra.sweeper.n_trials=1,2"], ["hydra.sweeper.n_trials: must be one value, got 1,2."]),
        (
            [LR, "hydra.sweeper.storage='postgresql://me:se=cret@127.0.0.1:9/x'"],
            ["hydra.sweeper.storage: must be", "postgresql://me:***@127.0.0.1:9/x"],
        ),
        (
            [LR, "sampler=gp", "pruner.upper=1", "search.n_trials=9"],
            [
                "sampler: must be left to mode=search, got gp. Set hydra/sweeper/sampler=gp.",
                "pruner.upper: must be left to mode=search, got 1. Set hydra.sweeper.pruner.upper=1.",
                "search.n_trials: must be left to mode=search, got 9. Set hydra.sweeper.n_trials=9.",
            ],
        ),
        ([LR, "search.low=1"], ["search.low: must be left to mode=search, got 1. Say it in what varies, such as"]),
        (
            [LR, "hydra.sweeper._target_=hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"],
            ["hydra.sweeper._target_: must be left out, got hydra_plugins", "Set hydra/sweeper=optuna."],
        ),
        ([LR, "mode=check"], ["mode: must be train in a search."]),
        (
            [LR, "hydra.sweeper.storage=postgresql://me:secret@127.0.0.1:9/x", "hydra.sweeper.study_name=x"],
            ["hydra.sweeper.storage: must be a storage that answers, got postgresql://me:***@127.0.0.1:9/x ("],
        ),
        (
            [LR, "task=digits", "hydra.sweeper.metric=[loss,accuracy]", "hydra/sweeper/pruner=median"],
            ["hydra.sweeper.pruner: must be none with several metrics, got optuna.pruners.MedianPruner."],
        ),
    ],
)
def test_mistake_in_a_search_is_named_and_no_run_is_made(
    refuse: Callable[..., Refusal], parts: None, tmp_path: Path, overrides: list[str], messages: list[str]
) -> None:
    refusal = refuse(*OPTUNA, "tracking=off", *QUADRATIC, *overrides)
    assert refusal.code == 2, refusal.err
    for message in messages:
        assert message in refusal.err
    assert "Traceback" not in refusal.err
    assert not re.search("secret|se=cret", refusal.err)
    assert runs_of(tmp_path) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hydra.sweeper.storage='.'", "hydra.sweeper.storage: must be a storage that answers, got "),
        ("hydra.sweep.dir=/proc/none/x", "hydra.sweep.dir: must be a directory that can be made and written to, got "),
    ],
)
def test_place_that_cannot_be_written_is_refused_and_nothing_is(
    refuse: Callable[..., Refusal], override: str, message: str
) -> None:
    refusal = refuse(*OPTUNA, "tracking=off", *QUADRATIC, LR, override)
    assert refusal.code == 2
    assert message in refusal.err
    assert refusal.left_behind == []


def test_failed_trials_stop_no_other_until_they_are_too_many(program: Program, parts: None) -> None:
    targets = "task._target_=runner.tasks.quadratic.Quadratic,parts.Broken"
    words = [*OPTUNA, *QUADRATIC, targets, LR, "hydra/sweeper/sampler=random", "hydra.sweeper.n_trials=6"]
    done = program(*words, "hydra.sweeper.max_failure_rate=1")
    assert done.code == 0, done.err
    assert set(statuses(done)) == {"finished", "failed"}
    assert len(statuses(done)) == 6
    assert set(states_of(trials_of(done))) == {"COMPLETE", "FAIL"}
    broken = program(*words, "hydra.sweeper.max_failure_rate=0")
    assert broken.code == 1
    assert statuses(broken).count("failed") == 1
    assert "trials failed, more than hydra.sweeper.max_failure_rate allows" in broken.err


def test_search_whose_trials_all_diverge_says_so_and_ends_with_3(refuse: Callable[..., Refusal]) -> None:
    high = "optimizer.lr=interval(9,90)"
    ended = refuse(*OPTUNA, "tracking=off", *QUADRATIC, "train.duration=30", high, "hydra.sweeper.n_trials=2")
    assert ended.code == 3
    assert "warning search: every trial diverged. Lower the range of optimizer.lr" in ended.err


def test_point_that_comes_again_is_not_run_again(program: Program) -> None:
    done = program(*OPTUNA, *QUADRATIC, "optimizer=sgd,adamw", "hydra.sweeper.n_trials=6")
    assert len(sweep_of(done)["jobs"]) <= 2
    trials = trials_of(done)
    assert states_of(trials) == ["COMPLETE"] * 6
    values = {(trial.params["optimizer"], trial.value) for trial in trials}
    assert len(values) == len(sweep_of(done)["jobs"])


@pytest.mark.slow
def test_grid_of_a_search_is_every_point_once(program: Program) -> None:
    grid = ["optimizer.lr=0.01,0.02", "seed=range(0,2)", "hydra/sweeper/sampler=grid"]
    done = program(*OPTUNA, *QUADRATIC, *grid)
    assert sorted(tuple(job["varied"].values()) for job in sweep_of(done)["jobs"]) == [
        ("0.01", "0"), ("0.01", "1"), ("0.02", "0"), ("0.02", "1"),
    ]  # fmt: skip


def test_function_of_the_user_asks_for_more(program: Program, parts: None) -> None:
    words = ["hydra.sweeper.custom_search_space=parts.ask", "hydra.sweeper.n_trials=6"]
    done = program(*OPTUNA, *QUADRATIC, LR, *words)
    assert done.code == 0, done.err
    varied = [job["varied"] for job in sweep_of(done)["jobs"]]
    assert {one["optimizer"] for one in varied} == {"sgd", "adamw"}
    assert all(("optimizer.weight_decay" in one) is (one["optimizer"] == "adamw") for one in varied)


def test_search_of_which_every_trial_is_refused_has_failed(program: Program, parts: None) -> None:
    words = ["hydra.sweeper.custom_search_space=parts.misspelling", "hydra.sweeper.n_trials=2"]
    done = program(*OPTUNA, *QUADRATIC, *words)
    assert done.code == 1
    assert "is refused: optimizer.lrr: unknown key" in done.err
    assert "the search gave up" in done.err


@pytest.mark.slow
def test_params_of_a_page_are_searched_and_the_command_line_wins(program: Program, tmp_path: Path) -> None:
    page = {
        "defaults": ["config", {"override hydra/sweeper": "optuna"}, "_self_"],
        "hydra": {"sweeper": {"n_trials": 2, "params": {"optimizer.lr": "interval(1e-3,1e-2)", "seed": [1, 2]}}},
    }
    (tmp_path / "my").mkdir()
    (tmp_path / "my/mine.yaml").write_text(yaml.safe_dump(page))
    done = program("--config-dir", "my", "--config-name", "mine", "-m", *QUADRATIC, "optimizer.lr=interval(0.1,0.2)")
    assert done.code == 0, done.err
    varied = [job["varied"] for job in sweep_of(done)["jobs"]]
    assert all(0.1 <= float(one["optimizer.lr"]) <= 0.2 for one in varied)
    assert all(one["seed"] in ("1", "2") for one in varied)


PRUNING = (
    "task=digits", "train.duration=40", "train.eval_every=2", "optimizer.lr=0.5,1e-6,1e-5,3e-6", "train.batch_size=16",
    "hydra/sweeper/sampler=grid", "hydra/sweeper/pruner=median", "hydra.sweeper.pruner.n_startup_trials=1",
    "hydra.sweeper.sampler.seed=1",
)  # fmt: skip


def test_trial_is_pruned_by_its_values_on_the_way_but_not_in_its_first_quarter(program: Program) -> None:
    threshold = ["hydra.sweeper.pruner._target_=optuna.pruners.ThresholdPruner", "+hydra.sweeper.pruner.upper=2.25"]
    plain = [text for text in PRUNING if "pruner" not in text]
    done = program(*OPTUNA, *plain, *threshold)
    assert done.code == 0, done.err
    trials = trials_of(done)
    pruned = [trial for trial in trials if trial.state.name == "PRUNED"]
    assert len(pruned) == 3, "learning rates that are too low by far"
    assert all(list(trial.intermediate_values) == [5, 10, 15, 20, 25] for trial in pruned)
    [whole] = [trial for trial in trials if trial.state.name == "COMPLETE"]
    assert whole.value == whole.intermediate_values[100]
    jobs = [job for job in sweep_of(done)["jobs"] if job["status"] == "pruned"]
    assert [job["verdict"] for job in jobs] == ["pruned at step 10"] * 3
    assert [job["steps"] for job in jobs] == [10] * 3
    assert "1 finished, 3 pruned" in done.out


@pytest.mark.slow
def test_prune_after_is_kept(program: Program) -> None:
    threshold = ["hydra.sweeper.pruner._target_=optuna.pruners.ThresholdPruner", "+hydra.sweeper.pruner.upper=0"]
    plain = [text for text in PRUNING if "pruner" not in text]
    words = ["optimizer.lr=0.1,0.2", "hydra.sweeper.prune_after=60", "hydra.sweeper.n_trials=2"]
    done = program(*OPTUNA, *plain, *threshold, *words)
    assert [job["steps"] for job in sweep_of(done)["jobs"]] == [24, 24]


def test_killed_search_goes_on_and_loses_at_most_what_was_running(
    program: Program, parts: None, tmp_path: Path
) -> None:
    words = [*OPTUNA, *QUADRATIC, "task._target_=parts.Dying", LR, "hydra.sweeper.n_trials=3"]
    killed = call_program(*words, "train.checkpoint_every=5", directory=tmp_path)
    assert killed.code == -signal.SIGKILL
    [directory] = tmp_path.glob("runs/sweeps/*")
    before = {run: (run / "result.json").stat().st_mtime_ns for run in runs_of(tmp_path)}
    rest = program(f"resume.sweep={directory}")
    assert rest.code == 0, rest.err
    assert statuses(rest) == ["finished"] * 3
    assert len(runs_of(tmp_path)) == 3, "the run that was killed goes on where it was"
    same = [run for run, stamp in before.items() if (run / "result.json").stat().st_mtime_ns == stamp]
    assert len(same) == 2
    assert states_of(trials_of(rest)) == ["COMPLETE"] * 3
    more = program(f"resume.sweep={directory}", "hydra.sweeper.n_trials=4")
    assert len(runs_of(tmp_path)) == 4
    assert len(trials_of(more)) == 4


def test_failed_trials_are_made_again_when_a_search_goes_on(program: Program, parts: None, tmp_path: Path) -> None:
    words = [*OPTUNA, *QUADRATIC, "task._target_=parts.Broken", LR, "hydra.sweeper.n_trials=2"]
    broken = program(*words, "hydra.sweeper.max_failure_rate=1")
    assert broken.code == 1
    assert statuses(broken) == ["failed"] * 2
    (tmp_path / "parts.py").write_text("from runner.tasks.quadratic import Quadratic as Broken\n")
    mended = program(f"resume.sweep={broken.run}", spawn=True)
    assert mended.code == 0, mended.err
    assert statuses(mended) == ["finished"] * 2
    assert states_of(trials_of(mended)) == ["FAIL"] * 2 + ["COMPLETE"] * 2


def test_changed_page_is_refused_when_a_search_goes_on(program: Program, tmp_path: Path) -> None:
    (tmp_path / "my/optimizer").mkdir(parents=True)
    page = "defaults: [sgd]\nmomentum: {}\n"
    (tmp_path / "my/optimizer/mine.yaml").write_text(page.format(0.5))
    done = program("--config-dir", "my", *OPTUNA, *QUADRATIC, "optimizer=mine", LR, "hydra.sweeper.n_trials=2")
    (tmp_path / "my/optimizer/mine.yaml").write_text(page.format(0.6))
    changed = program(f"resume.sweep={done.run}", "hydra.sweeper.n_trials=3")
    assert changed.code == 2
    assert "hydra.sweeper.study_name: must be a study of the same task and space" in changed.err
    assert "optimizer.momentum is 0.5 there and 0.6 here. Choose another name, or take the change back." in changed.err


def test_study_in_a_database_is_shared_and_only_what_is_missing_runs(program: Program, tmp_path: Path) -> None:
    storage = sqlite(tmp_path)
    shared = [f"hydra.sweeper.storage={storage}", "hydra.sweeper.study_name=mine"]
    first = program(*OPTUNA, *QUADRATIC, LR, *shared, "hydra.sweeper.n_trials=2")
    assert len(sweep_of(first)["jobs"]) == 2, first.err
    second = program(*OPTUNA, *QUADRATIC, LR, *shared, "hydra.sweeper.n_trials=3")
    assert len(sweep_of(second)["jobs"]) == 1, second.err
    assert states_of(trials_of(second, storage, "mine")) == ["COMPLETE"] * 3
    third = program(*OPTUNA, *QUADRATIC, LR, *shared, "hydra.sweeper.n_trials=3")
    assert third.code == 0, third.err
    assert "search mine: 3 finished" in third.out
    assert len(runs_of(tmp_path)) == 3


@pytest.mark.slow
def test_several_metrics_have_solutions(program: Program) -> None:
    words = ["task=digits", "train.duration=10", "hydra.sweeper.metric=[loss,accuracy]", "hydra.sweeper.n_trials=3"]
    done = program(*OPTUNA, LR, *words)
    assert done.code == 0, done.err
    results = yaml.safe_load((done.run / "optimization_results.yaml").read_text())
    assert all(0 <= one["values"][1] <= 1 and "optimizer.lr" in one["params"] for one in results["solutions"])


@pytest.mark.slow
def test_trials_run_at_once_through_joblib_and_are_pruned_there(tmp_path: Path) -> None:
    words = ["hydra/launcher=joblib", "hydra.sweeper.n_jobs=2", "hydra.sweeper.prune_after=50"]
    threshold = ["hydra.sweeper.pruner._target_=optuna.pruners.ThresholdPruner", "+hydra.sweeper.pruner.upper=2.25"]
    plain = [text for text in PRUNING if "pruner" not in text]
    done = call_command(*OPTUNA, *plain, *threshold, *words, directory=tmp_path)
    assert done.code == 0, done.err
    assert sorted(statuses(done)) == ["finished"] + ["pruned"] * 3
    assert sorted(states_of(trials_of(done))) == ["COMPLETE"] + ["PRUNED"] * 3


def test_interrupted_search_goes_on_with_the_same_trials(program: Program, tmp_path: Path) -> None:
    words = [*OPTUNA, *QUADRATIC, LR, "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2"]
    stopped = call_program(*words, "notify.command='kill -INT $PPID'", directory=tmp_path)
    assert stopped.code == 130, stopped.err
    assert statuses(stopped) == ["finished", "waiting"]
    assert states_of(trials_of(stopped)) == ["COMPLETE", "RUNNING"]
    rest = program(f"resume.sweep={stopped.run}", "notify.command=null")
    assert rest.code == 0, rest.err
    assert statuses(rest) == ["finished"] * 3
    assert states_of(trials_of(rest)) == ["COMPLETE"] * 3
    assert len(runs_of(tmp_path)) == 3


def test_study_that_others_have_filled_is_reported(program: Program, tmp_path: Path) -> None:
    shared = [f"hydra.sweeper.storage={sqlite(tmp_path)}", "hydra.sweeper.study_name=full", "hydra.sweeper.n_trials=2"]
    words = [*OPTUNA, *QUADRATIC, "optimizer=sgd,adamw", "optimizer.lr=interval(1e-3,0.3)", *shared]
    first, second = program(*words), program(*words)
    assert second.code == 0, second.err
    assert sweep_of(second)["jobs"] == []
    mine, theirs = (json.loads((done.run / "lr_report.json").read_text()) for done in (second, first))
    assert mine["loss"] == theirs["loss"] == "train loss"
    assert mine["fixed"] == theirs["fixed"]
    assert [group["name"] for group in mine["groups"]] == [group["name"] for group in theirs["groups"]]
    assert mine["cost"]["runs"] == 0
    assert [line for line in second.out.splitlines() if line.startswith("use it with: ")] == [
        line for line in first.out.splitlines() if line.startswith("use it with: ")
    ]
    assert (second.run / "optimization_results.yaml").is_file()
    more = program(f"resume.sweep={second.run}", "hydra.sweeper.n_trials=3")
    assert more.code == 0, more.err
    assert statuses(more) == ["finished"]


def test_signal_between_two_rounds_of_a_search_interrupts_it(program: Program, tmp_path: Path) -> None:
    words = [*OPTUNA, *QUADRATIC, LR, "hydra.sweeper.n_trials=2"]
    stopped = call_program(*words, "notify.command='kill -TERM $PPID'", directory=tmp_path)
    assert stopped.code == 143, stopped.err
    assert (statuses(stopped), sweep_of(stopped)["status"]) == (["finished"], "interrupted")
    assert f"go on with: python -m runner resume.sweep={stopped.run.relative_to(tmp_path)}" in stopped.out
    rest = program(f"resume.sweep={stopped.run}", "notify.command=null")
    assert statuses(rest) == ["finished"] * 2, rest.err
    assert len(runs_of(tmp_path)) == 2


@pytest.mark.parametrize(
    ("launcher", "number", "code"),
    [("basic", signal.SIGINT, 130), pytest.param("joblib", signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_trials_in_flight_at_a_signal_are_interrupted_and_go_on(
    program: Program, parts: None, tmp_path: Path, launcher: str, number: signal.Signals, code: int
) -> None:
    page = ["task=quadratic", "train.duration=200", "train.checkpoint_every=10", "task._target_=parts.Slow", LR]
    words = [*OPTUNA[1:], *page, "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2"]
    stopped = multirun_that_gets(number, *words, launcher=launcher, directory=tmp_path)
    assert stopped.code == code, stopped.err
    assert f"go on with: python -m runner resume.sweep={stopped.run.relative_to(tmp_path)}" in stopped.out
    assert set(statuses(stopped)) <= {"interrupted", "waiting"}, "a worker may start late"
    assert states_of(trials_of(stopped)) == ["RUNNING"] * 2
    begun = runs_of(tmp_path)
    (tmp_path / "fast").touch()
    rest = program(f"resume.sweep={stopped.run}", "hydra/launcher=basic")
    assert rest.code == 0, rest.err
    assert statuses(rest) == ["finished"] * 3
    assert states_of(trials_of(rest)) == ["COMPLETE"] * 3
    assert len(runs_of(tmp_path)) == 3, "a run that had begun goes on"
    assert {*begun} <= {tmp_path / job["run"] for job in sweep_of(rest)["jobs"]}


def test_trial_that_a_killed_search_did_not_write_down_is_made_by_its_own_job(program: Program) -> None:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    words = [*OPTUNA, *QUADRATIC, LR, "hydra.sweeper.n_trials=1"]
    done = program(*words)
    storage = JournalStorage(JournalFileBackend(str(done.run / "study.journal")))
    study = optuna.load_study(storage=storage, study_name=done.run.name)
    asked = study.ask({"optimizer.lr": study.trials[0].distributions["optimizer.lr"]})
    asked.set_user_attr("place", "here")
    asked.set_user_attr("job", 2)  # killed here, before sweep.json had it
    rest = program(f"resume.sweep={done.run}", "hydra.sweeper.n_trials=3")
    assert rest.code == 0, rest.err
    jobs = {job["number"]: job for job in sweep_of(rest)["jobs"]}
    assert len(jobs) == 3
    for trial in trials_of(rest):
        job = jobs[trial.user_attrs["job"]]
        assert float(job["varied"]["optimizer.lr"]) == pytest.approx(trial.params["optimizer.lr"], rel=1e-5)
        assert trial.value == job["final_loss"]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_trials_run_at_once_through_ray_and_are_pruned_there(tmp_path: Path) -> None:
    ray = ["hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2", "hydra.sweeper.n_jobs=2"]
    threshold = ["hydra.sweeper.pruner._target_=optuna.pruners.ThresholdPruner", "+hydra.sweeper.pruner.upper=2.25"]
    plain = [text for text in PRUNING if "pruner" not in text]
    board = "+hydra.launcher.ray.init.include_dashboard=false"
    done = call_command(*OPTUNA, *plain, *threshold, *ray, board, directory=tmp_path)
    assert done.code == 0, done.err
    assert sorted(statuses(done)) == ["finished"] + ["pruned"] * 3
