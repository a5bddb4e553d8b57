"""task.init_from: weights of a run or a file, with an account of what fitted; a run that goes on keeps its own."""

import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from runner.errors import CheckpointError
from runner.train.initial import load_initial_weights, read_weights
from tests.conftest import Done, Program, train_here

NARROW = ["task.hidden=[32]", "train.duration=10"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A run with averaged weights, whose best checkpoint is not its last."""
    declared = [*NARROW, "train.ema_decay=0.5", "optimizer.lr=0.5", "warmup=none", "train.eval_every=1"]
    return train_here(*declared, directory=tmp_path_factory.mktemp("trained"))


def result(done: Done) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((done.run / "result.json").read_text())
    return found


def network(classes: int = 10) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, classes))


def test_run_begins_at_step_0_with_the_averaged_weights_of_the_best_checkpoint(trained: Done, program: Program) -> None:
    tiny = ["optimizer.lr=1e-6", "task.regime=fine_tune", "train.duration=2", "train.eval_every=1", "warmup=none"]
    done = program(f"task.init_from={trained.run}", "task.hidden=[32]", *tiny)
    assert done.code == 0, done.err
    assert f"initial weights from {trained.run}: 4 of 4 tensors\n" in done.out
    assert "task.regime" not in done.err
    records = [json.loads(line) for line in (done.run / "records.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if r["kind"] == "step"] == [0, 1]
    assert next(r for r in records if r["kind"] == "eval")["metrics"]["loss"] == pytest.approx(
        result(trained)["best"]["loss"], rel=1e-4
    )
    account = {"source": str(trained.run), "loaded": 4, "total": 4, "fresh": {}, "unexpected": []}
    assert result(done)["initial_weights"] == account


def test_head_of_another_size_stays_fresh_and_is_named(program: Program, tmp_path: Path) -> None:
    torch.save({**network(100).state_dict(), "extra": torch.zeros(2)}, tmp_path / "old.pt")
    done = program("task.init_from=old.pt", *NARROW)
    assert done.code == 0, done.err
    account = (
        "initial weights from old.pt: 2 of 4 tensors; fresh: 2.weight (10 x 32, the file has 100 x 32), "
        "2.bias (10, the file has 100); unexpected: extra"
    )
    assert account in done.out
    assert "warning task.regime: weights come from task.init_from" in done.err
    assert result(done)["initial_weights"]["fresh"]["2.bias"] == "10, the file has 100"


def test_run_that_goes_on_keeps_its_weights_even_when_the_file_is_gone(program: Program, tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "old.pt")
    declared = ["task.init_from=old.pt", "task.hidden=[32]", "train.duration=20", "train.max_seconds=1e-9"]
    part = program(*declared)
    account = result(part)["initial_weights"]
    (tmp_path / "old.pt").unlink()
    again = program(f"resume.from={part.run}")
    assert again.code == 0, again.err
    assert again.run == part.run, "the same run"
    assert "initial weights" not in again.out
    assert result(again)["initial_weights"] == account
    assert result(again)["steps"] == 2


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("missing.pt", "must be a run directory or a file of weights, got 'missing.pt'."),
        ("", "must be a run directory or a file of weights, got ''."),
        ("empty", "must be a run directory with checkpoints/best.pt or last.pt, got 'empty'."),
        ("empty.pt", "must be a state_dict saved by torch.save(model.state_dict(), path), got 'empty.pt'"),
        ("text.safetensors", "must be a readable file of safetensors, got 'text.safetensors'"),
        ("code.pt", "must be a state_dict saved by torch.save(model.state_dict(), path), got 'code.pt', which is not"),
        ("numbers.pt", "must hold a state_dict (name: tensor), got 'numbers.pt' with dict."),
    ],
)
def test_unreadable_weights_are_refused_with_all_other_problems(
    program: Program, tmp_path: Path, name: str, rule: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.safetensors").write_text("not weights")
    (tmp_path / "code.pt").write_bytes(pickle.dumps(Path("x")))
    torch.save({"epoch": 3}, tmp_path / "numbers.pt")
    if name.endswith("safetensors"):
        pytest.importorskip("safetensors")
    done = program(f"task.init_from={name}", "train.accumulate=99", "optimizer.lr=-1")
    assert done.code == 2
    keys = [line.strip().split(":")[0] for line in done.err.splitlines()[1:]]
    assert keys == ["optimizer.lr", "task.init_from", "train.accumulate"]
    assert f"  task.init_from: {rule}" in done.err
    assert not (tmp_path / "runs").exists()


def test_weights_of_which_nothing_fits_are_refused(program: Program, tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 4).state_dict(), tmp_path / "other.pt")
    done = program("task.init_from=other.pt", *NARROW)
    assert done.code == 2
    assert (
        "task.init_from: must fit the model, got 'other.pt' with weight (4 x 3), bias (4) for a model with "
        "0.weight (32 x 64), 0.bias (32), 2.weight (10 x 32) and 1 more. Give finite weights of a model like this one."
    ) in done.err
    assert not (tmp_path / "runs").exists()


def test_weights_that_are_not_finite_are_refused_by_name(program: Program, tmp_path: Path) -> None:
    weights = network().state_dict()
    weights["0.weight"][3, 5], weights["2.bias"][0] = float("nan"), float("inf")
    torch.save(weights, tmp_path / "broken.pt")
    done = program("task.init_from=broken.pt", *NARROW)
    assert done.code == 2
    assert done.err.splitlines()[1] == (
        "  task.init_from: must hold finite weights, got 'broken.pt' with nan or inf in 0.weight, 2.bias. "
        "Give finite weights of a model like this one."
    )
    assert not (tmp_path / "runs").exists()


def test_mask_of_infinities_and_a_head_that_does_not_fit_may_be_what_they_are(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.zeros(2))
    saved = {"weight": torch.ones(2, 2), "bias": torch.full((7,), float("nan")), "mask": torch.tensor([0.0, -math.inf])}
    torch.save(saved, tmp_path / "w.pt")
    assert load_initial_weights(str(tmp_path / "w.pt"), model).loaded == 2
    torch.save({**saved, "mask": torch.full((2,), float("nan"))}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="with nan or inf in mask"):
        load_initial_weights(str(tmp_path / "w.pt"), model)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "model._orig_mod.module."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_wrapped_and_prefixed_files_fit(tmp_path: Path, prefix: str, wrapper: str | None) -> None:
    saved = {f"{prefix}{name}": value for name, value in network().state_dict().items()}
    torch.save(saved if wrapper is None else {wrapper: saved, "epoch": 3}, tmp_path / "weights.pth")
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    account = load_initial_weights(str(tmp_path / "weights.pth"), model)
    assert (account.loaded, account.total, account.fresh, account.unexpected) == (4, 4, {}, ())
    assert torch.equal(model.state_dict()["2.weight"], network().state_dict()["2.weight"])


def test_prefix_that_belongs_to_the_name_stays(tmp_path: Path) -> None:
    model = nn.ModuleDict({"model": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    torch.save(model.state_dict(), tmp_path / "w.pt")
    assert load_initial_weights(str(tmp_path / "w.pt"), model).loaded == 4


def test_tied_weight_that_the_file_holds_once_counts_as_loaded(tmp_path: Path) -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)})
    model["head"].register_parameter("weight", model.get_parameter("embed.weight"))
    torch.save({"embed.weight": torch.ones(5, 3)}, tmp_path / "w.pt")
    account = load_initial_weights(str(tmp_path / "w.pt"), model)
    assert (account.loaded, account.fresh) == (2, {})
    assert model.get_parameter("head.weight").sum() == 15


def test_old_torch_files_and_safetensors_are_read(tmp_path: Path) -> None:
    weights = network().state_dict()
    torch.save(weights, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert read_weights(tmp_path / "old.pt").keys() == weights.keys()
    pytest.importorskip("safetensors")
    from safetensors.torch import save_file

    save_file(weights, tmp_path / "w.safetensors")
    assert torch.equal(read_weights(tmp_path / "w.safetensors")["0.bias"], weights["0.bias"])


def test_safetensors_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.safetensors").touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="that takes: pip install safetensors"):
        read_weights(tmp_path / "w.safetensors")


def test_long_lists_are_cut_with_a_count(tmp_path: Path) -> None:
    torch.save({f"layer{i}": torch.zeros(1) for i in range(9)} | network().state_dict(), tmp_path / "w.pt")
    assert str(load_initial_weights(str(tmp_path / "w.pt"), network())).endswith(
        "4 of 4 tensors; unexpected: layer0, layer1, layer2, layer3, layer4 and 4 more"
    )
