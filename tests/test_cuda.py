"""What only a GPU shows. STEPSIZE_TEST_DEVICE=cpu runs it on the processor, with bf16 in place of fp16."""

import json
import os
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.build import build
from runner.job import checked
from runner.train.checkpoint import Checkpoints
from runner.train.loop import fit
from tests.conftest import Done, Program, call_command
from tests.pages import composed
from tests.test_resume import same, steps, weights

DEVICE = os.environ.get("STEPSIZE_TEST_DEVICE", "cuda")
ON_GPU = DEVICE == "cuda"
HALF = "fp16" if ON_GPU else "bf16"
pytestmark = pytest.mark.skipif(ON_GPU and not torch.cuda.is_available(), reason="needs a CUDA device")
if ON_GPU and torch.cuda.is_available():
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before the first product: read once a process

EXACT = [f"train.device={DEVICE}", "train.deterministic=true", "train.threads=1", "train.eval_every=20"]
TASKS = {
    "digits": ["task=digits", "task.dropout=0.2", "train.duration=60"],
    "char_lm": [
        *("task=char_lm", "task.dropout=0.1", "optimizer.lr=3e-3", "train.duration=60"),
        *("task.context=32", "task.width=32", "task.depth=2"),
    ],
}
TRAINED = ("model", "optimizer", "scaler", "generators")
SIGNALS = "[default,update_ratio,rms_spike,oscillation,logit_growth]"

PARTS = """
import os, pathlib, signal
from runner.tasks.char_lm import CharLM
from runner.tasks.digits import Digits

class Steep(Digits):
    def loss(self, apply, batch, weight):
        part = super().loss(apply, batch, weight)
        return part._replace(total=1e4 * part.total)

class Dying(CharLM):
    def batch(self, step, split, part=(0, 1)):
        if split == "train" and step == 47 and not pathlib.Path("has_died").exists():
            pathlib.Path("has_died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(step, split, part)
"""


def trained(program: Program, *overrides: str) -> Path:
    done: Done = program(*EXACT, *overrides)
    assert done.code == 0, done.err
    return done.run


def actions(run: Path) -> list[dict[str, Any]]:
    return [record for record in steps(run) if record["kind"] == "action"]


def losses(run: Path) -> list[float]:
    return [float(record["loss"]) for record in steps(run) if record["kind"] == "step"]


def assert_same_training(one: Path, other: Path) -> None:
    for key in TRAINED:
        assert same(weights(one)[key], weights(other)[key]), key
    assert losses(one) == losses(other)


def assert_usable(run: Path) -> None:
    """Weights are finite, and so is the scale of the fp16 loss, which is still one that gradients survive."""
    content = weights(run)
    assert all(bool(tensor.isfinite().all()) for tensor in content["model"].values())
    if HALF == "fp16":
        assert 1 <= content["scaler"]["scale"] < float("inf")


@pytest.mark.parametrize("precision", ["fp32", "bf16", HALF])
@pytest.mark.parametrize("task", TASKS)
def test_two_runs_are_bit_for_bit_the_same(program: Program, task: str, precision: str) -> None:
    declared = [*TASKS[task], f"train.precision={precision}"]
    assert_same_training(trained(program, *declared), trained(program, *declared))


@pytest.mark.parametrize(
    "declared",
    ["remedy=[stop]", "remedy=[rollback_ladder] snapshots.every=5 optimizer.lr=3"],
    ids=["plain", "rolled back"],
)
def test_a_killed_run_goes_on_bit_for_bit(program: Program, tmp_path: Path, declared: str) -> None:
    """Killed at step 47 of 60, with a checkpoint of step 40."""
    (tmp_path / "parts.py").write_text(PARTS)
    words = [*EXACT, *TASKS["char_lm"], f"train.precision={HALF}", "train.checkpoint_every=20", *declared.split()]
    words.append("task._target_=parts.Dying")
    killed = call_command(*words, directory=tmp_path)
    assert killed.code == -signal.SIGKILL, killed.err
    run = next(tmp_path.glob("runs/char_lm/*"))
    assert weights(run)["state"]["step"] == 40
    rest = program(f"resume.from={run}")
    assert rest.code == 0, rest.err
    whole = trained(program, *words)
    for key in (*TRAINED, "state", "detectors", "snapshots", "actions"):
        assert same(weights(whole)[key], weights(run)[key]), key
    assert steps(whole) == steps(run)
    assert bool(actions(whole)) == ("rollback" in declared)


@pytest.mark.parametrize("watch_every", [1, 10])
@pytest.mark.parametrize("task", TASKS)
def test_a_healthy_run_is_bit_for_bit_the_one_without_a_ladder(program: Program, task: str, watch_every: int) -> None:
    declared = [*TASKS[task], f"train.precision={HALF}", f"train.watch_every={watch_every}"]
    without = trained(program, *declared)
    with_ladder = trained(program, *declared, "remedy=[rollback_ladder]", "snapshots.every=5")
    assert not actions(with_ladder)
    assert_same_training(without, with_ladder)


@pytest.mark.parametrize("on_disk", [False, True], ids=["in memory", "on disk"])
@pytest.mark.parametrize(
    ("task", "declared"),
    [
        ("digits", "optimizer.lr=10 train.duration=200"),
        ("char_lm", "optimizer.lr=1 train.duration=200"),
        ("char_lm", "optimizer=sgd optimizer.lr=10"),
    ],
    ids=["digits, sgd", "char_lm, adamw", "char_lm, sgd"],
)
def test_a_run_that_blows_up_in_half_precision_is_rolled_back_and_ends_finite(
    program: Program, task: str, declared: str, on_disk: bool
) -> None:
    ladder = ["remedy=[rollback_ladder]", "snapshots.every=10", f"snapshots.on_disk={on_disk}"]
    run = trained(program, *TASKS[task], *declared.split(), f"train.precision={HALF}", *ladder)
    assert "Rollback" in [action["type"] for action in actions(run)]
    assert json.loads((run / "result.json").read_text())["status"] == "finished"
    assert_usable(run)
    made = losses(run)
    assert made[-1] < 1.1 * made[0]


