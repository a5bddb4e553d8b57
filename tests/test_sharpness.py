"""The sharpness meter against Hessians and optimizers, and that a run does not notice it."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from runner.detectors.edge import Edge
from runner.errors import TaskError
from runner.optim.preconditioner import scaling, trained
from runner.records import Alarm, Record, StepRecord
from runner.stability import EDGE
from runner.tasks.digits import Digits
from runner.tasks.protocol import LossSum
from runner.tasks.quadratic import Quadratic
from runner.tasks.scores import LossOnly
from runner.tracking.mapping import Counters, points
from runner.train.checkpoint import Checkpoints
from runner.train.lanczos import lanczos
from runner.train.loop import fit
from runner.train.meters import Moment
from runner.train.plan import TrainPlan
from runner.train.seeding import generator_states, seed_everything
from runner.train.sharpness import SHARPNESS, Sharpness
from runner.watch import Watch
from tests.conftest import Program
from tests.test_stability_limits import ADAPTIVE, age

Lambda = Callable[[int], float]


def sharpness(**options: Any) -> Sharpness:
    return Sharpness(**{"every": 1, "batch_size": 64, **options})


def run(
    task: Any,
    make: Callable[..., Optimizer],
    directory: Path,
    *,
    lr: float,
    steps: int,
    meter: Sharpness | None = None,
    factor: Lambda = lambda step: 1.0,
    plan: Mapping[str, Any] | None = None,
    source: Path | None = None,
    **options: Any,
) -> tuple[list[StepRecord], nn.Module]:
    """Train with one group; return the records and the model."""
    seed_everything(0)
    model = task.model()
    optimizer = make([{"params": list(model.parameters()), "name": "all", "initial_lr": lr}], lr=lr, **options)
    records: list[Record] = []
    fit(
        task,
        model,
        optimizer,
        {("all", "lr"): factor},
        plan=TrainPlan(steps=steps, **(plan or {})),
        watch=Watch({}, {}),
        checkpoints=Checkpoints(directory, source=source),
        on_record=records.append,
        meters=[meter] if meter is not None else [],
    )
    return [record for record in records if isinstance(record, StepRecord)], model


def edges(records: Sequence[StepRecord]) -> list[float]:
    return [record.signals[EDGE] for record in records if record.signals is not None]


def median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


class Halves(nn.Module):
    def __init__(self, start: Tensor) -> None:
        super().__init__()
        one, other = start.tensor_split(2)
        self.one, self.other = nn.Parameter(one.clone()), nn.Parameter(other.clone())

    def forward(self) -> Tensor:
        return torch.cat([self.one, self.other])


class Matrix:
    """f(w) = w H w / 2 for any symmetric H, the columns split over two parameters."""

    examples: Mapping[str, int] = {}
    goals: Mapping[str, Literal["min", "max"]] = {"loss": "min"}
    remarks: Sequence[str] = ()
    prior_entropy, digest = None, ""

    def __init__(self, matrix: Tensor, *, start: Tensor) -> None:
        self.matrix, self.start = matrix, start

    def model(self) -> nn.Module:
        return Halves(self.start)

    def batch(self, step: int, split: str, part: tuple[int, int] = (0, 1)) -> Tensor | None:
        return self.matrix if part[0] == 0 else None

    def weight(self, batch: Tensor) -> float:
        return 1.0

    def loss(self, apply: Callable[..., Any], batch: Tensor, weight: float) -> LossSum:
        point = apply()
        return LossSum(0.5 * point @ batch @ point, 1, point)

    def scores(self) -> LossOnly:
        return LossOnly()


def moment(task: Any, make: Callable[..., Optimizer], **options: Any) -> Moment:
    seed_everything(0)
    model = task.model()
    group = {"params": list(model.parameters()), "name": "all", "initial_lr": options.get("lr", 0.1)}
    return Moment(task, model, make([group], **options), TrainPlan(steps=1))


# --- the eigenvalue


def test_lanczos_finds_the_top_of_three_eigenvalues_in_three_products() -> None:
    values = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    found = lanczos(lambda vector: values * vector, torch.ones(3, dtype=torch.float64), iterations=3)
    assert found.value == pytest.approx(100, abs=1e-6)
    assert found.vector.abs().tolist() == pytest.approx([0, 0, 1], abs=1e-6)


@pytest.mark.parametrize(("values", "top"), [([-200.0, 100.0], 100.0), ([-200.0, -3.0], -3.0), ([0.0, 0.0], 0.0)])
def test_largest_eigenvalue_is_the_largest_and_not_that_of_the_largest_size(values: list[float], top: float) -> None:
    diagonal = torch.tensor(values, dtype=torch.float64)
    found = lanczos(lambda vector: diagonal * vector, torch.ones(2, dtype=torch.float64), iterations=5)
    assert found.value == pytest.approx(top, abs=1e-9)


def test_estimate_is_never_above_the_true_value_and_grows_with_the_products() -> None:
    seed_everything(0)
    matrix = torch.randn(60, 60, dtype=torch.float64)
    matrix = matrix + matrix.T
    true, start = float(torch.linalg.eigvalsh(matrix)[-1]), torch.randn(60, dtype=torch.float64)
    found = [lanczos(lambda v: matrix @ v, start, iterations=n).value for n in (1, 2, 4, 8, 16, 60)]
    assert found == sorted(found)
    assert found[-2] < true
    assert found[-1] == pytest.approx(true, rel=1e-12)


def hessian_of(model: nn.Module, loss: Callable[[], Tensor]) -> Tensor:
    parameters = list(model.parameters())
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss(), parameters, create_graph=True)])
    eye = torch.eye(gradient.numel())
    rows = torch.autograd.grad(gradient, parameters, eye, is_grads_batched=True)
    return torch.cat([row.flatten(1) for row in rows], dim=1)


class BatchNormed(Digits):
    """Digits with dropout and BatchNorm."""

    def model(self) -> nn.Module:
        layers = [nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 10)]
        return nn.Sequential(*layers)


@pytest.mark.parametrize("kind", [Digits, BatchNormed])
def test_sharpness_of_a_network_is_the_top_eigenvalue_of_its_hessian(kind: type[Digits]) -> None:
    task = kind(batch_size=100, seed=0, hidden=(8,))
    at = moment(task, torch.optim.SGD, lr=0.1, weight_decay=0.01)
    batch = task.batch(0, "train")
    assert batch is not None
    for module in at.model.modules():
        module.training = not isinstance(module, nn.Dropout)
    full = hessian_of(at.model, lambda: task.loss(at.model, batch, 100).total / 100)
    at.model.train()
    found = sharpness(batch_size=100, examples=100, iterations=60).measure(at)
    top = float(torch.linalg.eigvalsh(full.double())[-1]) + 0.01
    assert found[SHARPNESS] == pytest.approx(top, rel=1e-5)
    assert found[EDGE] == pytest.approx(0.1 * top / 2, rel=1e-5)


def test_examples_are_the_first_of_the_run_whatever_the_batch_size() -> None:
    found = []
    for batch_size, accumulate in ((1400, 1), (100, 1), (50, 2), (7, 1)):
        at = moment(Digits(batch_size=batch_size, seed=0), torch.optim.SGD, lr=0.1)
        at.plan = TrainPlan(steps=1, accumulate=accumulate)
        meter = sharpness(batch_size=batch_size, examples=100, iterations=20)
        found.append(meter.measure(at)[SHARPNESS])
        assert 100 <= sum(weight for _, weight in meter._batches) <= 107
    assert found == pytest.approx([found[0]] * 4, rel=0.05)


class Attending(Digits):
    """Digits as eight tokens of eight pixels."""

    def model(self) -> nn.Module:
        layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8, dropout=0.1, batch_first=True)
        return nn.Sequential(nn.Unflatten(1, (8, 8)), layer, nn.Flatten(), nn.Linear(64, 10))


def test_attention_is_measured_too() -> None:
    at = moment(Attending(batch_size=64, seed=0), torch.optim.SGD, lr=0.1)
    assert sharpness().measure(at)[SHARPNESS] > 0


def test_model_whose_gradient_has_no_derivative_is_refused_by_name() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * 2

    class Opaque(Digits):
        def loss(self, apply: Callable[..., Any], batch: Any, weight: float) -> LossSum:
            return super().loss(lambda x: Once.apply(apply(x)), batch, weight)  # type: ignore[no-untyped-call]

    at = moment(Opaque(batch_size=64, seed=0), torch.optim.SGD, lr=0.1)
    with pytest.raises(
        TaskError, match=r"sharpness\.every: must be null for this model, whose gradient has no derivative"
    ):
        sharpness().measure(at)


# --- the bound of an optimizer


@pytest.mark.parametrize(("make", "bound", "options"), [c[1:4] for c in ADAPTIVE], ids=[c[0] for c in ADAPTIVE])
def test_ratio_is_1_at_the_bound_of_every_optimizer(
    make: Callable[..., Optimizer], bound: float, options: dict[str, Any]
) -> None:
    task = Quadratic(curvatures=[1.0, 10.0, 100.0], start=[1e-30] * 3)
    at = moment(task, make, lr=0.99 * bound, eps=1.0, **options)
    age(at.optimizer, at.model)
    assert sharpness().measure(at)[EDGE] == pytest.approx(0.99, rel=1e-3)


PRECONDITIONED: list[tuple[Any, dict[str, Any]]] = [
    (torch.optim.SGD, {"momentum": 0.0}),
    (torch.optim.Adam, {"betas": (0.0, 0.9)}),
    (torch.optim.Adam, {"betas": (0.0, 0.9), "amsgrad": True, "weight_decay": 0.1}),
    (torch.optim.AdamW, {"betas": (0.0, 0.9)}),
    (torch.optim.NAdam, {"betas": (0.0, 0.9)}),
    (torch.optim.RAdam, {"betas": (0.0, 0.9)}),
    (torch.optim.Adamax, {"betas": (0.0, 0.9)}),
    (torch.optim.RMSprop, {"alpha": 0.9}),
    (torch.optim.RMSprop, {"alpha": 0.9, "centered": True}),
    (torch.optim.Adagrad, {"lr_decay": 0.1}),
]


@pytest.mark.parametrize(("make", "options"), PRECONDITIONED, ids=lambda value: getattr(value, "__name__", None))
@pytest.mark.parametrize("steps", [0, 1, 7, 30])
def test_preconditioner_is_that_of_the_next_update(make: Any, options: dict[str, Any], steps: int) -> None:
    """Without momentum an update is lr / P times the gradient, coupled decay in it; D is half of that factor."""
    generator = torch.Generator().manual_seed(1)
    weights = nn.Parameter(torch.randn(5, dtype=torch.float64, generator=generator))
    optimizer = make([weights], lr=0.03, **options, **({"weight_decay": 0.0} if make is torch.optim.AdamW else {}))
    for _ in range(steps):
        weights.grad = torch.randn(5, dtype=torch.float64, generator=generator)
        optimizer.step()
    gradient = torch.randn(5, dtype=torch.float64, generator=generator)
    place = scaling(optimizer, [gradient])
    before, pulled = weights.detach().clone(), gradient + options.get("weight_decay", 0.0) * weights.detach()
    weights.grad = gradient
    optimizer.step()
    moved = before - weights.detach()
    assert torch.allclose(moved, 2 * place.scales[0] * pulled, rtol=1e-9, atol=0)


def test_groups_with_their_own_rate_momentum_and_decay_are_stable_exactly_below_1(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator))[0]
    values = torch.tensor([5.0, 10.0, 20.0, 40.0, 70.0, 100.0], dtype=torch.float64)
    task = Matrix(turn @ torch.diag(values) @ turn.T, start=torch.ones(6, dtype=torch.float64))

    def optimizer_of(model: nn.Module, lr: float) -> Optimizer:
        one, other = list(model.parameters())
        return torch.optim.SGD(
            [
                {"params": [one], "name": "one", "initial_lr": lr, "lr": lr, "momentum": 0.9, "weight_decay": 0.3},
                {"params": [other], "name": "other", "initial_lr": 3 * lr, "lr": 3 * lr, "momentum": 0.2},
            ]
        )

    model = task.model()
    at = Moment(task, model, optimizer_of(model, 1.0), TrainPlan(steps=1))
    edge = sharpness().measure(at)[EDGE]
    sizes = []
    for times in (0.99, 1.01):
        model, lr = task.model(), times / edge
        schedules = {(name, "lr"): lambda step: 1.0 for name in ("one", "other")}
        fit(
            task,
            model,
            optimizer_of(model, lr),
            schedules,
            plan=TrainPlan(steps=800),
            watch=Watch({}, {}),
            checkpoints=Checkpoints(tmp_path),
            on_record=lambda record: None,
        )
        sizes.append(max(float(part.detach().abs().max()) for part in model.parameters()))
    assert sizes[0] < 1e-3
    assert sizes[1] > 1e3


@pytest.mark.parametrize(
    ("make", "options"),
    [case for case in PRECONDITIONED if case[0] is not torch.optim.SGD and "weight_decay" not in case[1]],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_first_update_lowers_the_loss_below_the_bracket_and_raises_it_above(
    tmp_path: Path, make: Any, options: dict[str, Any]
) -> None:
    task = Quadratic(curvatures=[1.0, 3.0, 40.0], start=[1.0, -2.0, 0.5])
    options = {**options, "weight_decay": 0.0}
    at = moment(task, make, lr=0.01, **options)
    meter = sharpness()
    bracket = 0.01 / meter.measure(at)[EDGE]
    if make is torch.optim.RAdam:
        assert bracket == pytest.approx(2 / 40)  # its first updates are those of descent
        return
    assert meter.is_first
    for times, rises in ((0.98, False), (1.02, True)):
        records, _ = run(task, make, tmp_path, lr=times * bracket, steps=2, **options)
        assert (records[1].loss > records[0].loss) is rises


@pytest.mark.parametrize(
    ("warmup", "share", "low", "high"),
    [(0, 0.1, 2.5, 3.1), (0, 0.5, 1e4, 4e4), (50, 0.5, 1.0, 1.06), (50, 0.99, 1.0, 1.06)],
)
def test_adam_needs_a_warmup_even_below_its_bound(
    tmp_path: Path, warmup: int, share: float, low: float, high: float
) -> None:
    """Bias correction makes the first updates up to 19 times larger than the bound for later ones assumes."""
    task = Quadratic(curvatures=[1.0, 10.0, 100.0], start=[1e-30] * 3)  # far below eps, so that the update is linear
    records, _ = run(
        task,
        torch.optim.Adam,
        tmp_path,
        lr=share * 0.38,
        steps=200,
        factor=lambda step: min(1.0, (step + 1) / warmup) if warmup else 1.0,
        eps=1.0,
        meter=sharpness(every=1000),
    )
    assert low < max(math.sqrt(record.loss / 50) for record in records) / 1e-30 < high
    first = share * 0.38 / max(warmup, 1)  # the bound of the first update is 2 / 99.1, 38 / 100 is that of later ones
    assert edges(records) == pytest.approx([first * 99.1 / 2], rel=1e-3)


# --- what the ratio does and does not say


def test_clipping_hides_a_divergence_that_the_ratio_shows(tmp_path: Path) -> None:
    task, lr = Quadratic(curvatures=[100.0]), 2.0 * 2 / 100
    records, _ = run(
        task, torch.optim.SGD, tmp_path, lr=lr, steps=500, plan={"clip_norm": 1.0}, meter=sharpness(every=25)
    )
    assert sum(bool(record.clipped) for record in records) / len(records) > 0.97
    assert all(math.sqrt(record.loss / 50) <= lr * 1.01 for record in records[100:])  # neither converges nor diverges
    assert edges(records) == pytest.approx([2.0] * 20)


class Drawn(Quadratic):
    """Batches of one example, with curvature 1 or 19."""

    def batch(self, step: int, split: str, part: tuple[int, int] = (0, 1)) -> Tensor | None:
        generator = torch.Generator().manual_seed(step)
        return torch.randint(0, 2, (1,), generator=generator).double() * 18 + 1


def test_batches_of_one_are_unstable_far_below_the_bound_of_their_mean(tmp_path: Path) -> None:
    """Almost surely stable iff lr < 0.1118943; the mean curvature is 10, with the bound 0.2."""
    task = Drawn(curvatures=[1.0])
    sizes = {lr: math.sqrt(run(task, torch.optim.SGD, tmp_path, lr=lr, steps=1500)[0][-1].loss) for lr in (0.1, 0.125)}
    assert sizes[0.1] < 1e-6
    assert sizes[0.125] > 1e6


# --- a run does not notice


def test_run_with_the_meter_is_bit_for_bit_the_run_without(tmp_path: Path) -> None:
    task = BatchNormed(batch_size=64, seed=0)
    options: dict[str, Any] = {"lr": 0.01, "steps": 30, "plan": {"clip_norm": 0.5}}
    (plain, without), (measured, with_it) = (
        run(task, torch.optim.Adam, tmp_path, meter=meter, **options) for meter in (None, sharpness(every=3))
    )
    assert [(r.loss, r.grad_norm) for r in plain] == [(r.loss, r.grad_norm) for r in measured]
    assert all(map(torch.equal, without.state_dict().values(), with_it.state_dict().values()))
    assert len(edges(measured)) == 10


def test_measurement_leaves_gradients_modes_and_generators_alone() -> None:
    at = moment(BatchNormed(batch_size=64, seed=0), torch.optim.Adam, lr=0.01)
    at.model[3].eval()  # type: ignore[index]
    for parameter in at.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    gradients = [parameter.grad.clone() for parameter in at.model.parameters() if parameter.grad is not None]
    modes, states = [module.training for module in at.model.modules()], generator_states()
    sharpness().measure(at)
    assert all(
        torch.equal(p.grad, g) for p, g in zip(at.model.parameters(), gradients, strict=True) if p.grad is not None
    )
    assert [module.training for module in at.model.modules()] == modes
    after = generator_states()
    pairs = zip(tree_leaves(after), tree_leaves(states), strict=True)
    assert all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_run_that_goes_on_measures_the_same_numbers(tmp_path: Path, make: Callable[..., Optimizer]) -> None:
    task = Digits(batch_size=64, seed=0, hidden=(16,))
    whole, _ = run(task, make, tmp_path / "whole", lr=0.05, steps=24, meter=sharpness(every=4))
    run(task, make, tmp_path / "half", lr=0.05, steps=10, meter=sharpness(every=4))
    source = tmp_path / "half/checkpoints/last.pt"
    rest, _ = run(task, make, tmp_path / "rest", lr=0.05, steps=24, meter=sharpness(every=4), source=source)
    assert [r.signals for r in rest] == [r.signals for r in whole[10:]]
    assert len(edges(rest)) == 3


def test_group_that_does_not_move_is_left_out_and_a_loss_that_is_not_finite_measures_nothing() -> None:
    task = Quadratic(curvatures=[1.0, 100.0])
    at = moment(task, torch.optim.SGD, lr=0.0)
    assert trained(at.optimizer) == []
    assert sharpness().measure(at) == {}
    at = moment(Quadratic(curvatures=[1.0, 100.0], start=[math.inf, 1.0]), torch.optim.SGD, lr=0.1)
    assert sharpness().measure(at) == {}


# --- the detector


def seen(values: Sequence[float], *, every: int, **options: Any) -> list[Alarm]:
    detector, alarms = Edge(**options), []
    state = detector.init()
    for index in range(every * len(values)):
        value = values[index // every] if index % every == 0 else None
        signals = {EDGE: value} if value is not None else None
        state, alarm = detector.update(state, StepRecord(index, 0, 1.0, 0.1, 1.0, 64, signals=signals))
        alarms += [alarm] if alarm is not None else []
    return alarms


@pytest.mark.parametrize(
    ("values", "every", "expected"),
    [
        ([0.1, 0.5, 0.8, -1.0, 1.5, 1.9], 100, []),
        ([0.5, 0.95, 1.05, 1.0, 0.97], 100, [("info", 100)]),
        ([3.0, 0.5, 3.0, 0.5, 3.0], 100, []),
        ([3.0, 3.0, 3.0, 3.0], 100, [("warn", 100)]),
        ([3.0] * 8, 10, [("warn", 50)]),
        ([3.0] * 3 + [1.0] + [3.0] * 3, 100, [("warn", 100), ("info", 300), ("warn", 500)]),
        ([math.nan, math.nan], 100, []),
    ],
)
def test_detector_of_the_edge_warns_of_what_lasts(
    values: list[float], every: int, expected: list[tuple[str, int]]
) -> None:
    assert [(alarm.severity, alarm.step) for alarm in seen(values, every=every)] == expected


# --- the program


def test_mlflow_has_the_ratio_under_its_own_name() -> None:
    signals = {EDGE: 0.5, SHARPNESS: 10.0}
    found, _ = points(StepRecord(0, 0, 1.0, 0.1, 1.0, 64, signals=signals), Counters())
    assert {("stability/edge", 0.5), ("signals/sharpness", 10.0)} <= {(point.key, point.value) for point in found}


def test_program_says_the_bracket_before_the_first_step_and_the_cost_at_the_end(program: Program) -> None:
    quadratic = ["task=quadratic", "task.curvatures=[1,10,100]", "optimizer.momentum=0.9", "optimizer.lr=0.01"]
    words = [*quadratic, "schedule=constant", "warmup=none", "train.duration=30", "monitor.sharpness.every=10"]
    line = "upper bracket of optimizer.lr: about 0.038, above it updates are unstable at the start"
    done = program(*words)
    assert done.code == 0, done.err
    assert line in done.out
    assert "sharpness: 3 measurements, " in done.out
    result = json.loads((done.run / "result.json").read_text())
    assert result["learning_rate"]["upper_bracket"] == pytest.approx(0.038)
    assert 0 < result["seconds_measuring"] < result["seconds"]
    assert line in program(*words, "mode=check").out


def test_optimizer_without_a_known_bound_is_refused(refuse: Callable[..., Any]) -> None:
    said = refuse("optimizer=adadelta", "monitor.sharpness.every=10", "monitor.sharpness.iterations=0")
    assert said.code == 2
    assert (
        "monitor.sharpness.every: must be null with an optimizer whose stable learning rates are not known, got 10 "
        "with torch.optim.Adadelta. Set monitor.sharpness.every=null, or one of torch.optim: SGD, Adam, AdamW"
        in said.err
    )
    assert "monitor.sharpness.iterations: must be an integer >= 1, got 0." in said.err
    said = refuse("detector=[edge]")
    assert "monitor.sharpness.every: must be a duration for detector edge, which reads stability/edge" in said.err
