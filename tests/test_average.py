"""The average of the weights: what it is, when it is used, what it leaves alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from runner.load import load_model
from runner.records import EvalRecord, StepRecord
from runner.tasks.digits import Digits
from runner.train.average import WeightAverage
from runner.train.plan import TrainPlan
from tests.conftest import Program
from tests.test_loop import Steep, train


class Whole(nn.Module):
    """A module with every kind of buffer: float, integer, boolean."""

    def __init__(self) -> None:
        super().__init__()
        self.normal = nn.BatchNorm1d(3)
        self.register_buffer("positions", torch.arange(100))
        self.register_buffer("mask", torch.tensor([True, False]))


def test_average_follows_its_formula_from_the_first_update_on() -> None:
    model = nn.Linear(2, 1, dtype=torch.float64)
    average = WeightAverage(model, 0.9)
    expected, seen = torch.zeros(1, 2, dtype=torch.float64), []
    for step in range(5):
        with torch.no_grad():
            model.weight.fill_(step + 3.0)
        average.update()
        expected = model.weight.detach().clone() if step == 0 else 0.9 * expected + 0.1 * model.weight.detach()
        with average.applied():
            seen.append(model.weight.detach().clone())
        assert torch.allclose(seen[-1], expected, rtol=1e-12)
        assert (model.weight == step + 3.0).all(), "the trained weights are back"


def test_statistics_are_averaged_and_other_buffers_copied() -> None:
    model = Whole()
    average = WeightAverage(model, 0.99)
    torch.manual_seed(0)
    expected = torch.zeros(3)
    for step in range(20):
        model.normal(torch.randn(8, 3) + 1.0)
        average.update()
        mean = model.normal.running_mean
        assert mean is not None
        expected = mean.clone() if step == 0 else 0.99 * expected + 0.01 * mean
    with average.applied():
        mean = model.normal.running_mean
        assert mean is not None
        assert torch.allclose(mean, expected, atol=1e-6)
        assert model.normal.num_batches_tracked == 20
        assert torch.equal(model.get_buffer("positions"), torch.arange(100))
        assert model.get_buffer("mask").tolist() == [True, False]


def test_bits_and_checkpoints_are_those_of_torch() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.Linear(5, 3).to(torch.bfloat16))
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.97), use_buffers=True)  # type: ignore[no-untyped-call]
    ours = WeightAverage(model, 0.97)
    for step in range(20):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
            model[1].running_mean.add_(1.0)  # type: ignore[operator]
        theirs.update_parameters(model)
        ours.update()
        if step == 10:  # goes on from a checkpoint that torch's class has made
            ours = WeightAverage(model, 0.97)
            ours.restore({"average": theirs.state_dict(), "model": model.state_dict()})
        expected, found = theirs.state_dict(), ours.state_dict()
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_training_is_the_same_and_evaluation_is_that_of_the_average(tmp_path: Path) -> None:
    task = Digits(batch_size=64, seed=0)
    runs = [
        train(task, tmp_path / str(decay), TrainPlan(steps=30, eval_every=10, ema_decay=decay)) for decay in (None, 0.9)
    ]
    losses = [[r.loss for r in records if isinstance(r, StepRecord)] for _, _, records in runs]
    assert losses[0] == losses[1]
    evals = [[r.metrics["loss"] for r in records if isinstance(r, EvalRecord)] for _, _, records in runs]
    assert all(one != other for one, other in zip(*evals, strict=True))
    for one, other in zip(runs[0][1].parameters(), runs[1][1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_update_that_the_fp16_scaler_drops_leaves_the_average(tmp_path: Path) -> None:
    plan = TrainPlan(steps=30, precision="fp16", ema_decay=0.5)
    _, _, records = train(Steep(-1), tmp_path, plan, lr=1e-5)
    dropped = sum(r.skipped is True for r in records if isinstance(r, StepRecord))
    assert dropped >= 2
    saved = torch.load(tmp_path / "checkpoints/last.pt", weights_only=True)
    assert saved["average"]["n_averaged"] == 30 - dropped


def test_average_works_in_bf16_and_when_it_is_looked_at_less_often(tmp_path: Path) -> None:
    plan = TrainPlan(steps=100, precision="bf16", watch_every=7, ema_decay=0.9)
    state, model, _ = train(Digits(batch_size=64, seed=0), tmp_path, plan)
    assert state.last_eval["accuracy"] > 0.8
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def metrics(model: nn.Module) -> dict[str, Any]:
    task = Digits(batch_size=397, seed=0)
    batch: tuple[Tensor, ...] | None = task.batch(0, "val")
    assert batch is not None
    with torch.no_grad():
        return {"loss": task.loss(model, batch, 397).total.item() / 397}


def test_averaged_weights_are_saved_loaded_evaluated_and_raw_ones_on_demand(program: Program) -> None:
    done = program("train.ema_decay=0.95", "train.duration=40", "schedule=constant", "train.eval_every=10")
    assert done.code == 0, done.err
    saved = torch.load(done.run / "checkpoints/best.pt", weights_only=True)
    raw, averaged = (load_model(done.run, weights=which) for which in ("raw", "averaged"))
    assert torch.equal(raw.state_dict()["0.weight"], saved["model"]["0.weight"])
    assert torch.equal(averaged.state_dict()["0.weight"], saved["average"]["module.0.weight"])
    assert metrics(averaged)["loss"] == pytest.approx(saved["state"]["best"]["loss"], rel=1e-5)
    for which, model in (("averaged", averaged), ("raw", raw)):
        again = program("mode=eval", f"source={done.run}", f"mode.weights={which}")
        row = next(line.split() for line in again.out.splitlines() if line.startswith("loss"))
        assert float(row[1]) == pytest.approx(metrics(model)["loss"], rel=1e-5)
        assert row[2] == (row[1] if which == "averaged" else "-")
