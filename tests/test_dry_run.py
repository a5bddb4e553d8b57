"""mode=check says what a run is and will take, and leaves no trace."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from runner.estimate import Stopwatch, memory, planned
from tests.conftest import Done, Program

SMALL = ["task.hidden=[32]", "train.duration=100", "train.checkpoint_every=30", "train.eval_every=15"]
PARAMETERS = 64 * 32 + 32 + 32 * 10 + 10


def words(done: Done, start: str) -> list[str]:
    """The words of the line that begins so."""
    return next(line for line in done.out.splitlines() if line.startswith(start)).split()


def test_dry_run_says_what_the_run_is_and_writes_nothing(program: Program, tmp_path: Path) -> None:
    declared = [*SMALL, "optimizer=adamw", "param_groups=no_decay_1d", "warmup.duration=10"]
    done = program("mode=check", *declared)
    assert done.code == 0, done.err
    assert list(tmp_path.iterdir()) == []
    assert f"parameters: {PARAMETERS:,}, {PARAMETERS:,} of them trained" in done.out
    assert words(done, "decay") == ["decay", "2", "2,368", "0.001", "0.01", "*.weight"]
    assert words(done, "no_decay") == ["no_decay", "2", "42", "0.001", "0", "*.bias"]
    assert "data: train 1,400, val 397; prior entropy 2.30" in done.out
    assert "steps: 100, warmup 10; 22 an epoch, 4.545 epochs" in done.out
    assert "evaluations: 7; checkpoints: 4 and up to 7 of a new best" in done.out

    held = 4 * PARAMETERS / 1000
    assert f"memory: weights {held:.3g} kB, gradients {held:.3g} kB, optimizer state {2 * held:.3g} kB" in done.out
    assert re.search(r"estimate: [\d.]+ m?s to [\d.]+ m?s of training$", done.out.strip())

    run = program(*declared)
    records = [json.loads(line) for line in (run.run / "records.jsonl").read_text().splitlines()]
    lrs = {r["step"]: r["lr"] for r in records if r["kind"] == "step"}
    for step, why in {0: "first", 1: "second", 9: "W-1", 10: "W", 25: "T/4", 50: "T/2", 99: "T-1"}.items():
        assert words(done, f"{step} ") == [str(step), why, f"{lrs[step]:.4g}", f"{lrs[step]:.4g}"]
    assert len([r for r in records if r["kind"] == "eval"]) == 7
    result = json.loads((run.run / "result.json").read_text())
    last = run.run / "checkpoints/last.pt"
    assert float(words(done, "evaluations")[-3]) * 1000 == pytest.approx(last.stat().st_size, rel=0.1)
    assert result["status"] == "finished"


def test_dry_run_warns_of_a_loss_that_rises_too_briefly_for_the_detectors(program: Program) -> None:
    done = program("mode=check", "task=quadratic", "train.duration=20", "optimizer.lr=10")
    assert done.code == 0, done.err
    rise = r"warning optimizer\.lr: the loss of the trial rose from 5\.55 to \S+ in 20 steps\. Try a rate"
    assert re.search(rise, done.out)


@pytest.mark.parametrize("lr", ["1e4", "1e30"])
def test_dry_run_shows_warnings_and_makes_no_estimate_from_a_trial_that_diverges(
    program: Program, tmp_path: Path, lr: str
) -> None:
    done = program("mode=check", *SMALL, f"optimizer.lr={lr}", "warmup=none", "train.max_seconds=1e-3")
    assert done.code == 0, done.err
    assert f"warning optimizer.lr: {float(lr):g} is " in done.out
    assert "warning the trial diverged: " in done.out
    assert "evaluations: 7; checkpoints: 4 and up to 7 of a new best\n" in done.out
    assert "optimizer state unknown; peak of" in done.out
    assert not re.search(r"\b0 (B|ms|us|s)\b", done.out)
    assert done.out.endswith("\nestimate: unknown, as the trial diverged\n")
    assert list(tmp_path.iterdir()) == []


def test_dry_run_does_not_blame_the_learning_rate_for_a_loss_that_begins_infinite(program: Program) -> None:
    done = program("mode=check", "task=quadratic", "task.start=[1e200,1,1]")
    assert done.code == 0, done.err
    assert "the trial diverged: loss is inf at step 0 (lr 0.01); no update was made yet, so it is not the l" in done.out
    first = program("mode=check", *SMALL, "optimizer.lr=1e30", "warmup=none")
    assert "no update was made yet" not in first.out


def test_dry_run_says_that_a_limit_of_time_ends_the_run(program: Program) -> None:
    done = program("mode=check", *SMALL, "train.max_seconds=1e-3")
    assert done.out.strip().endswith("of training, and train.max_seconds ends it after 1 ms")


def test_dry_run_of_a_run_to_go_on_with_counts_the_steps_left(program: Program) -> None:
    part = program(*SMALL, "train.max_seconds=1e-9")
    before = sorted(part.directory.rglob("*"))
    done = program("mode=check", f"resume.from={part.run}", "train.checkpoint_every=50", "train.max_seconds=null")
    assert done.code == 0, done.err
    assert "checkpoints: 2 and" in done.out
    assert sorted(part.directory.rglob("*")) == before


@pytest.mark.parametrize("steps", [1, 10_001, 2.5, "many"])
def test_number_of_trial_steps_is_checked(program: Program, steps: object) -> None:
    done = program("mode=check", f"mode.steps={steps}")
    assert done.code == 2
    assert "mode.steps: must be an integer >= 2 and <= 10000, got" in done.err


@pytest.mark.parametrize(
    ("every", "start", "steps", "times"),
    [(None, 0, 100, 1), (10, 0, 100, 10), (30, 0, 100, 4), (30, 60, 100, 2), (30, 59, 100, 3), (200, 0, 100, 1)],
)
def test_times_that_something_is_due(every: int | None, start: int, steps: int, times: int) -> None:
    made = range(start + 1, steps + 1)
    assert times == sum(step == steps or (every is not None and step % every == 0) for step in made)
    assert planned(every, start, steps) == times


def test_memory_counts_frozen_weights_but_no_gradient_of_them() -> None:
    model = nn.Sequential(nn.Linear(10, 10, bias=False), nn.BatchNorm1d(10), nn.Linear(10, 1, bias=False))
    model[0].requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9)
    model(torch.randn(4, 10)).sum().backward()
    optimizer.step()
    held = memory(model, optimizer, torch.device("cpu"))
    assert held.gradients == held.optimizer == 4 * 30
    assert held.weights == 4 * (100 + 30 + 20) + 8  # running mean and variance, and a counter of 8 bytes
    assert held.peak > 10_000_000


def test_stopwatch_ends_after_its_steps_and_is_silent_before() -> None:
    watch = Stopwatch(5, watch_every=2)
    assert [watch() for _ in range(5)] == [None, None, None, None, "the end of the trial"]
    pace = watch.pace()
    assert 0 < pace.fast <= pace.typical <= pace.slow


def test_dry_run_says_what_its_trial_does_not_train_and_what_never_is(program: Program) -> None:
    done = program("mode=check", "mode.steps=5", *SMALL, "param_groups=unfreeze", "param_groups.unfreeze_every=10")
    assert done.code == 0, done.err
    assert words(done, "2 ") == ["2", "2", "330", "0.1", "0", "0", "2"]
    assert words(done, "0 ") == ["0", "2", "2,080", "0.0990393", "0", "10", "0"]
    assert "warning param_groups: 0 did not train yet in the trial; steps get slower" in done.out
    done = program("mode=check", "mode.steps=5", *SMALL, "param_groups=freeze")
    assert f"parameters: {PARAMETERS:,}, 330 of them trained" in done.out
    assert words(done, "frozen") == ["frozen", "2", "2,080", "-", "-", "0"]
    assert "did not train yet" not in done.out


def test_the_trial_clips_as_the_run_does(program: Program) -> None:
    declared = ["mode=check", "task.hidden=[8]", "optimizer=sgd", "optimizer.lr=300"]
    assert "loss of the trial rose" in program(*declared).out
    assert "loss of the trial rose" not in program(*declared, "clip=agc", "clip.share=1e-5").out
