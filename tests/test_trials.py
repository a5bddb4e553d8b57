"""Trials, asked for by a mode of a user's own: batch by batch, with pruning, and whatever befalls them."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from runner.compose import compose_leniently, to_tree
from runner.tracking.sweep_file import Job, JobState
from runner.tracking.sweep_runs import with_errors
from runner.trials.composing import composer
from runner.trials.shared import SharedClock
from runner.trials.trial import Batch, Trial
from runner.trials.workers import Workers
from tests.conftest import ENVIRONMENT, Done, Program, call_program, wait_for
from tests.processes import Forked
from tests.sweeps import runs_of, statuses, sweep_of

MODE = """
import json, multiprocessing, os, pathlib, time
from runner.tasks.quadratic import Quadratic
from runner.trials.trials import Trials

def run(config, invocation):
    plan = json.loads(pathlib.Path("plan.json").read_text())
    told = []
    with Trials(config, invocation, mode="sweep") as evaluate:
        for batch in plan["batches"]:
            found = evaluate(batch, on_eval=prune if plan.get("prunes") else None)
            told.append([one._asdict() for one in found])
            pathlib.Path("told.json").write_text(json.dumps(told))
            for child in multiprocessing.active_children() if plan["kills"] else ():
                child.kill()
                child.join()
        evaluate.finish()

asked = []

def prune(place, step, metrics):
    asked.append((place, step, sorted(metrics), os.getpid()))
    pathlib.Path("asked.json").write_text(json.dumps(asked))
    return place == 1 and step >= 20

class Deadly(Quadratic):
    def batch(self, step, split, part=(0, 1)):
        if step == 17:
            os.kill(os.getpid(), 9)
        return super().batch(step, split, part)

class Slow(Quadratic):
    def batch(self, step, split, part=(0, 1)):
        if step >= 20 and not os.path.exists("fast"):
            time.sleep(0.05)
        return super().batch(step, split, part)

class Broken(Quadratic):
    def batch(self, step, split, part=(0, 1)):
        if step >= 5:
            raise RuntimeError("no such batch")
        return super().batch(step, split, part)
