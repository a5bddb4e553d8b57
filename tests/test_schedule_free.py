"""Optimizers that average the weights by themselves: what is evaluated, saved, loaded; training never notices."""

import contextlib
import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import schedulefree
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from runner.load import load_model
from runner.optim.apply import apply_schedules
from runner.records import Record, StepRecord
from runner.tasks.digits import Digits
from runner.train.checkpoint import Checkpoints
from runner.train.loop import fit
from runner.train.own_average import averaging, refresh_batch_norm
from runner.train.plan import TrainPlan
from runner.train.seeding import seed_everything
from runner.watch import Watch
from tests.conftest import Program, Refusal

DECLARED = ["optimizer=schedulefree_adamw", "task.hidden=[16]", "train.duration=24", "train.eval_every=6"]


class Network(nn.Sequential):
    """Has BatchNorm and dropout."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10))


class Frozen(Network):
    """Keeps its BatchNorm in evaluation mode."""

    def train(self, mode: bool = True) -> "Frozen":
        super().train(mode)
        self[1].eval()
        return self


class Normed(Digits):
    """Digits for a network with BatchNorm and dropout; counts the training batches that are read."""

    reads = 0

    def model(self) -> Network:
        return Network()

    def batch(self, step: int, split: str, part: tuple[int, int] = (0, 1)) -> tuple[Tensor, ...] | None:
        self.reads += split == "train"
        return super().batch(step, split, part)


def over(model: nn.Module, kind: Any = schedulefree.AdamWScheduleFree, **arguments: Any) -> Any:
    groups = [{"params": list(model.parameters()), "name": "all", "initial_lr": 0.01}]
    return kind(groups, lr=0.01, **arguments)


def train(task: Any, directory: Path, plan: TrainPlan) -> tuple[nn.Module, list[Record]]:
    seed_everything(0)
    model = task.model()
    records: list[Record] = []
    schedules = {("all", "lr"): lambda step: 1.0}
    watch, checkpoints = Watch({}, {}), Checkpoints(directory)
    optimizer = over(model)
    fit(task, model, optimizer, schedules, plan=plan, watch=watch, checkpoints=checkpoints, on_record=records.append)
    return model, records


def equal(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_training_is_bit_for_bit_the_same_however_often_it_is_evaluated(tmp_path: Path) -> None:
    """With BatchNorm, whose statistics an evaluation replaces, and dropout, which draws from the generators."""
    runs = [
        train(Normed(batch_size=64, seed=0), tmp_path / str(every), TrainPlan(steps=20, eval_every=every))
        for every in (None, 3)
    ]
    losses = [[r.loss for r in records if isinstance(r, StepRecord)] for _, records in runs]
    assert losses[0] == losses[1]
    assert equal(runs[0][0], runs[1][0])


def test_average_is_that_of_the_paper() -> None:
    """z <- z - lr g(y), x <- (1 - c) x + c z, y = (1 - b) z + b x, with equal weights c = 1 / t at a constant rate."""
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(model.weight, 1.0)
    optimizer = over(model, schedulefree.SGDScheduleFree, momentum=0.9)
    average = averaging(Digits(batch_size=64, seed=0), model, optimizer, TrainPlan(steps=1))
    assert average is not None
    x = z = y = 1.0
    for t in range(1, 6):
        model.weight.grad = 3.0 * model.weight.detach()
        optimizer.step()
        z -= 0.01 * 3.0 * y
        x += (z - x) / t
        y = 0.1 * z + 0.9 * x
        assert model.weight.item() == pytest.approx(y, rel=1e-12)
        with average.applied():
            assert model.weight.item() == pytest.approx(x, rel=1e-12)
        assert average.state_dict()["module.weight"].item() == pytest.approx(x, rel=1e-12)
        assert model.weight.item() == pytest.approx(y, rel=1e-12)


def rise(step: int) -> float:
    """Return the factor of warmup=linear with 8 steps."""
    return min(1.0, (step + 1) / 8)


def hold(step: int) -> float:
    return 1.0


def test_warmup_of_the_runner_is_that_of_the_package() -> None:
    """The weights of the average follow the largest learning rate so far, which the package reads from the group."""
    trained = []
    for own in (True, False):
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = over(model, warmup_steps=0 if own else 8)
        optimizer.train()
        for step in range(20):
            apply_schedules(optimizer, {("all", "lr"): rise if own else hold}, step)
            optimizer.zero_grad()
            model(torch.ones(4, 3)).square().mean().backward()
            optimizer.step()
        trained.append(model)
    for one, other in zip(trained[0].parameters(), trained[1].parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-8)


def test_statistics_of_batch_norm_are_refreshed_and_put_back() -> None:
    task = Normed(batch_size=64, seed=0)
    torch.manual_seed(0)
    model = task.model()
    for step in range(5):
        model(task.batch(step, "train")[0])  # type: ignore[index]
    reference, before = copy.deepcopy(model), copy.deepcopy(model)
    average = averaging(task, model, over(model), TrainPlan(steps=1, refresh_batches=7, accumulate=2))
    assert average is not None
    reference.eval()
    hidden = torch.cat([reference[0](batch[0]).mean(0, keepdim=True) for batch in parts(task, 7)])
    with average.applied():
        norm = model[1]
        assert isinstance(norm, _BatchNorm)
        assert norm.running_mean is not None
        assert torch.allclose(norm.running_mean, hidden.mean(0), atol=1e-5)
        assert norm.momentum == 0.1
    assert equal(model, before)
    assert all(module.training for module in model.modules())


def test_statistics_are_refreshed_once_for_an_evaluation_and_all_that_is_saved_with_it(tmp_path: Path) -> None:
    """A step is evaluated and saved as best and as last; the batches are read once for all three."""
    task = Normed(batch_size=64, seed=0)
    train(task, tmp_path, TrainPlan(steps=4, eval_every=2, checkpoint_every=2, refresh_batches=7))
    assert task.reads == 4 + 2 * 7


def test_statistics_follow_the_weights() -> None:
    task = Normed(batch_size=64, seed=0)
    torch.manual_seed(0)
    model = task.model()
    first_layer = model.get_parameter("0.bias")
    optimizer = over(model)
    average = averaging(task, model, optimizer, TrainPlan(steps=1, refresh_batches=3))
    assert average is not None

    def mean() -> Tensor:
        value: Tensor = average.state_dict()["module.1.running_mean"]
        return value

    first = mean()
    fresh = copy.deepcopy(optimizer.state_dict())
    with torch.no_grad():
        first_layer.add_(1.0)
    assert torch.equal(mean(), first)
    average.update()
    assert torch.allclose(mean(), first + 1.0, atol=1e-5)
    with torch.no_grad():
        first_layer.sub_(1.0)
    optimizer.load_state_dict(fresh)
    assert torch.allclose(mean(), first, atol=1e-5), "a rollback too"


def parts(task: Normed, batches: int) -> list[tuple[Tensor, ...]]:
    found = [task.batch(step, "train", (part, 2)) for step in range(batches) for part in range(2)]
    return [part for part in found if part is not None]


def test_frozen_or_absent_batch_norm_reads_no_batch() -> None:
    task = Normed(batch_size=64, seed=0)
    for model in (Frozen().train(), nn.Linear(64, 10)):
        before = copy.deepcopy(model)
        refresh_batch_norm(task, model, TrainPlan(steps=1))
        assert task.reads == 0
        assert equal(model, before)


def test_weights_come_back_when_an_evaluation_fails() -> None:
    model = nn.Linear(2, 2)
    optimizer = over(model)
    average = averaging(Digits(batch_size=64, seed=0), model, optimizer, TrainPlan(steps=1))
    assert average is not None
    for _ in range(3):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    before = copy.deepcopy(model)
    with contextlib.suppress(RuntimeError), average.applied():
        assert not equal(model, before)
        raise RuntimeError
    assert equal(model, before)
    optimizer.step()  # the package refuses to step outside of its training mode


@pytest.mark.parametrize("kind", ["pytorch_optimizer.ScheduleFreeAdamW", "heavyball.SFAdamW"])
def test_other_packages_are_known_by_what_they_can_do(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package, _, name = kind.partition(".")
    found = pytest.importorskip(package)
    if package == "heavyball":
        monkeypatch.setattr("heavyball.utils.compile_mode", None)
    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    optimizer = over(model, getattr(found, name))
    average = averaging(Digits(batch_size=64, seed=0), model, optimizer, TrainPlan(steps=1))
    assert average is not None
    for _ in range(4):
        model(torch.ones(1, 2)).square().sum().backward()
        optimizer.step()
    before = copy.deepcopy(model)
    with average.applied():
        assert not equal(model, before)
    assert equal(model, before)


def validated(model: nn.Module) -> float:
    task = Digits(batch_size=397, seed=0)
    batch = task.batch(0, "val")
    with torch.no_grad():
        return task.loss(model, batch, 397).total.item() / 397  # type: ignore[arg-type]


def test_averaged_weights_are_evaluated_saved_and_loaded_and_raw_ones_on_demand(program: Program) -> None:
    done = program(*DECLARED)
    assert done.code == 0, done.err
    best = torch.load(done.run / "checkpoints/best.pt", weights_only=True)["state"]["best"]["loss"]
    averaged, raw = (load_model(done.run, weights=which) for which in ("averaged", "raw"))
    assert validated(averaged) == pytest.approx(best, rel=1e-5)
    assert abs(validated(raw) - best) > 1e-3
    for which, model in (("averaged", averaged), ("raw", raw)):
        again = program("mode=eval", f"source={done.run}", f"mode.weights={which}")
        row = next(line.split() for line in again.out.splitlines() if line.startswith("loss"))
        assert float(row[1]) == pytest.approx(validated(model), rel=1e-5)
        assert row[2] == (row[1] if which == "averaged" else "-")


@pytest.mark.parametrize("name", ["adamw", "sgd", "radam"])
def test_interrupted_run_goes_on_bit_for_bit(program: Program, name: str) -> None:
    declared = [f"optimizer=schedulefree_{name}", *DECLARED[1:], "task.dropout=0.2"]
    whole = program(*declared)
    part = program(*declared, "train.max_seconds=1e-9")
    rest = program(f"resume.from={part.run}", "train.max_seconds=null")
    assert rest.code == 0, rest.err
    one, other = (torch.load(run.run / "checkpoints/last.pt", weights_only=True) for run in (whole, rest))
    assert one["state"]["step"] == other["state"]["step"] == 24
    for key in ("model", "average"):
        assert all(torch.equal(one[key][name], other[key][name]) for name in one[key])


def test_schedule_is_constant_after_a_warmup_unless_told_otherwise(program: Program) -> None:
    declared = ["mode=check", "train.duration=20", "mode.steps=2", "warmup.duration=4"]
    rates = program("optimizer=schedulefree_adamw", *declared).out
    assert {"0.000625", "0.0025"} < set(rates.split())
    assert "1.849e-05" not in rates.split()
    told = program("optimizer=schedulefree_adamw", "schedule=cosine", *declared).out
    assert not math.isclose(
        float(next(line for line in told.splitlines() if line.startswith("19 ")).split()[-1]), 0.0025
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.ema_decay=0.9",
            "train.ema_decay: must be null with schedulefree.AdamWScheduleFree, which averages the weights by itself, "
            "got 0.9. Set train.ema_decay=null, or another optimizer.",
        ),
        (
            "optimizer.betas=[0,0.9]",
            "optimizer.betas: must begin with a number > 0, the share of the average where gradients are taken, got "
            "[0, 0.9]. Set optimizer.betas=[0.9,0.999].",
        ),
        (
            "optimizer.betas=[0.9,1.5]",
            "optimizer.betas: must be a list, each item >= 0 and < 1, got [0.9, 1.5]. Set "
            "optimizer.betas=[0.9,0.999], usual for Adam.",
        ),
        ("optimizer.eps=-1", "optimizer.eps: must be a number >= 0, got -1. Set optimizer.eps=0."),
        (
            "train.refresh_batches=0",
            "train.refresh_batches: must be an integer >= 1, got 0. Leave train.refresh_batches out for its default.",
        ),
    ],
)
def test_what_cannot_be_averaged_is_refused(refuse: Callable[..., Refusal], override: str, message: str) -> None:
    refusal = refuse("optimizer=schedulefree_adamw", override)
    assert refusal.code == 2
    assert refusal.err.splitlines()[1:] == [f"  {message}"]
    assert refusal.left_behind == []
