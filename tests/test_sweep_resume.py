"""Multiruns that are interrupted, killed, out of time or used twice: nothing is lost, and the rest can be run."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import psutil
import pytest
from filelock import FileLock

from runner.checks.stand_ins import SAFE
from runner.config import Train
from runner.continue_run import same_run
from runner.errors import ConfigError, MisfitError, Problem, RunnerError, SweepError, TaskError, in_words
from runner.sweeps.launch import Share, launch_all
from runner.sweeps.resume import expand_resumed_sweep
from runner.tracking.lock import alone_in
from runner.tracking.sweep_file import Job, Launchable, Sweep, changed
from tests.conftest import ENVIRONMENT, Done, Program, call_command, call_program, wait_for
from tests.sweeps import multirun_that_gets, records, runs_of, statuses, sweep_of

QUADRATIC = ("task=quadratic", "train.duration=30")
SOUND = "runner.tasks.quadratic.Quadratic"
needs_two_cores = pytest.mark.skipif(joblib.cpu_count() < 2, reason="needs two cores")

PARTS = """
import os, pathlib, signal, time
from runner.tasks.quadratic import Quadratic

class Slow(Quadratic):
    def batch(self, step, split, part=(0, 1)):
        if step >= 20 and not os.path.exists("fast"):
            time.sleep(0.05)
        return super().batch(step, split, part)