"""
BACKENDS = ["sequential", "lanes", pytest.param("processes", marks=pytest.mark.slow)]


def ask(
    program: Program,
    directory: Path,
    *batches: list[dict[str, str]],
    words: list[str],
    prunes: bool = False,
    kills: bool = False,
) -> Done:
    (directory / "parts.py").write_text(MODE)
    (directory / "plan.json").write_text(json.dumps({"batches": batches, "prunes": prunes, "kills": kills}))
    return program("mode=sweep", "mode._target_=parts.run", "mode.runs_grid=false", "train.duration=40", *words)


def told(directory: Path) -> list[list[dict[str, Any]]]:
    found: list[list[dict[str, Any]]] = json.loads((directory / "told.json").read_text())
    return found


@pytest.mark.parametrize("backend", BACKENDS)
def test_batches_come_back_in_order_and_a_point_runs_once(program: Program, tmp_path: Path, backend: str) -> None:
    one, two, three = ({"optimizer.lr": lr} for lr in ("0.03", "0.01", "0.02"))
    bad = {"optimizer.lr": "0.04", "task._target_": "parts.Broken"}
    wild = {"optimizer.lr": "1e9", "warmup": "none"}
    words = ["task=quadratic", f"sweep.backend={backend}"]
    done = ask(program, tmp_path, [one, bad, two], [three, one, wild], words=words)
    assert done.code == 0, done.err
    first, second = told(tmp_path)
    assert [trial["lr"] for trial in first] == [0.03, 0.04, 0.01]
    assert [trial["status"] for trial in first] == ["finished", "failed", "finished"]
    assert [trial["status"] for trial in second] == ["finished", "finished", "diverged"]
    assert second[1] == first[0]
    assert [trial["steps"] for trial in first] == [40, 4, 40]
    assert statuses(done) == ["finished", "failed", "finished", "finished", "diverged"]
    assert len(runs_of(tmp_path)) == 5
    assert "RuntimeError: no such batch" in done.err


@pytest.mark.parametrize("backend", BACKENDS)
def test_trial_that_is_given_up_is_pruned_and_keeps_what_it_has(program: Program, tmp_path: Path, backend: str) -> None:
    words = ["train.eval_every=10", f"sweep.backend={backend}"]
    done = ask(program, tmp_path, [{"seed": "1"}, {"seed": "2"}], words=words, prunes=True)
    assert done.code == 0, done.err
    assert [trial["status"] for trial in told(tmp_path)[0]] == ["finished", "pruned"]
    asked = json.loads((tmp_path / "asked.json").read_text())
    assert sorted(call[:2] for call in asked) == [[0, 10], [0, 20], [0, 30], [0, 40], [1, 10], [1, 20]]
    assert len({call[3] for call in asked}) == 1, "in the process that asks"
    pruned = tmp_path / told(tmp_path)[0][1]["run"]
    result = json.loads((pruned / "result.json").read_text())
    assert (result["status"], result["verdict"]) == ("pruned", "pruned at step 20")
    assert len((pruned / "records.jsonl").read_text().splitlines()) == 22
    assert {path.name for path in pruned.iterdir()} >= {"config.yaml", "curves.png", "checkpoints"}
    assert sweep_of(done)["status"] == "finished"
    again = program(f"resume.sweep={done.run}")
    assert again.code == 0, again.err
    assert [trial["status"] for trial in told(tmp_path)[0]] == ["finished", "pruned"]
    assert len(runs_of(tmp_path)) == 2, "it is done"


@pytest.mark.slow
def test_worker_that_dies_takes_no_trial_with_it_but_its_own(program: Program, tmp_path: Path) -> None:
    points = [{"optimizer.lr": "0.01"}, {"task._target_": "parts.Deadly"}, {"optimizer.lr": "0.02"}, {"seed": "4"}]
    done = ask(program, tmp_path, points, words=["task=quadratic", "sweep.backend=processes", "sweep.jobs=1"])
    assert done.code == 0, done.err
    assert [trial["status"] for trial in told(tmp_path)[0]] == ["finished", "failed", "finished", "finished"]
    assert "its worker process ended with SIGKILL(-9), maybe for want of memory" in done.err


@pytest.mark.slow
def test_worker_that_dies_between_batches_takes_no_trial_with_it(program: Program, tmp_path: Path) -> None:
    words = ["task=quadratic", "sweep.backend=processes", "sweep.jobs=1"]
    done = ask(program, tmp_path, [{"seed": "1"}], [{"seed": "2"}], words=words, kills=True)
    assert done.code == 0, done.err
    assert [[trial["status"] for trial in batch] for batch in told(tmp_path)] == [["finished"], ["finished"]]


@pytest.mark.slow
@pytest.mark.parametrize("deaths", [1, 2])
def test_trial_whose_worker_died_before_it_took_it_up_is_given_to_another_once(tmp_path: Path, deaths: int) -> None:
    class Stopping(Workers):
        def _start(self) -> Any:
            worker = super()._start()
            if len(stopped) < deaths:
                stopped.append(pid := worker.process.pid or 0)
                os.kill(pid, signal.SIGSTOP)  # alive, and deaf
                threading.Timer(0.5, os.kill, (pid, signal.SIGKILL)).start()
            return worker

    stopped = list[int]()
    job = Job(1, (), {}, "quadratic", 0.1, 0)
    nothing: Any = None
    batch, workers = Batch(tmp_path, nothing), Stopping(1)
    workers.run([Trial(0, job, nothing, nothing)], batch)
    workers.close()
    assert len(stopped) == deaths
    assert ("its worker process ended with SIGKILL(-9)" in batch.errors[1]) is (deaths == 2), batch.errors
    assert ("NoneType" in batch.errors[1]) is (deaths == 1), "another worker has tried to make a run of nothing"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_all_workers_once_their_runs_are_saved(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "parts.py").write_text(MODE)
    target = ["task=quadratic", "train.duration=400", "task._target_=parts.Slow", "sweep.backend=processes"]
    words = [*target, "sweep.space={seed:'0,1,2'}", "sweep.jobs=2", "tracking=off"]
    process = Forked("mode=sweep", *words, directory=tmp_path, environment=ENVIRONMENT)
    runs = tmp_path / "runs/quadratic"
    wait_for(lambda: any('"step":30,' in path.read_text() for path in runs.glob("*/records.jsonl")))
    process.send_signal(number)
    stopped = Done(*process.communicate(), tmp_path)
    assert stopped.code == 128 + number, stopped.err
    assert set(statuses(stopped)) == {"interrupted", "waiting"}, "a worker may start late"
    (tmp_path / "fast").touch()
    rest = call_program(f"resume.sweep={stopped.run}", directory=tmp_path)
    assert rest.code == 0, rest.err
    assert statuses(rest) == ["finished"] * 3
    assert len(runs_of(tmp_path)) == 3


def test_run_that_is_done_stays_so_when_its_pass_ends_in_an_error() -> None:
    states = [JobState(status) for status in ("finished", "diverged", "pruned", "interrupted", "waiting")]
    errors = dict.fromkeys(range(1, 6), "MLflow does not answer")
    found = [state.status for state in with_errors(states, set(), errors)]
    assert found == ["finished", "diverged", "pruned", "failed", "failed"]


def test_batch_with_a_mistake_starts_nothing(program: Program, tmp_path: Path) -> None:
    batches = [{"optimizer.lr": "0.01"}], [{"optimizer.lr": "-1"}, {"optimizer.lr": "0.02"}, {"optimizer.lrr": "1"}]
    done = ask(program, tmp_path, *batches, words=["task=quadratic", "sweep.backend=sequential"])
    assert done.code == 2
    assert "job 1 of 3: optimizer.lr=-1" in done.err
    assert "job 3 of 3: optimizer.lrr=1" in done.err
    assert len(runs_of(tmp_path)) == 1


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer=adamw", "warmup=untuned", "optimizer.betas=[0.9,0.95]"],
        ["schedule=one_cycle", "schedule_of=one_cycle_momentum", "schedule.rise=0.2"],
        ["~detectors.non_finite", "train.duration=110", "+tags.a=1"],
        ["detector=[plateau]", "detectors.plateau.patience=3", "task=quadratic", "name=x"],
    ],
)
def test_settings_that_share_options_compose_as_hydra_composes_them(overrides: list[str]) -> None:
    compose = composer(())
    compose([overrides[0]])
    for words in ([*overrides, "seed=1"], [*overrides, "seed=2", "train.batch_size=8"]):
        composed = compose(words)
        assert to_tree(composed) == compose_leniently(words)[0]


def test_runs_side_by_side_share_the_seconds_that_pass() -> None:
    passed = [10.0]
    clock = SharedClock(lambda: passed[0])
    clock.change(1)
    clock.change(1)
    begin, passed[0] = clock(), 16.0
    assert clock() - begin == 3.0
    clock.change(-1)
    passed[0] = 18.0
    assert clock() - begin == 5.0
