"""Multiruns through the program: checked whole, one job stops no other, one summary, and nothing lost."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import pytest

from tests.conftest import ENVIRONMENT, Done, Program, Refusal

QUADRATIC = ("task=quadratic", "train.duration=30")
LR_FIX = "Set optimizer.lr=1e-3, or leave it out for the default of the optimizer."

BREAKING = """
import os, pathlib, signal
from runner.tasks.quadratic import Quadratic

class Broken(Quadratic):
    def model(self):
        raise RuntimeError("no model today")

class Dying(Quadratic):
    def batch(self, step, split, part=(0, 1)):
        if step == 17 and len(list(pathlib.Path("runs/quadratic").iterdir())) == 2 and not os.path.exists("has_died"):
            pathlib.Path("has_died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(step, split, part)
"""


def sweep_of(done: Done) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((done.run / "sweep.json").read_text())
    return data


def statuses(done: Done) -> list[str]:
    return [job["status"] for job in sweep_of(done)["jobs"]]


def runs_of(directory: Path) -> list[Path]:
    """Run directories, those of sweeps left out."""
    return [path.parent for path in directory.glob("runs/*/*/records.jsonl") if path.parts[-3] != "sweeps"]


def records(done: Done) -> list[list[dict[str, Any]]]:
    """The records of every job, without their wall-clock times."""
    found = []
    for job in sweep_of(done)["jobs"]:
        lines = (done.directory / job["run"] / "records.jsonl").read_text().splitlines()
        found.append([{k: v for k, v in json.loads(line).items() if k != "time_ms"} for line in lines])
    return found


def start(directory: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "runner", "-m", "tracking=off", *overrides]
    return subprocess.Popen(
        command, cwd=directory, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


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
        (["hydra.launcher.n_jobs=2", "seed=0,1"], ["Could not override 'hydra.launcher.n_jobs'"]),
        (["mode=train,ui"], ["mode: must train in all jobs of a multirun or in none."]),
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
    table = [line.split() for line in done.out.splitlines() if "Quadratic" in line and " ± " in line]
    assert table == [["runner.tasks.quadratic.Quadratic", "0.01", "2", *table[0][3:6], "2", "finished"]]
    runs = runs_of(tmp_path)
    assert len(runs) == 4
    results = [json.loads((run / "result.json").read_text()) for run in runs]
    assert {result["tags"]["sweep"] for result in results} == {done.run.name}
    assert {run.parent.name for run in runs} == {"quadratic"}
    assert done.err.count("times above the typical range") == 1
    assert done.err.count("RuntimeError: no model today") == 4
    assert len([line for line in done.out.splitlines() if line.startswith("job ")]) == 4


def test_sweep_whose_jobs_all_diverge_ends_with_exit_code_3(refuse: Callable[..., Refusal], tmp_path: Path) -> None:
    ended = refuse("-m", "tracking=off", *QUADRATIC, "optimizer.lr=9,10", "seed=0,0")
    assert ended.code == 3
    assert "no job finished: 2 diverged" in ended.err
    assert "warning sweep: job 2 (optimizer.lr=9 seed=0) is the same as job 1 and runs once." in ended.err
    [path] = tmp_path.glob("runs/sweeps/*/sweep.json")
    assert json.loads(path.read_text())["status"] == "diverged"


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
    assert f"sweep {parallel.run.name}: " in text, "the live table"
    assert "waiting" in text
    basic = program(*grid, threads, "-m")
    assert records(parallel) == records(basic)


@pytest.mark.parametrize(
    ("launcher", "number", "code"), [("basic", signal.SIGINT, 130), ("joblib", signal.SIGTERM, 143)]
)
def test_interrupted_sweep_saves_its_runs_and_resumes_with_what_is_missing(
    program: Program, tmp_path: Path, launcher: str, number: signal.Signals, code: int
) -> None:
    declared = [f"hydra/launcher={launcher}", "train.duration=1000", "train.checkpoint_every=50", "train.threads=1"]
    grid = [*declared, "task.hidden=[8]", "optimizer.lr=30,0.01", "seed=0,1"]
    process = start(tmp_path, *grid)
    wait_for(lambda: any('"step":100,' in path.read_text() for path in tmp_path.glob("runs/digits/*/records.jsonl")))
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    stopped = Done(process.returncode, out, err, tmp_path)
    assert stopped.code == code, err
    assert f"python -m runner resume.sweep={stopped.run.relative_to(tmp_path)}" in out
    sweep = sweep_of(stopped)
    assert sweep["status"] == "interrupted"
    assert set(statuses(stopped)) <= {"diverged", "interrupted", "waiting"}
    running = [job for job in sweep["jobs"] if job["status"] == "interrupted"]
    assert running
    assert all(job["verdict"].startswith(f"interrupted by {number.name} at step") for job in running)
    assert (stopped.run / "sweep.png").is_file()
    before = {run: (run / "result.json").stat().st_mtime_ns for run in runs_of(tmp_path)}
    diverged = [tmp_path / job["run"] for job in sweep["jobs"] if job["status"] == "diverged"]

    rest = program(f"resume.sweep={stopped.run.relative_to(tmp_path)}")
    assert rest.code == 0, rest.err
    assert rest.run == stopped.run
    assert statuses(rest) == ["diverged"] * 2 + ["finished"] * 2
    assert len(runs_of(tmp_path)) == 4, "interrupted runs go on in their own directory"
    assert all((run / "result.json").stat().st_mtime_ns == before[run] for run in diverged)


def test_killed_sweep_resumes_and_ends_like_an_uninterrupted_one(program: Program, tmp_path: Path) -> None:
    (tmp_path / "breaking.py").write_text(BREAKING)
    grid = [*QUADRATIC, "train.checkpoint_every=10", "task._target_=breaking.Dying", "optimizer.lr=0.01,0.02,0.03"]
    killed = program(*grid, "-m", spawn=True)
    assert killed.code == -signal.SIGKILL
    [directory] = tmp_path.glob("runs/sweeps/*")
    assert len(runs_of(tmp_path)) == 2
    rest = program(f"resume.sweep={directory}", spawn=True)
    assert rest.code == 0, rest.err
    assert len(runs_of(tmp_path)) == 3
    whole = program(*grid, "-m", spawn=True)
    assert records(rest) == records(whole)
    assert sweep_of(rest)["settings"] == sweep_of(whole)["settings"]
    other = program(f"resume.sweep={directory}", "seed=5")
    assert other.code == 2
    assert "resume.sweep: must be the overrides of the sweep, got also seed=5. Leave them out" in other.err
    (directory / "sweep.json").write_text("{")
    damaged = program(f"resume.sweep={directory}")
    assert damaged.code == 2
    assert "resume.sweep: must be the directory of a sweep with a sound sweep.json" in damaged.err


def test_multirun_of_a_mode_that_does_not_train_runs_every_job(refuse: Callable[..., Refusal], tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "records.jsonl").touch()
    ended = refuse("-m", "tracking=off", "mode=upload", "source=a,b")
    assert ended.code == 1
    assert "job 2 of 2 (source=b) failed: " in ended.err
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
    assert {run.data.tags["sweep"] for run in found} == {done.run.name}
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
    assert "FileNotFoundError" in done.err
    assert len(runs_of(tmp_path)) <= 2
