"""mode=sweep: a grid of recorded runs, resumable, that nothing tells from single runs."""

import json
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.records import RunResult
from runner.trials.grid import spaced
from tests.conftest import ENVIRONMENT, Done, Program, Refusal, call_program, wait_for
from tests.processes import Forked
from tests.sweeps import records, runs_of, statuses, sweep_of

SWEEP = ("mode=sweep", "task=quadratic", "train.duration=30", "sweep.backend=sequential")
RATES = "sweep.space={optimizer.lr:'0.01,0.02,0.03'}"
PARTS = """
import os, pathlib, signal, time
from runner.tasks.quadratic import Quadratic

class Dying(Quadratic):
    def batch(self, step, split, part=(0, 1)):
        if step == 17 and len(list(pathlib.Path("runs/quadratic").iterdir())) >= 2 and not os.path.exists("has_died"):
            pathlib.Path("has_died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(step, split, part)

class Slow(Quadratic):
    def batch(self, step, split, part=(0, 1)):
        if step >= 20 and not os.path.exists("fast"):
            time.sleep(0.05)
        return super().batch(step, split, part)

class Broken(Quadratic):
    def batch(self, step, split, part=(0, 1)):
        if step == 7 and len(list(pathlib.Path("runs/quadratic").iterdir())) == 1:
            raise RuntimeError("no such batch")
        return super().batch(step, split, part)
"""
TIMES = {"time_ms", "seconds", "seconds_measuring", "tags", "mlflow_run_id"}


def varied(done: Done) -> list[str]:
    return [job["varied"]["optimizer.lr"] for job in sweep_of(done)["jobs"]]


@pytest.mark.usefixtures("pictures")
def test_grid_of_learning_rates_around_what_is_typical_is_run_and_told(program: Program) -> None:
    done = program(*SWEEP, "optimizer=adamw")
    assert done.code == 0, done.err
    assert varied(done) == ["1e-5", "3.16e-5", "1e-4", "3.16e-4", "0.001", "0.00316", "0.01", "0.0316", "0.1"]
    assert statuses(done) == ["finished"] * 9
    assert "job 9/9 (optimizer.lr=0.1): finished" in done.out
    assert done.out.strip().splitlines()[-1].startswith("runs/sweeps/")
    assert {path.name for path in done.run.iterdir()} >= {"sweep.json", "sweep.png", "result.json", "records.jsonl"}
    assert json.loads((done.run / "result.json").read_text())["mode"] == "sweep"


def test_bounds_points_and_seeds_make_the_grid(program: Program) -> None:
    done = program(*SWEEP, "sweep.low=1e-3", "sweep.high=1e-2", "sweep.points=2", "sweep.seeds=2", "seed=3")
    assert [job["varied"] for job in sweep_of(done)["jobs"]] == [
        {"optimizer.lr": lr, "seed": seed} for lr in ("0.001", "0.01") for seed in ("3", "4")
    ]


def test_option_that_is_varied_brings_its_own_keys(program: Program) -> None:
    done = program(*SWEEP, "optimizer=sgd", "optimizer.momentum=0.5", "sweep.space={optimizer:'sgd,adamw'}")
    assert statuses(done) == ["finished"] * 2, done.err
    runs = [done.directory / job["run"] for job in sweep_of(done)["jobs"]]
    pages = [yaml.safe_load((run / "config.yaml").read_text()) for run in runs]
    assert pages[0]["optimizer"]["momentum"] == 0.9, "the keys of an option that is varied are its own"
    assert pages[1]["optimizer"]["_target_"] == "torch.optim.AdamW"


@pytest.mark.parametrize("backend", ["sequential", "lanes"])
@pytest.mark.parametrize("task", ["quadratic", "digits"])
def test_trial_is_what_its_command_makes_alone(program: Program, tmp_path: Path, task: str, backend: str) -> None:
    done = program("mode=sweep", f"task={task}", "train.duration=30", f"sweep.backend={backend}", RATES)
    [trial] = [done.directory / job["run"] for job in sweep_of(done)["jobs"] if job["varied"]["optimizer.lr"] == "0.02"]
    (tmp_path / "alone").mkdir()
    command = shlex.split(json.loads((trial / "result.json").read_text())["command"])
    alone = program(*[word for word in command[3:] if word != "tracking=off"], directory=tmp_path / "alone")
    assert is_same_run(trial, alone.run) == []


