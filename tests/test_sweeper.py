"""Multiruns through the program: checked whole, one job stops no other, one summary, and nothing lost."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import joblib
import pytest

from tests.conftest import ENVIRONMENT, Done, Program, Refusal
from tests.sweeps import records, runs_of, statuses, sweep_of

QUADRATIC = ("task=quadratic", "train.duration=30")
LR_FIX = "Set optimizer.lr=1e-3, or leave it out for the default of the optimizer."

BREAKING = """
from runner.tasks.quadratic import Quadratic

class Broken(Quadratic):
    def model(self):
        raise RuntimeError("no model today")
"""


def test_bad_job_among_twenty_starts_nothing_and_is_named(refuse: Callable[..., Refusal]) -> None:
    rates = ",".join([f"0.{i}1" for i in range(1, 20)] + ["nan"])
    refusal = refuse("-m", "task=quadratic", f"optimizer.lr={rates}")
    assert refusal.code == 2
    assert refusal.err == (
        "1 problem in the configuration:\n"
        f"  optimizer.lr: must be a finite number > 0, got nan. {LR_FIX} [job 20 of 20: optimizer.lr=nan]\n"
    )
    assert refusal.left_behind == []


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (
            ["train.duraton=5", "optimizer.lr=nan,1", "seed=0,1"],
            [
                f"got nan. {LR_FIX} [2 of 4 jobs, first job 1: optimizer.lr=nan seed=0]",
                "train.duraton: unknown key, did you mean train.duration?",
                "[all 4 jobs]",
            ],
        ),
        (["optimizer=sgd,adamm"], ["got 'adamm'. Did you mean optimizer=adam? [job 2 of 2: optimizer=adamm]"]),
        (
            ["optimizer.lr=interval(0,1)"],
            ["optimizer.lr: must be a list such as 1e-3,1e-2 or range(1,4) in a multirun, got interval(0,1)."],
        ),
        (
            ["hydra/launcher=joblib", "hydra.launcher.n_jobs=0", "seed=0,1"],
            ["hydra.launcher.n_jobs: must be -1 (all cores) or 1 to ", ", the cores of this machine, got 0."],
        ),
        (["hydra.launcher.n_jobs=2", "seed=0,1"], ["hydra.launcher.n_jobs: unknown key of this launcher. Set hy"]),
        (
            ["hydra/launcher=joblib", "hydra.launcher.n_jobs=1.5", "seed=0,1"],
            ["hydra.launcher.n_jobs: must be of the type of its default, got 1.5 (Value '1.5' of type 'float' could"],
        ),
        (["resume.sweep=a,b"], ["resume.sweep: must be the directory of a sweep, got 'a,b'."]),
        (["mode=train,check"], ["mode: must be train in all jobs of a multirun or in none."]),
        (["optimizer.lr=0.1", "optimizer.lr=interval(0,1)"], ["optimizer.lr: must be a list such as 1e-3,1e-2 or "]),
        (["mode=train,ui"], ["mode: must be train in all jobs of a multirun or in none."]),
        (
            ["resume.sweep=nowhere"],
            ["resume.sweep: must be the directory of a sweep with a readable sweep.json, got 'nowhere'."],
        ),
    ],
)
def test_mistake_in_a_multirun_is_named_and_nothing_is_written(
    refuse: Callable[..., Refusal], overrides: list[str], messages: list[str]
) -> None:
    refusal = refuse("-m", "tracking=off", *overrides)
    assert refusal.code == 2
    for message in messages:
        assert message in refusal.err
    assert "Traceback" not in refusal.err
    assert refusal.left_behind == []


def test_diverged_and_failed_jobs_stop_no_other_and_the_summary_says_so(program: Program, tmp_path: Path) -> None:
    (tmp_path / "breaking.py").write_text(BREAKING)
    targets = "task._target_=runner.tasks.quadratic.Quadratic,breaking.Broken"
    done = program(*QUADRATIC, targets, "optimizer.lr=0.01,9", "seed=0,1", "-m", spawn=True)
    assert done.code == 0, done.err
    sweep = sweep_of(done)
    assert statuses(done) == ["finished"] * 2 + ["diverged"] * 2 + ["failed"] * 4
    assert done.run.parent == tmp_path / "runs/sweeps"
    assert {"sweep.json", "sweep.png", "multirun.yaml", "result.json"} <= {path.name for path in done.run.iterdir()}
    first, *_, last = sweep["settings"]
    assert first["varied"] == {"task._target_": "runner.tasks.quadratic.Quadratic", "optimizer.lr": "0.01"}
    assert (first["seeds"], first["verdict"], first["final_loss"]["sd"]) == (2, "2 finished", 0.0)
    assert (last["verdict"], last["final_loss"]["mean"]) == ("2 failed", "nan")
    runs = runs_of(tmp_path)
    assert len(runs) == 4
    results = [json.loads((run / "result.json").read_text()) for run in runs]
    assert {result["tags"]["sweep"] for result in results} == {sweep["id"]}
    assert {run.parent.name for run in runs} == {"quadratic"}
    assert done.err.count("times above the typical range") == 1
    assert done.err.count("RuntimeError: no model today") == 4
    assert (done.run / "traceback.txt").read_text().count('raise RuntimeError("no model today")') == 4
    assert len([line for line in done.out.splitlines() if line.startswith("job ")]) == 8


def test_sweep_whose_jobs_all_diverge_ends_with_exit_code_3(refuse: Callable[..., Refusal], tmp_path: Path) -> None:
    ended = refuse("-m", "tracking=off", *QUADRATIC, "optimizer.lr=9,10", "seed=0,0")
    assert ended.code == 3
    assert "no job finished: 2 diverged" in ended.err
    assert "warning sweep: job 2 (optimizer.lr=9 seed=0) is the same as job 1 and runs once." in ended.err
    [path] = tmp_path.glob("runs/sweeps/*/sweep.json")
    assert json.loads(path.read_text())["status"] == "diverged"


@pytest.mark.slow
def test_joblib_gives_the_records_of_the_basic_launcher_under_a_live_table(program: Program, tmp_path: Path) -> None:
    grid = ["train.duration=20", "task.dropout=0.2", "optimizer.lr=0.01,0.1"]
    main, terminal = pty.openpty()
    command = [sys.executable, "-m", "runner", "-m", "tracking=off", *grid, "hydra/launcher=joblib"]
    process = subprocess.Popen(command, cwd=tmp_path, env={**ENVIRONMENT, "TERM": "xterm"}, stdout=terminal)
    os.close(terminal)
    shown = b""
    while True:
        try:
            piece = os.read(main, 65536)
        except OSError:  # the other side is closed
            break
        shown += piece
        if not piece:
            break
    os.close(main)
    assert process.wait(timeout=60) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    parallel = Done(0, text, "", tmp_path)
    [threads] = {job["overrides"][-1] for job in sweep_of(parallel)["jobs"]}
    cores = int(joblib.cpu_count())
    assert threads == f"train.threads={max(1, cores // min(cores, 2))}", "two jobs at once at most"
    assert f"sweep {parallel.run.name}" in text, "the live table"
    assert "waiting" in text
    basic = program(*grid, threads, "-m")
    assert records(parallel) == records(basic)


def test_multirun_of_a_mode_that_does_not_train_runs_every_job(refuse: Callable[..., Refusal], tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "records.jsonl").touch()
    ended = refuse("-m", "tracking=off", "mode=upload", "source=a,b")
    assert ended.code == 1
    assert "job 2 of 2 (source.path=b) failed: " in ended.err
    assert ended.err.count("tracking.uri: must be given to upload, got null.") == 2
    assert not (tmp_path / "runs").exists()


@pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")  # MLflow leaves its sqlite connections open
@pytest.mark.filterwarnings("ignore:The ..noload.. loader strategy:DeprecationWarning")  # SQLAlchemy to MLflow
def test_runs_of_a_sweep_share_one_experiment_with_a_summary(program: Program) -> None:
    done = program("task=digits,quadratic", "train.duration=3", "-m", tracking="mlflow")
    assert done.code == 0, done.err
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{done.directory}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("digits+quadratic")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    assert len(found) == 3
    assert {run.data.tags["sweep"] for run in found} == {sweep_of(done)["id"]}
    [summary] = [run for run in found if run.data.tags.get("kind") == "summary"]
    assert summary.info.status == "FINISHED"
    assert (summary.data.metrics["sweep/finished"], summary.data.metrics["sweep/diverged"]) == (2, 0)
    artifacts = {artifact.path for artifact in client.list_artifacts(summary.info.run_id)}
    assert {"sweep.json", "sweep.png", "result.json"} <= artifacts


VANISHING = """
import pathlib, shutil
from runner.tasks.quadratic import Quadratic

class Vanishing(Quadratic):
    def batch(self, step, split, part=(0, 1)):
        for directory in pathlib.Path("runs/sweeps").glob("*"):
            shutil.rmtree(directory)
        return super().batch(step, split, part)
"""


def test_error_of_the_sweep_itself_runs_no_job_twice(program: Program, tmp_path: Path) -> None:
    (tmp_path / "vanishing.py").write_text(VANISHING)
    done = program(*QUADRATIC, "task._target_=vanishing.Vanishing", "optimizer.lr=0.01,0.02", "-m", spawn=True)
    assert done.code == 1
    assert "No such file or directory" in done.err
    assert len(runs_of(tmp_path)) <= 2
