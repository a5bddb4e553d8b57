"""N steps in one go equal k steps, an interruption, and N - k more: bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ENVIRONMENT, Done, Program

DECLARED = [
    "task.dropout=0.2",
    "train.accumulate=3",
    "train.duration=60",
    "train.checkpoint_every=20",
    "train.eval_every=15",
]


def weights(run: Path, name: str = "last.pt") -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run / "checkpoints" / name, weights_only=True)
    return content


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def steps(run: Path) -> list[dict[str, Any]]:
    """Records without their wall-clock times."""
    lines = (run / "records.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "time_ms"} for line in lines]


def interrupt(directory: Path, number: signal.Signals, *overrides: str) -> Done:
    """Start a long run, send it a signal when it has made its first checkpoint, and wait for its end."""
    command = [sys.executable, "-m", "runner", "tracking=off", *overrides]
    process = subprocess.Popen(
        command, cwd=directory, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(directory.glob("runs/*/*/checkpoints/last.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return Done(process.returncode, out, err, directory)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_resumed_run_equals_an_uninterrupted_one_bit_for_bit(program: Program, tmp_path: Path, optimizer: str) -> None:
    declared = [*DECLARED, f"optimizer={optimizer}"]
    whole = program(*declared)
    # a run that stops after 40 of 60 steps: the same schedule, killed between two checkpoints
    part = program(*declared, "train.max_seconds=1e-9")
    assert part.code == 0, part.err
    assert "reached train.max_seconds at step 1" in part.out
    rest = program(f"resume.from={part.run}", "train.max_seconds=null")
    assert rest.code == 0, rest.err
    first, second = weights(whole.run), weights(rest.run)
    assert second["state"]["step"] == 60
    for key in ("model", "optimizer", "generators", "detectors"):
        assert same(first[key], second[key]), key
    assert steps(whole.run) == steps(part.run)[:1] + steps(rest.run)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_finishes_the_step_saves_and_says_how_to_go_on(
    program: Program, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    declared = ["train.duration=5000", "train.checkpoint_every=100", "task.dropout=0.1", "train.accumulate=2"]
    stopped = interrupt(tmp_path, number, *declared)
    assert stopped.code == code, stopped.err
    assert f"interrupted by {number.name}" in stopped.out
    assert f"python -m runner resume.from={stopped.run.relative_to(tmp_path)}" in stopped.out
    result = json.loads((stopped.run / "result.json").read_text())
    assert result["status"] == "interrupted"
    made = result["steps"]
    assert weights(stopped.run)["state"]["step"] == made
    assert [r["step"] for r in steps(stopped.run) if r["kind"] == "step"] == list(range(made))

    rest = program(f"resume.from={stopped.run}")
    assert rest.code == 0, rest.err
    assert rest.run == stopped.run
    whole = program(*declared)
    assert same(weights(whole.run)["model"], weights(rest.run)["model"])
    assert steps(whole.run) == steps(rest.run)


def test_kill_9_loses_nothing_and_the_same_directory_goes_on(program: Program, tmp_path: Path) -> None:
    declared = ["train.duration=3000", "train.checkpoint_every=50", "train.eval_every=500"]
    killed = interrupt(tmp_path, signal.SIGKILL, *declared)
    run = next(tmp_path.glob("runs/digits/*"))
    assert killed.code == -signal.SIGKILL
    assert json.loads((run / "result.json").read_text())["status"] == "running"
    with (run / "records.jsonl").open("a") as file:
        file.write('{"kind":"step","st')  # what a power cut leaves
    resumed = program(f"resume.from={run}")
    assert resumed.code == 0, resumed.err
    assert resumed.run == run
    records = steps(run)
    assert [r["step"] for r in records if r["kind"] == "step"] == list(range(3000))
    assert [r["step"] for r in records if r["kind"] == "eval"] == list(range(500, 3001, 500))
    fresh = program(*declared)
    assert same(weights(fresh.run)["model"], weights(run)["model"])
    assert [r for r in records if r["kind"] == "step"] == [r for r in steps(fresh.run) if r["kind"] == "step"]


def test_resume_with_a_changed_learning_rate_is_a_new_run(program: Program) -> None:
    part = program("train.duration=20", "train.checkpoint_every=10", "train.max_seconds=1e-9")
    other = program(f"resume.from={part.run}", "optimizer.lr=0.01", "train.max_seconds=null")
    assert other.code == 0, other.err
    assert other.run != part.run
    records = steps(other.run)
    assert records[0]["step"] == 1
    assert max(r["lr"] for r in records if r["kind"] == "step") <= 0.01
    assert weights(other.run)["optimizer"]["param_groups"][0]["initial_lr"] == 0.01


def test_resume_with_another_optimizer_starts_its_state_afresh(program: Program) -> None:
    part = program("schedule=linear", "train.duration=20", "train.max_seconds=1e-9")
    other = program(f"resume.from={part.run}", "optimizer=adamw", "train.max_seconds=null")
    assert other.code == 0, other.err
    assert json.loads((other.run / "result.json").read_text())["title"] == "adamw lr=0.001 linear w1"
    assert weights(other.run)["optimizer_class"] == "AdamW"


def test_finished_run_is_not_resumed_but_can_be_made_longer(program: Program) -> None:
    whole = program("train.duration=20")
    again = program(f"resume.from={whole.run}")
    assert again.code == 2
    assert "resume.from: must be a run with steps left" in again.err
    longer = program(f"resume.from={whole.run}", "train.duration=30")
    assert longer.code == 0, longer.err
    assert [r["step"] for r in steps(longer.run) if r["kind"] == "step"] == list(range(20, 30))


def test_checkpoint_of_another_model_is_refused_with_the_reason(program: Program) -> None:
    part = program("train.duration=20", "train.max_seconds=1e-9")
    other = program(f"resume.from={part.run}", "task.hidden=[32]")
    assert other.code == 1
    assert "does not fit this configuration" in other.err
    assert "Traceback" not in other.err


def test_damaged_checkpoint_is_refused_by_name(program: Program) -> None:
    part = program("train.duration=20", "train.max_seconds=1e-9")
    os.truncate(part.run / "checkpoints/last.pt", 100)
    again = program(f"resume.from={part.run}")
    assert again.code == 1
    assert "not a readable checkpoint" in again.err