class Dying(Quadratic):
    def batch(self, step, split, part=(0, 1)):
        if step == 17 and len(list(pathlib.Path("runs/quadratic").iterdir())) == 2 and not os.path.exists("has_died"):
            pathlib.Path("has_died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(step, split, part)

class DeadlyModel(Quadratic):
    def model(self):
        os.kill(os.getpid(), signal.SIGKILL)

class Deadly(Quadratic):
    def batch(self, step, split, part=(0, 1)):
        if step == 17:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(step, split, part)
"""


@pytest.fixture
def launch(tmp_path: Path) -> Callable[..., Done]:
    """Run the program to its end in a directory with parts of a user's own."""
    (tmp_path / "parts.py").write_text(PARTS)

    return partial(call_program, directory=tmp_path)


def verdicts(done: Done) -> list[str]:
    return [job["verdict"] for job in sweep_of(done)["jobs"]]


def step_counts(done: Done) -> list[int]:
    return [job["steps"] for job in sweep_of(done)["jobs"]]


@pytest.mark.parametrize(
    ("launcher", "number", "code"),
    [("basic", signal.SIGINT, 130), pytest.param("joblib", signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_interrupted_sweep_saves_its_runs_and_resumes_with_what_is_missing(
    program: Program, tmp_path: Path, launcher: str, number: signal.Signals, code: int
) -> None:
    (tmp_path / "parts.py").write_text(PARTS)
    target = ["task=quadratic", "train.duration=400", "train.checkpoint_every=50", "task._target_=parts.Slow"]
    grid = [*target, "warmup=none", "optimizer.lr=30,0.01", "seed=0,1"]
    stopped = multirun_that_gets(number, *grid, launcher=launcher, directory=tmp_path)
    assert stopped.code == code, stopped.err
    assert f"python -m runner resume.sweep={stopped.run.relative_to(tmp_path)}" in stopped.out
    sweep = sweep_of(stopped)
    assert sweep["status"] == "interrupted"
    assert set(statuses(stopped)[:2]) <= {"diverged", "waiting"}, "a worker may start late"
    assert set(statuses(stopped)[2:]) <= {"interrupted", "waiting"}
    running = [job for job in sweep["jobs"] if job["status"] == "interrupted"]
    assert running
    assert all(job["verdict"].startswith(f"interrupted by {number.name} at step") for job in running)
    assert (stopped.run / "sweep.png").is_file()
    before = {run: (run / "result.json").stat().st_mtime_ns for run in runs_of(tmp_path)}
    diverged = [tmp_path / job["run"] for job in sweep["jobs"] if job["status"] == "diverged"]

    (tmp_path / "fast").touch()
    go_on = f"resume.sweep={stopped.run.relative_to(tmp_path)}"
    rest = program(go_on) if launcher == "basic" else call_command(go_on, directory=tmp_path)
    assert rest.code == 0, rest.err
    assert rest.run == stopped.run
    assert statuses(rest) == ["diverged"] * 2 + ["finished"] * 2
    assert len(runs_of(tmp_path)) == 4, "interrupted runs go on in their own directory"
    assert all((run / "result.json").stat().st_mtime_ns == before[run] for run in diverged)


def test_signal_after_the_last_step_of_a_job_ends_the_sweep_after_it(launch: Callable[..., Done]) -> None:
    done = launch("-m", *QUADRATIC, "notify.command='kill -INT $PPID'", "optimizer.lr=0.01,0.02")
    assert done.code == 130
    assert statuses(done) == ["finished", "waiting"]


def test_killed_sweep_resumes_and_ends_like_an_uninterrupted_one(
    launch: Callable[..., Done], program: Program, tmp_path: Path
) -> None:
    grid = [*QUADRATIC, "train.checkpoint_every=10", "task._target_=parts.Dying", "optimizer.lr=0.01,0.02,0.03"]
    killed = launch(*grid, "-m")
    assert killed.code == -signal.SIGKILL
    [directory] = tmp_path.glob("runs/sweeps/*")
    assert len(runs_of(tmp_path)) == 2
    rest = program(f"resume.sweep={directory}")
    assert rest.code == 0, rest.err
    assert len(runs_of(tmp_path)) == 3
    whole = program(*grid, "-m")
    assert records(rest) == records(whole)
    assert sweep_of(rest)["settings"] == sweep_of(whole)["settings"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=5"], "must be the overrides of the sweep, got also seed=5. Leave them out"),
        (["train.max_seconds=5"], "must be the overrides of the sweep, got also train.max_seconds=5. Leave them out"),
        (["damaged"], "must be the directory of a sweep with a sound sweep.json"),
    ],
)
def test_mistake_in_a_resumed_sweep_is_named(program: Program, words: Sequence[str], message: str) -> None:
    done = program("-m", *QUADRATIC, "train.max_seconds=98,99")
    if words == ["damaged"]:
        (done.run / "sweep.json").write_text("{")
        words = []
    again = program(f"resume.sweep={done.run}", *words)
    assert again.code == 2
    assert f"resume.sweep: {message}" in again.err


def test_jobs_out_of_time_are_left_to_do_and_their_limit_may_change(program: Program) -> None:
    grid = ["train.duration=40", "train.eval_every=10", "optimizer.lr=0.01,0.1"]
    part = program("-m", *grid, "train.max_seconds=1e-9")
    assert part.code == 0, part.err
    assert statuses(part) == ["interrupted", "interrupted"]
    assert verdicts(part) == ["reached train.max_seconds at step 1"] * 2
    assert [setting["final_loss"]["mean"] for setting in sweep_of(part)["settings"]] == ["nan", "nan"], (
        "no val loss yet"
    )
    go_on = f"resume.sweep={part.run.relative_to(part.directory)} train.max_seconds=null"
    assert f"go on with: python -m runner {go_on}" in part.out
    later = program(f"resume.sweep={part.run}")
    assert step_counts(later) == [2, 2], "for as long again"
    rest = program(*go_on.split(), "quiet=true")
    assert rest.code == 0, rest.err
    assert statuses(rest) == ["finished"] * 2
    assert len(runs_of(rest.directory)) == 2
    assert len(rest.out.splitlines()) == 1, "its run directory"
    whole = program("-m", *grid)
    assert records(rest) == records(whole)


def test_run_that_goes_on_in_another_directory_is_known_and_done(program: Program, tmp_path: Path) -> None:
    (tmp_path / "my/optimizer").mkdir(parents=True)
    page = "defaults: [sgd]\nmomentum: {}\n"
    (tmp_path / "my/optimizer/mine.yaml").write_text(page.format(0.5))
    grid = ["--config-dir", "my", "-m", "task=quadratic", "optimizer=mine", "train.duration=40", "seed=0,1"]
    part = program(*grid, "train.max_seconds=1e-9", "resume.checkpoint=best")
    assert statuses(part) == ["interrupted"] * 2, part.err
    (tmp_path / "my/optimizer/mine.yaml").write_text(page.format(0.6))
    rest = program(f"resume.sweep={part.run}", "train.max_seconds=null")
    assert statuses(rest) == ["finished"] * 2, rest.err
    assert step_counts(rest) == [40, 40]
    again = program(f"resume.sweep={part.run}")
    assert len(runs_of(tmp_path)) == 4, "nothing is left to do"
    assert again.code == 0


def test_interrupted_job_with_a_damaged_checkpoint_starts_afresh_and_says_so(program: Program) -> None:
    part = program("-m", *QUADRATIC, "seed=0,1", "train.max_seconds=1e-9")
    first = part.directory / sweep_of(part)["jobs"][0]["run"]
    (first / "checkpoints/last.pt").write_bytes(b"no checkpoint")
    lines = (first / "records.jsonl").read_text().splitlines()
    (first / "records.jsonl").write_text("\n".join(['{"kind":"step",', '{"kind":"eval",', *lines, ""]))
    rest = program(f"resume.sweep={part.run}", "train.max_seconds=null")
    assert statuses(rest) == ["finished"] * 2, rest.err
    assert "warning sweep: job 1 starts afresh: resume.from: must have a readable checkpoint" in rest.err
    assert len(runs_of(part.directory)) == 3


def test_what_may_change_when_a_sweep_goes_on_does_not_change_what_its_runs_train() -> None:
    sweep = Sweep("", "", (), (), (), "")
    page = {
        "train": {"max_seconds": 1, "duration": 5},
        "tracking": {"uri": "a"},
        "notify": {"command": "a"},
        "quiet": 1,
    }
    changes: dict[str, dict[str, Any]] = {
        "train.max_seconds=2": {"train": {"max_seconds": 2, "duration": 5}},
        "tracking.uri=b": {"tracking": {"uri": "b"}},
        "notify.command=b": {"notify": {"command": "b"}},
        "quiet=false": {"quiet": False},
    }
    for override, change in changes.items():
        assert sweep.may_change(override)
        assert same_run(page, {**page, **change})
    assert not sweep.may_change("train.duration=6")
    assert not same_run(page, {**page, "train": {"max_seconds": 1, "duration": 6}})


def test_another_option_of_a_group_ends_the_keys_of_the_old_one() -> None:
    assert changed(["tracking.uri=a", "seed=0", "+quiet=true"], ["tracking=off", "quiet=false"]) == (
        "seed=0", "tracking=off", "quiet=false",
    )  # fmt: skip


def test_loss_of_a_job_out_of_time_is_that_of_its_last_evaluation(program: Program) -> None:
    part = program("-m", "train.duration=40", "train.eval_every=1", "optimizer.lr=0.01,0.1", "train.max_seconds=1e-9")
    [first, _] = sweep_of(part)["settings"]
    [run] = [job for job in sweep_of(part)["jobs"] if job["varied"] == first["varied"]]
    recorded = json.loads((part.directory / run["run"] / "result.json").read_text())
    assert first["final_loss"]["mean"] == recorded["final"]["val/loss"]
    assert first["verdict"] == "1 interrupted"


def test_directory_used_again_shows_nothing_of_the_sweep_before(program: Program, tmp_path: Path) -> None:
    grid = [*QUADRATIC, "optimizer.lr=0.01,0.02", "hydra.sweep.dir=out"]
    before = program("-m", *grid)
    old = {job["run"] for job in sweep_of(before)["jobs"]}
    shutil.rmtree(tmp_path / "out")
    after = program("-m", *grid)
    assert len(old | {job["run"] for job in sweep_of(after)["jobs"]}) == 4
    assert len(runs_of(tmp_path)) == 4


@pytest.mark.slow
@needs_two_cores
@pytest.mark.parametrize(
    ("targets", "ended"),
    [
        (("parts.DeadlyModel", SOUND), ["failed"] * 2 + ["finished"] * 2),
        ((SOUND, "parts.Deadly"), ["finished"] * 2 + ["failed"] * 2),
    ],
)
def test_job_that_kills_its_worker_takes_no_other_with_it(
    tmp_path: Path, targets: tuple[str, str], ended: list[str]
) -> None:
    (tmp_path / "parts.py").write_text(PARTS)
    target = f"task._target_={','.join(targets)}"
    grid = ["-m", *QUADRATIC, target, "optimizer.lr=0.01,0.02", "hydra/launcher=joblib"]
    done = call_command(*grid, directory=tmp_path)
    assert done.code == 0, done.err
    assert statuses(done) == ended
    failed = [verdict for verdict in verdicts(done) if "finished" not in verdict]
    assert failed == ["its worker process ended with SIGKILL(-9), maybe for want of memory"] * 2


def test_launcher_of_a_sweep_stays_when_its_number_of_workers_changes(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=1"]
    done = program("-m", *QUADRATIC, "seed=0,1", *launcher)
    resumed = f"resume.sweep={done.run}"
    monkeypatch.chdir(done.directory)
    words = expand_resumed_sweep([resumed, "hydra.launcher.n_jobs=-1"])
    assert words == [
        "--multirun",
        "tracking=off",
        *QUADRATIC,
        "seed=0,1",
        launcher[0],
        "hydra.launcher.n_jobs=-1",
        resumed,
    ]
    words = expand_resumed_sweep([resumed, "hydra/launcher=basic"])
    assert words == ["--multirun", "tracking=off", *QUADRATIC, "seed=0,1", "hydra/launcher=basic", resumed]


@pytest.mark.slow
@needs_two_cores
def test_error_of_a_mode_that_does_not_train_comes_home_from_a_worker(launch: Callable[..., Done]) -> None:
    (runs := launch("train.duration=3")).run.joinpath("checkpoints/best.pt").write_bytes(b"no checkpoint")
    grid = ["-m", "mode=eval", f"source={runs.run}", "seed=0,1", "hydra/launcher=joblib"]
    done = call_command(*grid, directory=runs.directory)
    assert done.code == 1
    assert re.search(
        r"job 2 of 2 \(seed=1\) failed: 1 problem in the configuration:\n  mode\.checkpoint: must", done.err
    )
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "error",
    [
        ConfigError(
            [Problem("a.b", "must be 1, got 2", "Set a.b=1")],
            places={Problem("a.b", "must be 1, got 2", "Set a.b=1"): "job 1"},
        ),
        TaskError(Problem("task.x", "must be 1, got 2")),
        TaskError("no data"),
        SweepError("no job finished", exit_code=3),
        MisfitError("last.pt", "head is only in the model"),
    ],
)
def test_error_survives_the_way_between_processes(error: RunnerError) -> None:
    import pickle

    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.exit_code) == (type(error), str(error), error.exit_code)
    assert vars(copy) == vars(error)
    assert in_words(copy) == in_words(error)


def test_check_of_a_grid_tries_every_job_and_writes_nothing(program: Program) -> None:
    done = program("-m", "mode=check", *QUADRATIC, "optimizer.lr=0.01,0.02")
    assert done.code == 0, done.err
    assert re.findall(r"^job \d of 2: .*$", done.out, re.MULTILINE) == [
        "job 1 of 2: optimizer.lr=0.01",
        "job 2 of 2: optimizer.lr=0.02",
    ]
    assert done.out.count("estimate: ") == 2
    assert os.listdir(done.directory) == []


@pytest.mark.parametrize(
    ("declared", "threads", "gpus", "expected"),
    [
        ({}, None, ["cuda:0", "cuda:1"], [(), (), ()]),
        ({}, 4, [], [("train.threads=4",)] * 3),
        ({}, 4, ["cuda:0"], [("train.threads=4",)] * 3),
        ({"threads": 2}, 4, ["cuda:0", "cuda:1"], [(f"train.device=cuda:{i}",) for i in (0, 1, 0)]),
        ({"device": "cpu"}, 4, ["cuda:0", "cuda:1"], [("train.threads=4",)] * 3),
    ],
)
def test_jobs_that_run_at_once_share_the_threads_and_use_the_gpus_in_turn(
    declared: dict[str, Any], threads: int | None, gpus: list[str], expected: list[tuple[str, ...]]
) -> None:
    train = Train.model_validate({**SAFE["train"], "device": "auto", **declared})
    assert [Share(threads, gpus).overrides(train, number) for number in (1, 2, 3)] == expected


@pytest.mark.slow
@needs_two_cores
def test_workers_of_a_killed_sweep_end_their_jobs_and_themselves(tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text(PARTS)
    grid = ["task=quadratic", "train.duration=60", "task._target_=parts.Slow", "seed=0,1,2,3", "hydra/launcher=joblib"]
    process = subprocess.Popen(
        [sys.executable, "-m", "runner", "-m", "tracking=off", *grid], cwd=tmp_path, env=ENVIRONMENT
    )
    wait_for(lambda: len(list(tmp_path.glob("runs/quadratic/*/records.jsonl"))) >= 2)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
    results = [json.loads(path.read_text()) for path in tmp_path.glob("runs/quadratic/*/result.json")]
    assert {result["status"] for result in results} == {"finished"}


@pytest.mark.parametrize(
    "words",
    [
        ("-m", "optimizer.lr=0.01,0.02"),
        ("-m", "hydra/sweeper=optuna", "optimizer.lr=interval(0.01,0.1)", "hydra.sweeper.n_trials=2"),
        ("mode=sweep", "sweep.space={optimizer.lr:'0.01,0.02'}", "sweep.backend=sequential"),
    ],
)
def test_resume_begun_while_another_process_ends_sees_what_that_has_added(
    program: Program, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    done = program(*QUADRATIC, *words)
    path, acquire = done.run / "sweep.json", FileLock.acquire
    whole = path.read_text()
    with alone_in(done.run, key="", what=""):
        refused = program(f"resume.sweep={done.run}")
    assert refused.code == 2
    assert "resume.sweep: must be a sweep that no other process is running, got " in refused.err
    data = json.loads(whole)
    path.write_text(json.dumps({**data, "jobs": data["jobs"][:1]}))  # as the other process wrote it before its last job

    def late(lock: Any, *given: Any, **how: Any) -> Any:
        if Path(lock.lock_file).parent == done.run:
            path.write_text(whole)
        return acquire(lock, *given, **how)

    monkeypatch.setattr(FileLock, "acquire", late)
    again = program(f"resume.sweep={done.run}")
    assert again.code == 0, again.err
    assert statuses(again) == ["finished"] * 2
    assert len(runs_of(done.directory)) == 2


def test_job_whose_launcher_breaks_after_a_signal_has_not_failed() -> None:
    class Breaking:
        def launch(self, overrides: Any, initial_job_idx: int) -> Any:
            raise RuntimeError("a worker is gone")

    errors = dict[int, str]()
    stops = iter([False, True])  # the signal comes while the job runs
    job = Launchable(Job(1, (), {}, "quadratic", 0.1, 0), ())
    is_stopped = partial(next, stops)
    launch_all([job], Breaking(), size=1, undone=lambda batch: ([], []), is_stopped=is_stopped, errors=errors)  # type: ignore[arg-type]
    assert errors == {}