def is_same_run(one: Path, other: Path) -> list[str]:
    """What differs between two run directories, times, ids and the tag of a sweep left out."""
    names = {path.relative_to(one).as_posix() for path in one.rglob("*") if path.is_file()}
    theirs = {path.relative_to(other).as_posix() for path in other.rglob("*") if path.is_file()}
    differences = [f"only in one of them: {name}" for name in sorted(names ^ theirs)]
    for name in ("config.yaml", "result.json", "records.jsonl"):
        left, right = ((directory / name).read_text() for directory in (one, other))
        if name == "config.yaml":
            is_same = left == right
        elif name == "result.json":
            is_same = is_close(untimed(json.loads(left)), untimed(json.loads(right)))
        else:
            lines, others = ([untimed(json.loads(line)) for line in text.splitlines()] for text in (left, right))
            is_same = is_close(lines, others)
        differences += [] if is_same else [name]
    return differences


def is_close(one: Any, other: Any) -> bool:
    """Whether two values are the same but for the last digits of numbers, which a batched pass rounds otherwise."""
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(is_close(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_close, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return one == pytest.approx(other, rel=1e-4, abs=1e-6, nan_ok=True)
    return bool(one == other)


def untimed(data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key not in TIMES}


def test_page_that_chooses_the_sweep_itself_has_trials_that_train(program: Program, tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    page = "defaults: [config, override /mode: sweep, _self_]\nsweep: {space: {optimizer: {lr: [0.01, 0.02]}}}\n"
    (tmp_path / "pages/mine.yaml").write_text(page)
    done = program("--config-dir", "pages", "--config-name", "mine", *SWEEP[1:])
    assert statuses(done) == ["finished"] * 2, done.err
    result = RunResult(**json.loads((tmp_path / sweep_of(done)["jobs"][0]["run"] / "result.json").read_text()))
    assert result.mode == "train"
    assert result.command.endswith("mode=train optimizer.lr=0.01")


def test_numbers_that_are_equal_run_once(program: Program) -> None:
    done = program(*SWEEP, "sweep.space={optimizer.lr:'1,1.0,0.01'}")
    assert varied(done) == ["1", "0.01"]


def test_all_diverged_is_exit_3_and_one_that_fails_stops_no_other(program: Program, tmp_path: Path) -> None:
    diverged = program(*SWEEP, "warmup=none", "sweep.space={optimizer.lr:'1e9,1e10'}")
    assert diverged.code == 3, diverged.err
    assert statuses(diverged) == ["diverged"] * 2
    (tmp_path / "other").mkdir()
    (tmp_path / "other/parts.py").write_text(PARTS)
    broken = program(*SWEEP, RATES, "task._target_=parts.Broken", directory=tmp_path / "other")
    assert broken.code == 0
    assert statuses(broken) == ["failed", "finished", "finished"]
    assert "RuntimeError: no such batch" in (broken.run / "traceback.txt").read_text()


@pytest.mark.parametrize(("backend", "begun"), [("sequential", 2), ("lanes", 3)])
def test_killed_sweep_resumes_and_ends_like_an_uninterrupted_one(
    program: Program, tmp_path: Path, backend: str, begun: int
) -> None:
    (tmp_path / "parts.py").write_text(PARTS)
    words = [*SWEEP[:3], f"sweep.backend={backend}", "train.checkpoint_every=10", "task._target_=parts.Dying", RATES]
    killed = call_program(*words, directory=tmp_path)
    assert killed.code == -signal.SIGKILL
    [directory] = tmp_path.glob("runs/sweeps/*")
    assert len(runs_of(tmp_path)) == begun
    rest = program(f"resume.sweep={directory.relative_to(tmp_path)}")
    assert rest.code == 0, rest.err
    assert rest.run == directory
    assert len(runs_of(tmp_path)) == 3
    whole = program(*words)
    assert records(rest) == records(whole)
    assert sweep_of(rest)["settings"] == sweep_of(whole)["settings"]


@pytest.mark.parametrize(
    "mode",
    [("mode=sweep", "sweep.backend=sequential", RATES), ("mode=sweep", "sweep.backend=lanes", RATES), ("mode=search",)],
)
def test_killed_run_without_a_checkpoint_is_made_again_and_counts(
    program: Program, tmp_path: Path, mode: tuple[str, ...]
) -> None:
    (tmp_path / "parts.py").write_text(PARTS)
    words = [*mode, *SWEEP[1:3], "train.threads=1", "train.checkpoint_every=null", "task._target_=parts.Dying"]
    killed = call_program(*words, directory=tmp_path)
    assert killed.code == -signal.SIGKILL
    [directory] = tmp_path.glob("runs/sweeps/*")
    rest = program(f"resume.sweep={directory.relative_to(tmp_path)}")
    assert rest.code == 0, rest.err
    assert set(statuses(rest)) <= {"finished", "diverged"}
    assert records(rest) == records(program(*words))


@pytest.mark.parametrize("backend", ["sequential", "lanes"])
def test_interrupted_sweep_says_how_to_go_on_and_does(program: Program, tmp_path: Path, backend: str) -> None:
    (tmp_path / "parts.py").write_text(PARTS)
    words = ["train.duration=400", "task._target_=parts.Slow", RATES, "tracking=off", "sweep.lanes=2"]
    words = [*SWEEP[:3], f"sweep.backend={backend}", *words]
    process = Forked(*words, directory=tmp_path, environment=ENVIRONMENT)
    wait_for(lambda: any('"step":30,' in path.read_text() for path in tmp_path.glob("runs/quadratic/*/records.jsonl")))
    process.send_signal(signal.SIGINT)
    stopped = Done(*process.communicate(), tmp_path)
    assert stopped.code == 130, stopped.err
    at_once = 1 if backend == "sequential" else 2
    assert statuses(stopped) == ["interrupted"] * at_once + ["waiting"] * (3 - at_once)
    (tmp_path / "fast").touch()
    [line] = [line for line in stopped.out.splitlines() if line.startswith("go on with: python -m runner ")]
    rest = program(line.rpartition(" ")[2])
    assert rest.code == 0, rest.err
    assert statuses(rest) == ["finished"] * 3
    assert len(runs_of(tmp_path)) == 3


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (["sweep.low=1", "sweep.high=0.1"], ["sweep.low: must be below sweep.high=0.1, got 1."]),
        (
            ["sweep.low=nan", "sweep.high=-1", "sweep.points=1", "sweep.seeds=0", "optimizer.lr=-1"],
            [
                "optimizer.lr: must be a finite number > 0, got -1.",
                "sweep.high: must be a finite number > 0 or null, got -1.",
                "sweep.low: must be a finite number > 0 or null, got nan.",
                "sweep.points: must be an integer >= 2 or null, got 1.",
                "sweep.seeds: must be an integer >= 1, got 0.",
            ],
        ),
        (["sweep.backend=gpu"], ["sweep.backend: must be one of auto, lanes, sequential, processes, got 'gpu'."]),
        (
            ["sweep.space={optimizer.lr:'1e-3',optimizer.momentum:'interval(0,1)',seed:'x('}", "sweep.low=1"],
            [
                "optimizer.lr: must be what may vary",
                "optimizer.momentum: must be a list or a range in mode=sweep, got interval(0,1).",
                "seed: must be interval(1e-5,1), choice(a,b), range(1,4) or a list, got x(.",
                "sweep.low: must be null with sweep.space, got 1.",
            ],
        ),
        (["sweep.space={seed:'0,1'}", "sweep.seeds=2"], ["sweep.seeds: must be 1 where sweep.space varies the seed"]),
        (
            ["sweep.space={optimizer.lr:'1e-3,-1',optimizer.lrr:'1,2',optimizer:'sgd,sdg'}"],
            [
                "optimizer: must be one of",
                "optimizer.lr: must be a finite number > 0, got -1",
                "optimizer.lrr: unknown",
            ],
        ),
        (["sweep.sapce={}"], ["sweep.sapce: unknown key, did you mean sweep.space?"]),
        (["resume.sweep=runs/sweeps/none"], ["resume.sweep: must be the directory of a sweep with a readable"]),
    ],
)
def test_what_is_wrong_is_said_at_once_and_nothing_is_written(
    refuse: Callable[..., Refusal], overrides: list[str], lines: list[str]
) -> None:
    refused = refuse("mode=sweep", "task=quadratic", "train.duration=30", "tracking=off", *overrides)
    assert refused.code == 2
    assert refused.left_behind == []
    for line in lines:
        assert line in refused.err
    assert len(refused.err.strip().splitlines()) == len(lines) + (":" in refused.err.splitlines()[0][-1:])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")  # MLflow leaves its sqlite connections open
@pytest.mark.filterwarnings("ignore:The ..noload.. loader strategy:DeprecationWarning")  # SQLAlchemy to MLflow
def test_one_process_sends_all_lanes_each_with_its_end_and_its_picture(program: Program, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    done = program(*SWEEP[:3], "sweep.backend=lanes", "warmup=none", "sweep.space={optimizer.lr:'0.01,0.02,1e9'}",
                   tracking="mlflow", spawn=True)  # fmt: skip
    assert done.code == 0, done.err
    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    for job in sweep_of(done)["jobs"]:
        result = json.loads((tmp_path / job["run"] / "result.json").read_text())
        run = client.get_run(result["mlflow_run_id"])
        assert run.info.status == ("FAILED" if job["status"] == "diverged" else "FINISHED")
        assert run.data.tags["sweep"] == sweep_of(done)["id"]
        assert run.data.tags["verdict"] == job["verdict"]
        assert "curves.png" in {file.path for file in client.list_artifacts(run.info.run_id)}
        recorded = (tmp_path / job["run"] / "records.jsonl").read_text().count('"kind":"step"')
        assert len(client.get_metric_history(run.info.run_id, "train/lr")) == recorded


def test_what_cannot_be_lanes_is_refused_by_name_or_runs_one_after_another(program: Program, tmp_path: Path) -> None:
    words = [*SWEEP[:3], "train.watch_every=2", RATES]
    refused = program(*words, "sweep.backend=lanes")
    assert refused.code == 2
    assert "train.watch_every: must be 1 for lanes" in refused.err
    assert "Set sweep.backend=sequential or sweep.backend=processes." in refused.err
    assert list(tmp_path.iterdir()) == []
    done = program(*words, "sweep.backend=auto")
    assert done.code == 0
    assert "sweep.backend: one after another, as lanes cannot be: train.watch_every" in done.out


def test_kinds_of_run_that_cannot_be_lanes_are_found_beside_those_that_can(program: Program, tmp_path: Path) -> None:
    words = [*SWEEP[:3], "sweep.space={optimizer.lr:'0.01,0.02',train.watch_every:'1,2'}"]
    refused = program(*words, "sweep.backend=lanes")
    assert refused.code == 2
    assert "train.watch_every: must be 1 for lanes" in refused.err
    assert list(tmp_path.iterdir()) == []
    done = program(*words, "sweep.backend=auto")
    assert done.code == 0, done.err
    assert "sweep.backend of some runs: one after another, as lanes cannot be: train.watch_every" in done.out
    assert statuses(done) == ["finished"] * 4


def test_what_makes_the_runs_may_change_when_a_sweep_goes_on(program: Program) -> None:
    part = program(*SWEEP, RATES, "train.max_seconds=1e-9")
    assert statuses(part) == ["interrupted"] * 3
    rest = program(f"resume.sweep={part.run}", "train.max_seconds=null", "sweep.backend=lanes", "sweep.lanes=2")
    assert rest.code == 0, rest.err
    assert statuses(rest) == ["finished"] * 3
    assert len(runs_of(part.directory)) == 3


def test_several_sweeps_in_one_call_have_a_directory_each(program: Program, tmp_path: Path) -> None:
    done = program("-m", *SWEEP, "sweep.space={optimizer.lr:'0.01,0.02'}", "seed=0,1")
    assert done.code == 0, done.err
    found = [json.loads(path.read_text()) for path in tmp_path.glob("runs/sweeps/*/sweep.json")]
    assert sorted([job["seed"] for job in sweep["jobs"]] for sweep in found) == [[0, 0], [1, 1]]
    assert len(runs_of(tmp_path)) == 4


def test_numbers_of_a_grid_are_as_short_as_they_can_be_told_apart() -> None:
    assert spaced(0.01, 1, 5) == ["0.01", "0.0316", "0.1", "0.316", "1"]
    assert spaced(1, 1.001, 3) == ["1", "1.0005", "1.001"]