@pytest.mark.skipif(not ON_GPU, reason="fp16 is trained on a GPU only")
def test_gradients_that_overflow_are_skipped_and_halve_the_scale(program: Program, tmp_path: Path) -> None:
    """A scale of 65536 at first is too much for gradients as large as these; it grows after 2000 good steps only."""
    (tmp_path / "parts.py").write_text(PARTS)
    words = ["task=digits", "train.duration=40", "optimizer.lr=1e-6", "task._target_=parts.Steep"]
    run = trained(program, *words, "train.precision=fp16", "remedy=[rollback_ladder]")
    made = [record for record in steps(run) if record["kind"] == "step"]
    skipped = [record["step"] for record in made if record.get("skipped")]
    assert skipped[:1] == [0]
    assert len(skipped) < 20
    assert weights(run)["scaler"]["scale"] == 65536 * 0.5 ** len(skipped)
    assert weights(run)["state"]["updates_kept"] == 40 - len(skipped)
    assert_usable(run)


@pytest.mark.parametrize("task", TASKS)
def test_a_probe_that_the_running_rate_wins_changes_no_bit(program: Program, task: str) -> None:
    declared = [*TASKS[task], f"train.precision={HALF}", "train.duration=120"]
    without = trained(program, *declared)
    with_probe = trained(program, *declared, "remedy=[probe,rollback_ladder]", "remedies.probe.faster=1")
    [action] = actions(with_probe)
    assert action["type"] == "Probe"
    assert action["message"].endswith("the learning rate stays")
    assert_same_training(without, with_probe)


def test_a_probe_lowers_a_rate_that_is_far_too_high(program: Program) -> None:
    """Ten times the rate, as the branches have it, leaves no number; of 0.1 one in three probes is not sure."""
    declared = [*TASKS["char_lm"], f"train.precision={HALF}", "train.duration=120", "optimizer.lr=0.3"]
    run = trained(program, *declared, "remedy=[heal]")
    probe = actions(run)[0]
    assert probe["type"] == "Probe"
    assert probe["arguments"].get("factor", 1) < 1, probe["message"]
    assert_usable(run)
    assert losses(run)[-1] < 3.0


@pytest.mark.parametrize("task", TASKS)
def test_sharpness_is_that_of_the_processor(program: Program, task: str) -> None:
    """In the format of the weights, whatever that of the forward pass; attention is differentiated twice."""
    declared = [*TASKS[task], "task.dropout=0", "train.duration=1", "monitor.sharpness.every=1", "optimizer=sgd"]
    found = []
    for device, precision in ((DEVICE, "fp32"), (DEVICE, HALF), ("cpu", "fp32")):
        run = trained(program, *declared, f"train.device={device}", f"train.precision={precision}")
        found.append(steps(run)[0]["signals"]["sharpness"])
    assert found[0] == pytest.approx(found[2], rel=1e-2)
    assert found[1] == pytest.approx(found[2], rel=1e-2)


@pytest.mark.parametrize("task", TASKS)
def test_a_run_with_meters_is_bit_for_bit_the_one_without(program: Program, task: str) -> None:
    declared = [*TASKS[task], f"train.precision={HALF}"]
    declared += ["optimizer.betas=[0.9,0.95]"] if task == "char_lm" else []  # the RMS takes 1 / (1 - beta2) steps
    meters = [f"detector={SIGNALS}", "monitor.signals_every=10", "monitor.sharpness.every=20"]
    without, measured = trained(program, *declared), trained(program, *declared, *meters)
    assert_same_training(without, measured)
    signals = {name for record in steps(measured) for name in record.get("signals") or ()}
    wanted = {"update_ratio/max", "grad_cosine", "sharpness", "stability/edge"}
    wanted |= {"rms/max", "attention_logit/max"} if task == "char_lm" else set()
    assert wanted <= signals


@pytest.mark.skipif(not ON_GPU, reason="only a GPU makes the host wait")
@pytest.mark.parametrize(
    "declared",
    [
        "",
        "train.precision=fp16",
        "train.accumulate=2 train.clip_norm=1",
        "clip=percentile",
        "train.precision=fp16 remedy=[rollback_ladder] snapshots.every=20",
        "optimizer=sgd train.ema_decay=0.99",
    ],
)
def test_the_host_waits_for_the_device_only_where_it_looks(tmp_path: Path, declared: str) -> None:
    words = ["task=char_lm", "train.duration=70", "train.eval_every=null", "train.checkpoint_every=null"]
    page = composed(*words, f"train.device={DEVICE}", "train.watch_every=10", *declared.split())
    experiment = build(checked(page))
    waits: list[list[str]] = [[]]

    def told(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        if "synchronizing" in str(message):
            waits[-1].append(f"{filename}:{lineno}")

    def count() -> None:  # asked after every update but the last
        waits.append([])

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = told
        torch.cuda.set_sync_debug_mode("warn")
        try:
            fit(
                **experiment.parts(),
                checkpoints=Checkpoints(tmp_path),
                on_record=lambda record: None,
                interrupted=count,
            )
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert [step for step in waits if step], "the mode tells of waits"
    assert {step + 1: places for step, places in enumerate(waits) if places and step > 20 and (step + 1) % 10} == {}
