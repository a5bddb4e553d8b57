"""N steps in one go equal k steps, an interruption, and N - k more: bit for bit."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from runner.job import checked
from tests.conftest import ENVIRONMENT, Done, Program, wait_for
from tests.pages import composed
from tests.processes import Forked

DECLARED = [
    "task.dropout=0.2",
    "train.accumulate=3",
    "train.duration=60",
    "train.checkpoint_every=20",
    "train.eval_every=15",
]


def weights(run: Path, name: str = "last.pt") -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run / "checkpoints" / name, map_location="cpu", weights_only=True)
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
    process = Forked("tracking=off", *overrides, directory=directory, environment=ENVIRONMENT)
    wait_for(lambda: list(directory.glob("runs/*/*/checkpoints/last.pt")))
    process.send_signal(number)
    return Done(*process.communicate(), directory)


PARTS = """
import os, pathlib, signal, time
from runner.tasks.digits import Digits

class Dying(Digits):
    def batch(self, step, split, part=(0, 1)):
        if split == "train" and step == 47 and not pathlib.Path("has_died").exists():
            pathlib.Path("has_died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(step, split, part)

class Slow(Digits):
    def batch(self, step, split, part=(0, 1)):
        if split == "train" and step >= 20 and not pathlib.Path("fast").exists():
            time.sleep(0.2)
        return super().batch(step, split, part)
"""


@pytest.mark.parametrize(
    "part", [pytest.param("optimizer=sgd", marks=pytest.mark.slow), "optimizer=adamw train.ema_decay=0.9"]
)
def test_resumed_run_equals_an_uninterrupted_one_bit_for_bit(program: Program, tmp_path: Path, part: str) -> None:
    """Killed at step 47 of 60, with a checkpoint of step 40 and records up to step 45 on disk."""
    (tmp_path / "parts.py").write_text(PARTS)
    declared = [*DECLARED, *part.split(), "task._target_=parts.Dying"]
    killed = program(*declared, spawn=True)
    assert killed.code == -signal.SIGKILL
    run = next(tmp_path.glob("runs/digits/*"))
    assert weights(run)["state"]["step"] == 40
    before = steps(run)
    assert [r["step"] for r in before if r["kind"] == "step"] == list(range(45))
    assert [r["step"] for r in before if r["kind"] == "eval"] == [15, 30, 45]
    with (run / "records.jsonl").open("a") as file:
        file.write('{"kind":"step","st')  # what a power cut leaves
    rest = program(f"resume.from={run}")
    assert rest.code == 0, rest.err
    assert rest.run == run
    whole = program(*declared)
    for key in ("model", "average", "optimizer", "generators", "detectors", "state"):
        assert same(weights(whole.run)[key], weights(run)[key]), key
    assert steps(run) == steps(whole.run)
    result = json.loads((run / "result.json").read_text())
    assert (result["status"], result["steps"]) == ("finished", 60)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_signal_finishes_the_step_saves_and_says_how_to_go_on(
    program: Program, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    (tmp_path / "parts.py").write_text(PARTS)
    declared = ["train.duration=80", "train.checkpoint_every=20", "task.dropout=0.1", "train.accumulate=2"]
    declared.append("task._target_=parts.Slow")
    stopped = interrupt(tmp_path, number, *declared)
    assert stopped.code == code, stopped.err
    assert f"interrupted by {number.name}" in stopped.out
    assert f"python -m runner resume.from={stopped.run.relative_to(tmp_path)}" in stopped.out
    result = json.loads((stopped.run / "result.json").read_text())
    assert result["status"] == "interrupted"
    made = result["steps"]
    assert weights(stopped.run)["state"]["step"] == made
    assert [r["step"] for r in steps(stopped.run) if r["kind"] == "step"] == list(range(made))

    assert made < 80
    (tmp_path / "fast").touch()
    rest = program(f"resume.from={stopped.run}")
    assert rest.code == 0, rest.err
    assert rest.run == stopped.run
    whole = program(*declared)
    assert same(weights(whole.run)["model"], weights(rest.run)["model"])
    assert steps(whole.run) == steps(rest.run)


def test_time_limit_ends_the_run_with_a_verdict_and_it_goes_on_in_its_own_directory(program: Program) -> None:
    declared = ["task.hidden=[16]", "train.duration=40", "train.eval_every=10"]
    part = program(*declared, "train.max_seconds=1e-9")
    assert part.code == 0, part.err
    result = json.loads((part.run / "result.json").read_text())
    assert (result["status"], result["verdict"], result["steps"], result["planned_steps"]) == (
        "finished", "reached train.max_seconds at step 1", 1, 40,
    )  # fmt: skip
    run = part.run.relative_to(part.directory)
    assert f"python -m runner resume.from={run} train.max_seconds=null" in part.out
    more = program(f"resume.from={run}")
    assert (more.code, more.run) == (0, part.run)
    assert weights(part.run)["state"]["step"] == 2, "every launch has the limit anew"
    rest = program(f"resume.from={run}", "train.max_seconds=null")
    assert rest.code == 0, rest.err
    assert rest.run == part.run
    result = json.loads((part.run / "result.json").read_text())
    assert (result["status"], result["verdict"], result["steps"]) == ("finished", "finished", 40)
    whole = program(*declared)
    assert same(weights(whole.run)["model"], weights(part.run)["model"])
    assert steps(whole.run) == steps(part.run)


def make_older(run: Path) -> None:
    """Take the keys out of a saved page that earlier versions did not have."""
    page = yaml.safe_load((run / "config.yaml").read_text())
    for key in ("scaling", "schedule_of", "overlays", "preview"):
        del page[key]
    for section, key in (("train", "refresh_batches"), ("task", "examples"), ("schedule", "horizon")):
        del page[section][key]
    (run / "config.yaml").write_text(yaml.safe_dump(page))


def test_run_saved_by_an_earlier_version_goes_on_in_its_own_directory(program: Program) -> None:
    declared = ["task.hidden=[16]", "train.duration=40", "train.eval_every=10"]
    part = program(*declared, "train.max_seconds=1e-9")
    make_older(part.run)
    rest = program(f"resume.from={part.run}", "train.max_seconds=null")
    assert (rest.code, rest.run) == (0, part.run), rest.err
    whole = program(*declared)
    assert same(weights(whole.run)["model"], weights(part.run)["model"])
    assert steps(whole.run) == steps(part.run)


def test_run_saved_by_an_earlier_version_is_another_with_what_is_new(program: Program) -> None:
    part = program("task.hidden=[16]", "train.duration=20", "train.max_seconds=1e-9")
    make_older(part.run)
    for changed in ("overlay=[cooldown]", "scaling=sqrt scaling.reference_batch_size=32"):
        other = program(f"resume.from={part.run}", "train.max_seconds=null", *changed.split())
        assert other.code == 0, other.err
        assert other.run != part.run, changed


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
    assert (
        "warning resume.from: the run was trained with SGD, so AdamW takes its weights and begins without a state."
        in other.err
    )
    assert json.loads((other.run / "result.json").read_text())["title"] == "adamw lr=0.001 linear w1"
    assert weights(other.run)["optimizer_class"] == "AdamW"


def test_resume_with_another_option_takes_what_it_brings_and_leaves_what_the_old_one_brought(program: Program) -> None:
    part = program("train.duration=20", "train.max_seconds=1e-9")
    known = {"schedule": "cosine", "warmup": "linear", "param_groups": "all"}
    for changed, expected in (
        ("schedule=one_cycle", {"schedule": "one_cycle", "warmup": "none"}),
        ("schedule=one_cycle warmup=cosine", {"schedule": "one_cycle", "warmup": "cosine"}),
        ("optimizer=schedulefree_adamw", {"schedule": "constant"}),
        ("optimizer=schedulefree_radam", {"schedule": "constant", "warmup": "none"}),
        ("optimizer=muon", {"param_groups": "muon"}),
    ):
        other = program(f"resume.from={part.run}", "train.max_seconds=1e-9", *changed.split())
        assert other.code == 0, other.err
        choices = json.loads((other.run / "result.json").read_text())["choices"]
        assert {group: choices[group] for group in known} == known | expected
        fresh = checked(composed(*changed.split(), "train.duration=20")).model_dump(mode="json", by_alias=True)
        saved = yaml.safe_load((other.run / "config.yaml").read_text())
        assert {group: saved[group] for group in known} == {group: fresh[group] for group in known}
    back = program(f"resume.from={other.run}", "optimizer=sgd", "train.max_seconds=1e-9")
    assert back.code == 0, back.err
    assert json.loads((back.run / "result.json").read_text())["choices"]["param_groups"] == "all"


def test_preview_of_several_schedules_of_a_run_takes_what_each_brings(program: Program) -> None:
    part = program("train.duration=20", "train.max_seconds=1e-9")
    done = program("mode=preview", f"resume.from={part.run}", "preview.schedules=[cosine,one_cycle]")
    assert done.code == 0, done.err
    assert "W = 1 or W = 0" in done.out, "one_cycle rises by itself"


def test_finished_run_is_not_resumed_but_can_be_made_longer(program: Program) -> None:
    whole = program("train.duration=20")
    for changed in ([], ["train.duration=10"]):
        assert program(f"resume.from={whole.run}", *changed).code == 2
    again = program(f"resume.from={whole.run}")
    assert again.code == 2
    assert "resume.from: must be a run with steps left" in again.err
    longer = program(f"resume.from={whole.run}", "train.duration=30")
    assert longer.code == 0, longer.err
    assert [r["step"] for r in steps(longer.run) if r["kind"] == "step"] == list(range(20, 30))


def test_checkpoint_of_another_model_is_refused_with_the_reason(program: Program) -> None:
    part = program("train.duration=20", "train.max_seconds=1e-9")
    other = program(f"resume.from={part.run}", "task.hidden=[32]")
    assert other.code == 2
    assert (
        "resume.from: must fit the model, but 0.weight has shape [128, 64] in the checkpoint and [32, 64] here"
        in other.err
    )
    assert len(list(part.run.parent.iterdir())) == 1, "no new run directory"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("checkpoints/last.pt", "not a readable checkpoint"),
        ("records.jsonl", "line 2 must be a record"),
        ("result.json", "readable result.json"),
        ("config.yaml", "readable config.yaml"),
    ],
)
def test_damaged_file_is_named_and_nothing_else_is_touched(program: Program, name: str, message: str) -> None:
    part = program("train.duration=20", "train.max_seconds=0.02", "train.eval_every=1")
    path = part.run / name
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], b"{gar[bage", *lines[2:]]) if name == "records.jsonl" else b"{gar[bage")
    before = {file: file.read_bytes() for file in part.run.rglob("*") if file.is_file()}
    again = program(f"resume.from={part.run}")
    assert again.code in (1, 2)
    assert message in again.err
    assert {file: file.read_bytes() for file in part.run.rglob("*") if file.is_file()} == before


def test_second_process_on_the_same_run_is_refused(program: Program, tmp_path: Path) -> None:
    part = program(
        "train.duration=2000000", "train.eval_every=null", "train.max_seconds=0.1", "train.checkpoint_every=null"
    )
    words = ["tracking=off", f"resume.from={part.run}", "train.max_seconds=null"]
    process = Forked(*words, directory=tmp_path, environment=ENVIRONMENT)
    wait_for(lambda: '"running"' in (part.run / "result.json").read_text())
    second = program(f"resume.from={part.run}", "train.max_seconds=null")
    process.send_signal(signal.SIGINT)
    assert process.communicate()[0] == 130
    assert second.code == 2, second.out
    assert "resume.from: must be a run that no other process is writing" in second.err


def test_deleted_detector_stays_deleted_when_a_run_goes_on(program: Program) -> None:
    part = program("train.duration=20", "train.max_seconds=1e-9")
    other = program(f"resume.from={part.run}", "~detectors.divergence", "train.max_seconds=null")
    assert other.code == 0, other.err
    assert "divergence" not in (other.run / "config.yaml").read_text()
