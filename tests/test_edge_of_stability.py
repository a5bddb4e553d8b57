"""Runs of thousands of steps that settle where their optimizer stops being stable, measured by the meter."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from runner.tasks.digits import Digits
from runner.tasks.protocol import LossSum
from runner.tasks.quadratic import Quadratic
from runner.train.meters import Moment
from runner.train.plan import TrainPlan
from runner.train.sharpness import SHARPNESS, Sharpness
from tests.test_sharpness import edges, median, run

pytestmark = pytest.mark.slow


class Regression(Digits):
    """500 digits in one batch, squared error to one-hot targets, 3,466 parameters."""

    def __init__(self) -> None:
        super().__init__(batch_size=500, seed=0)

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10))

    def batch(self, step: int, split: str, part: tuple[int, int] = (0, 1)) -> tuple[Tensor, ...] | None:
        return super().batch(0 if split == "train" else step, split, part)

    def loss(self, apply: Callable[..., Any], batch: tuple[Tensor, ...], weight: float) -> LossSum:
        inputs, targets = batch
        outputs = apply(inputs)
        wanted = nn.functional.one_hot(targets, 10).float()
        return LossSum(0.5 * (outputs - wanted).square().sum(), len(targets), outputs)


@pytest.mark.parametrize(
    ("make", "lr", "options", "low", "high"),
    [
        (torch.optim.SGD, 0.05, {}, 0.0, 0.3),  # stable throughout, never at the edge
        (torch.optim.SGD, 0.3, {}, 1.9 / 2, 2.1 / 2),
        (torch.optim.SGD, 0.4, {"momentum": 0.9}, 3.6 / 3.8, 3.9 / 3.8),
        (torch.optim.Adam, 3e-4, {"betas": (0.9, 0.99), "eps": 1e-7}, 35 / 38, 39.5 / 38),
        (torch.optim.Adam, 1e-3, {"betas": (0.9, 0.99), "eps": 1e-7}, 35 / 38, 39.5 / 38),
        (torch.optim.Adam, 3e-3, {"betas": (0.9, 0.99), "eps": 1e-7}, 35 / 38, 39.5 / 38),
    ],
)
def test_training_settles_at_the_bound_of_its_optimizer(
    tmp_path: Path, make: Callable[..., Optimizer], lr: float, options: dict[str, Any], low: float, high: float
) -> None:
    meter = Sharpness(every=50, batch_size=500, examples=500)
    records, _ = run(Regression(), make, tmp_path, lr=lr, steps=3000, meter=meter, **options)
    found = median(edges(records)[30:])
    assert low < found < high
    assert records[-1].loss < records[0].loss / 3


@pytest.mark.parametrize("lr", [1e-2, 1e-1])
def test_adam_hovers_at_the_edge_of_a_bowl(tmp_path: Path, lr: float) -> None:
    meter = Sharpness(every=25, batch_size=1)
    task = Quadratic(curvatures=[1.0, 10.0, 100.0])
    records, _ = run(task, torch.optim.Adam, tmp_path, lr=lr, steps=8000, meter=meter, betas=(0.9, 0.99))
    assert median(edges(records)[160:]) == pytest.approx(1.0, abs=0.1)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # by torch.func itself
def test_twenty_products_find_the_top_eigenvalue_of_the_whole_hessian(tmp_path: Path) -> None:
    task = Regression()
    _, model = run(task, torch.optim.SGD, tmp_path, lr=0.2, steps=1000)
    names, inputs = [name for name, _ in model.named_parameters()], task.batch(0, "train")
    assert inputs is not None
    shapes = [parameter.shape for parameter in model.parameters()]
    point = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    def loss(vector: Tensor) -> Tensor:
        parts = torch.split(vector, [shape.numel() for shape in shapes])
        named = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return task.loss(lambda x: torch.func.functional_call(model, named, (x,)), inputs, 500).total / 500

    hessian = torch.func.hessian(loss)(point)
    true = float(torch.linalg.eigvalsh(hessian.double())[-1])
    optimizer = torch.optim.SGD([{"params": list(model.parameters()), "name": "all", "initial_lr": 0.2}], lr=0.2)
    at = Moment(task, model, optimizer, TrainPlan(steps=1))
    cold = Sharpness(every=1, batch_size=500, examples=500)
    assert cold.measure(at)[SHARPNESS] == pytest.approx(true, rel=1e-5)
    assert cold.measure(at)[SHARPNESS] == pytest.approx(true, rel=1e-4)  # three products from where it was
    subsample = Sharpness(every=1, batch_size=500, examples=128).measure(at)[SHARPNESS]
    assert subsample == pytest.approx(true, rel=0.15)
