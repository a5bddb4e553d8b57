"""Signals: what the meters measure, that training never notices, and that a run that goes on measures the same."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import schedulefree
import torch
from torch import Tensor, nn

from runner.records import Record, StepRecord
from runner.tasks.char_lm import CharLM
from runner.tasks.digits import Digits
from runner.tasks.quadratic import Quadratic
from runner.train.checkpoint import Checkpoints
from runner.train.logits import Logits
from runner.train.loop import fit
from runner.train.meters import Meter
from runner.train.plan import TrainPlan
from runner.train.seeding import seed_everything
from runner.train.signals import GradientCosines, SecondMoments, UpdateRatios, _cosine
from runner.watch import Watch

MAKERS: tuple[Callable[[int], Meter], ...] = (UpdateRatios, SecondMoments, GradientCosines, Logits)


def all_meters(every: int) -> list[Meter]:
    return [make(every) for make in MAKERS]


def sgd(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9, fused=True)


def adamw(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.6), weight_decay=0.1, fused=True)


class Shaky(Digits):
    """Digits for a network with BatchNorm and dropout."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10))


class Linear(Digits):
    """Digits for one matrix."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 10))


class Seen(NamedTuple):
    """What stood in model and optimizer before the update of a step."""

    weights: list[Tensor]
    grads: list[Tensor]
    squares: list[Tensor | None]


class Made(NamedTuple):
    model: nn.Module
    optimizer: torch.optim.Optimizer
    records: list[StepRecord]
    seen: list[Seen]

    def signal(self, name: str) -> dict[int, float]:
        return {r.step: r.signals[name] for r in self.records if r.signals and name in r.signals}


def train(
    task: Any,
    plan: TrainPlan,
    meters: Sequence[Meter],
    *,
    make: Callable[[Any], torch.optim.Optimizer] = sgd,
    directory: Path = Path("nowhere"),
    source: Path | None = None,
    until: int | None = None,
    lr: Callable[[int], float] = lambda step: 1.0,
) -> Made:
    seed_everything(0)
    model = task.model()
    groups = [{"params": [parameter], "name": name} for name, parameter in model.named_parameters()]
    optimizer = make(groups)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    records: list[StepRecord] = []
    seen: list[Seen] = []

    def look(record: Record) -> None:
        if isinstance(record, StepRecord):
            parameters = list(model.parameters())
            squares = [optimizer.state.get(p, {}).get("exp_avg_sq") for p in parameters]
            seen.append(
                Seen(
                    [p.detach().clone() for p in parameters],
                    [p.grad.clone() for p in parameters if p.grad is not None],
                    [None if square is None else square.clone() for square in squares],
                )
            )
            records.append(record)

    fit(
        task,
        model,
        optimizer,
        {(group["name"], "lr"): lr for group in optimizer.param_groups},
        plan=plan,
        watch=Watch({}, {}),
        checkpoints=Checkpoints(directory, source=source),
        on_record=look,
        meters=meters,
        interrupted=lambda: "test" if until is not None and len(records) >= until else None,
    )
    return Made(model, optimizer, records, seen)


@pytest.fixture
def task() -> Digits:
    return Digits(batch_size=64, seed=0, hidden=(16,))


def test_update_ratios_are_those_of_the_update_before(task: Digits, tmp_path: Path) -> None:
    made = train(task, TrainPlan(steps=8), [UpdateRatios(3)], directory=tmp_path)
    for name, pick in (("max", max), ("median", max), ("min", min)):
        found = made.signal(f"update_ratio/{name}")
        assert list(found) == [1, 4, 7]
        for step, value in found.items():
            pairs = zip(made.seen[step - 1].weights, made.seen[step].weights, strict=True)
            ratios = [((after - before).norm() / before.norm()).item() for before, after in pairs if before.ndim == 2]
            assert value == pytest.approx(pick(ratios), rel=1e-4)
    for step in (1, 4, 7):
        pairs = zip(made.seen[step - 1].weights, made.seen[step].weights, strict=True)
        norm = math.hypot(*((after - before).norm().item() for before, after in pairs))
        assert made.records[step].prev_update_norm == pytest.approx(norm, rel=1e-4)


def test_matrices_that_cannot_move_or_are_all_zero_have_no_ratio(task: Digits, tmp_path: Path) -> None:
    class Zeroed(Digits):
        def model(self) -> nn.Module:
            model = super().model()
            with torch.no_grad():
                next(iter(model.parameters())).zero_()
            return model

    def half_frozen(groups: Any) -> torch.optim.Optimizer:
        optimizer = sgd(groups)
        optimizer.param_groups[2]["lr"] = 0.0
        return optimizer

    zeroed = train(
        Zeroed(batch_size=64, seed=0, hidden=(16,)), TrainPlan(steps=2), [UpdateRatios(1)], directory=tmp_path
    )
    before, after = (seen.weights[2] for seen in zeroed.seen)
    assert zeroed.signal("update_ratio/min")[1] == pytest.approx(((after - before).norm() / before.norm()).item())
    frozen = train(task, TrainPlan(steps=2), [UpdateRatios(1)], make=half_frozen, directory=tmp_path)
    assert frozen.signal("update_ratio/min")[1] == frozen.signal("update_ratio/max")[1] > 0


def test_layer_that_gets_no_gradient_has_the_ratio_zero(tmp_path: Path) -> None:
    class Dead(Digits):
        def model(self) -> nn.Module:
            model = super().model()
            with torch.no_grad():
                list(model.parameters())[1].fill_(-1e3)  # no unit of the layer ever fires
            return model

    made = train(Dead(batch_size=64, seed=0, hidden=(16,)), TrainPlan(steps=3), [UpdateRatios(1)], directory=tmp_path)
    assert made.signal("update_ratio/max")[2] == 0.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_signals_are_measured_in_every_number_format(tmp_path: Path, dtype: torch.dtype) -> None:
    class Cast(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.to(dtype)

    class Other(Digits):
        def model(self) -> nn.Module:
            return nn.Sequential(Cast(), nn.Linear(64, 10, dtype=dtype))

    made = train(Other(batch_size=64, seed=0), TrainPlan(steps=5), all_meters(1), make=adamw, directory=tmp_path)
    plain = train(Linear(batch_size=64, seed=0), TrainPlan(steps=5), all_meters(1), make=adamw, directory=tmp_path)
    assert made.records[4].signals == pytest.approx(plain.records[4].signals, rel=0.1)


def test_update_that_the_device_drops_has_no_ratio(task: Digits, tmp_path: Path) -> None:
    class Poisoned(Digits):
        def batch(self, step: int, split: str, part: tuple[int, int] = (0, 1)) -> Any:
            batch = super().batch(step, split, part)
            return (batch[0] * float("nan"), batch[1]) if batch and (split, step) == ("train", 2) else batch

    plan = TrainPlan(steps=8, watch_every=4)
    made = train(Poisoned(batch_size=64, seed=0, hidden=(16,)), plan, all_meters(1), directory=tmp_path)
    assert list(made.signal("update_ratio/max")) == [1, 2, 4, 5, 6, 7]
    assert list(made.signal("grad_cosine")) == [1, 4, 5, 6, 7]


def test_rms_fits_gradients_to_the_second_moment_that_takes_them_in(task: Digits, tmp_path: Path) -> None:
    made = train(task, TrainPlan(steps=7), [SecondMoments(2)], make=adamw, directory=tmp_path)
    found = made.signal("rms/max")
    assert list(found) == [4, 6]  # 1 / (1 - 0.6) = 2.5 gradients first
    for step, value in found.items():
        rms = []
        for grad, square in zip(made.seen[step].grads, made.seen[step].squares, strict=True):
            assert square is not None
            if grad.ndim == 2:
                v = (0.6 * square + 0.4 * grad**2) / (1 - 0.6 ** (step + 1))
                rms.append((grad**2 / v.clamp(min=1e-16)).mean().sqrt().item())
        assert value == pytest.approx(max(rms), rel=1e-4)
    assert train(task, TrainPlan(steps=3), [SecondMoments(1)], directory=tmp_path).signal("rms/max") == {}


def test_gradient_that_jumps_shows_in_the_rms(tmp_path: Path) -> None:
    class Jumps(Digits):
        def batch(self, step: int, split: str, part: tuple[int, int] = (0, 1)) -> Any:
            batch = super().batch(step, split, part)
            return (batch[0] * 30, batch[1]) if batch and (split, step) == ("train", 40) else batch

    def slow(groups: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))

    made = train(
        Jumps(batch_size=64, seed=0, hidden=(16,)),
        TrainPlan(steps=45),
        [SecondMoments(1)],
        make=slow,
        directory=tmp_path,
    )
    found = made.signal("rms/max")
    assert max(found, key=lambda step: found[step]) == 40
    assert found[40] > 2.3


def test_cosine_is_that_of_successive_gradients(task: Digits, tmp_path: Path) -> None:
    made = train(task, TrainPlan(steps=34), [GradientCosines(20)], directory=tmp_path)
    found = made.signal("grad_cosine")
    assert list(found) == [*range(1, 11), *range(21, 31)]
    for step, value in found.items():
        one, other = (torch.cat([g.flatten() for g in made.seen[s].grads]) for s in (step, step - 1))
        assert value == pytest.approx(torch.cosine_similarity(one, other, dim=0).item(), abs=1e-5)


def test_gradient_of_a_step_too_long_turns_around(tmp_path: Path) -> None:
    bowl = Quadratic(curvatures=[19.0], start=[1.0])

    def plain(groups: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=0.1)

    made = train(bowl, TrainPlan(steps=4), [GradientCosines(1)], make=plain, directory=tmp_path)
    assert list(made.signal("grad_cosine").values()) == pytest.approx([-1.0] * 3)


def test_gradients_that_overflow_have_no_cosine_and_stop_nothing() -> None:
    huge = torch.tensor([3e38, 3e38])
    assert math.isnan(_cosine([huge, huge], [huge, -huge]))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("she sells sea shells by the sea shore. " * 20)
    return str(path)


def tiny(text: str, kind: type[CharLM] = CharLM, **arguments: Any) -> CharLM:
    sizes = {"batch_size": 4, "seed": 0, "context": 8, "width": 16, "depth": 2, "heads": 2}
    return kind(text=text, **{**sizes, **arguments})


def test_logits_are_those_of_the_model_before_the_update(tmp_path: Path, text: str) -> None:
    task = tiny(text)
    made = train(task, TrainPlan(steps=1), [Logits(1)], make=adamw, directory=tmp_path)
    seed_everything(0)
    model: Any = task.model()
    windows = task.batch(0, "train")[0].long()[:, :-1]  # type: ignore[index]
    assert made.signal("log_z")[0] == pytest.approx(model(windows).logsumexp(dim=-1).mean().item(), rel=1e-5)
    largest, x = 0.0, model.tokens(windows) + model.positions(torch.arange(8))
    for block in model.blocks:
        query, key, _ = block.attention.project(block.attention_norm(x)).chunk(3, dim=-1)
        for head in (slice(0, 8), slice(8, 16)):
            scores = torch.einsum("nid,njd->nij", query[..., head], key[..., head]) / math.sqrt(8)
            largest = max(largest, scores.tril().abs().max().item())
        x = block(x)
    assert made.signal("attention_logit/max")[0] == pytest.approx(largest, rel=1e-4)


def test_attention_logits_give_the_weights_that_attention_uses(text: str) -> None:
    attention: Any = tiny(text, qk_norm=True, base_width=8).model().blocks[0].attention  # type: ignore[union-attr, index]
    x = torch.randn(3, 8, 16, generator=torch.Generator().manual_seed(0))
    value = attention.project(x).unflatten(-1, (3, 2, 8))[..., 2, :, :].transpose(1, 2)
    gathered = attention.attention_logits(x).softmax(dim=-1) @ value
    assert torch.allclose(attention.mix(gathered.transpose(1, 2).flatten(-2)), attention(x), atol=1e-5)


def test_attention_logits_grow_with_queries_and_keys(tmp_path: Path, text: str) -> None:
    class Grown(CharLM):
        def model(self) -> nn.Module:
            model: Any = super().model()
            with torch.no_grad():
                for block in model.blocks:
                    block.attention.project.weight[:32] *= 30
            return model  # type: ignore[no-any-return]

    small, large = (
        train(tiny(text, kind, depth=1), TrainPlan(steps=1), [Logits(1)], make=adamw, directory=tmp_path)
        for kind in (CharLM, Grown)
    )
    name = "attention_logit/max"
    assert large.signal(name)[0] == pytest.approx(900 * small.signal(name)[0], rel=1e-3)


def averaged(groups: Any) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = schedulefree.AdamWScheduleFree(groups, lr=0.01, betas=(0.9, 0.6))
    return optimizer


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (sgd, {"clip_norm": 0.5, "accumulate": 3}),
        (adamw, {"ema_decay": 0.9, "watch_every": 4}),
        (adamw, {"precision": "bf16"}),
        (averaged, {"eval_every": 4}),
    ],
    ids=["clipped and accumulated", "averaged, seldom looked at", "bf16", "schedule-free"],
)
@pytest.mark.parametrize("kind", ["BatchNorm and dropout", "transformer"])
def test_training_is_the_same_bit_for_bit_with_and_without_meters(
    tmp_path: Path, text: str, kind: str, make: Callable[[Any], torch.optim.Optimizer], options: dict[str, Any]
) -> None:
    task = tiny(text, dropout=0.3) if kind == "transformer" else Shaky(batch_size=64, seed=0)
    plan, runs = TrainPlan(steps=12, **options), []
    for meters in ([], all_meters(2)):
        made = train(task, plan, meters, make=make, directory=tmp_path)
        assert (made.records[-1].signals is not None or made.records[-2].signals is not None) == bool(meters)
        runs.append((made.model.state_dict(), torch.get_rng_state(), [(r.loss, r.grad_norm) for r in made.records]))
    (one, state, losses), (other, other_state, other_losses) = runs
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert torch.equal(state, other_state)
    assert losses == other_losses


@pytest.mark.parametrize("every", [1, 3, 30])
@pytest.mark.parametrize("make", [sgd, adamw])
def test_run_that_goes_on_measures_the_same(
    tmp_path: Path, every: int, make: Callable[[Any], torch.optim.Optimizer]
) -> None:
    def run(directory: Path, **options: Any) -> list[tuple[float, Any, Any]]:
        task = Shaky(batch_size=64, seed=0)
        made = train(task, TrainPlan(steps=12), all_meters(every), make=make, directory=directory, **options)
        return [(r.loss, r.signals, r.prev_update_norm) for r in made.records]

    whole = run(tmp_path / "whole")
    first = run(tmp_path / "parts", until=7)
    second = run(tmp_path / "parts", source=tmp_path / "parts/checkpoints/last.pt")
    assert first + second == whole
    assert len(first) == 7
