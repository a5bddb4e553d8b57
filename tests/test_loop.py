"""The loop: what it counts, when it looks, what it does about alarms."""

import functools
import resource
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from runner.detectors.divergence import Divergence
from runner.detectors.non_finite import NonFinite
from runner.errors import CheckpointError, TaskError
from runner.records import Action, Alarm, EvalRecord, Record, StepRecord
from runner.remedies.rollback import Rollback
from runner.remedies.skip_update import SkipUpdate
from runner.remedies.stop import Stop
from runner.tasks.digits import Digits
from runner.tasks.protocol import LossSum
from runner.tasks.quadratic import Quadratic
from runner.train.checkpoint import Checkpoints
from runner.train.clipping import Fixed
from runner.train.loop import fit
from runner.train.plan import SnapshotPlan, TrainPlan
from runner.train.seeding import seed_everything
from runner.train.state import TrainState
from runner.train.step import compiled
from runner.watch import Watch


class Poisoned:
    """Digits whose loss is nan at one step."""

    goals: Mapping[str, Literal["min", "max"]] = {"loss": "min", "accuracy": "max"}

    def __init__(self, bad_step: int, *, stays_bad: bool = False) -> None:
        self.inner = Digits(batch_size=64, seed=0, hidden=(16,))
        self.examples, self.digest = self.inner.examples, self.inner.digest
        self.bad_steps = range(bad_step, 10**9 if stays_bad else bad_step + 1)
        self.model, self.scores, self.weight = self.inner.model, self.inner.scores, self.inner.weight
        self.prior_entropy, self.remarks = self.inner.prior_entropy, self.inner.remarks
        self.step = -1

    def batch(self, step: int, split: str, part: tuple[int, int] = (0, 1)) -> tuple[Tensor, ...] | None:
        self.step = step if split == "train" else -1
        return self.inner.batch(step, split, part)

    def loss(self, apply: Callable[..., Any], batch: tuple[Tensor, ...], weight: float) -> LossSum:
        loss = self.inner.loss(apply, batch, weight)
        return loss._replace(total=loss.total * float("nan")) if self.step in self.bad_steps else loss


def train(
    task: Any, directory: Path, plan: TrainPlan, *, lr: float = 0.1, watch: Watch | None = None, **options: Any
) -> tuple[TrainState, nn.Module, list[Record]]:
    seed_everything(0)
    model = task.model()
    groups = [{"params": list(model.parameters()), "name": "all", "initial_lr": lr}]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9, fused=True)
    records: list[Record] = []
    state = fit(
        task,
        model,
        optimizer,
        {("all", "lr"): lambda step: 1.0},
        plan=plan,
        watch=watch or Watch({"non_finite": NonFinite(), "divergence": Divergence()}, {"stop": Stop()}),
        checkpoints=Checkpoints(directory),
        on_record=records.append,
        **options,
    )
    return state, model, records


def test_accumulated_micro_batches_equal_one_batch_also_when_ragged(tmp_path: Path) -> None:
    # 1400 examples in batches of 300: the last batch of an epoch has 200, and 7 parts of it are ragged
    task = Digits(batch_size=300, seed=0)
    _, whole, whole_records = train(task, tmp_path, TrainPlan(steps=10))
    _, parts, part_records = train(task, tmp_path, TrainPlan(steps=10, accumulate=7))
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    losses = [[r.loss for r in records if isinstance(r, StepRecord)] for records in (whole_records, part_records)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert [r.examples for r in part_records if isinstance(r, StepRecord)][:6] == [300, 600, 900, 1200, 1400, 1700]


def test_gradient_is_clipped_to_the_global_norm_and_recorded_before(tmp_path: Path) -> None:
    task = Digits(batch_size=64, seed=0)
    _, model, records = train(task, tmp_path, TrainPlan(steps=1, clip_norm=0.01), lr=1.0)
    record = records[0]
    assert isinstance(record, StepRecord)
    assert record.clipped is True
    assert record.grad_norm > 0.01
    seed_everything(0)
    start = task.model()
    moved = torch.cat([(a - b).flatten() for a, b in zip(start.parameters(), model.parameters(), strict=True)])
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("clip_norm", [0.1, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_clipping_gives_the_bits_of_torch(clip_norm: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(5, 3, generator=generator), torch.randn(7, generator=generator).to(dtype)]
    parameters = [nn.Parameter(torch.zeros_like(grad)) for grad in grads]
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad.clone()
    norm = nn.utils.clip_grad_norm_(parameters, clip_norm)
    assert torch.equal(Fixed(clip_norm=clip_norm).clip(parameters, grads).norm, norm)
    assert all(torch.equal(grad, p.grad) for grad, p in zip(grads, parameters, strict=True) if p.grad is not None)


def test_loss_that_reaches_no_trained_parameter_is_an_error(tmp_path: Path) -> None:
    class Elsewhere(Poisoned):
        def loss(self, apply: Callable[..., Any], batch: Any, weight: float) -> LossSum:
            return LossSum(torch.ones((), requires_grad=True) * 2, 1, None)

    with pytest.raises(TaskError, match="must give a loss that depends on a trained parameter, got none at step 0"):
        train(Elsewhere(-1), tmp_path, TrainPlan(steps=1))


@pytest.mark.parametrize("stays_bad", [False, True])
@pytest.mark.parametrize("watch_every", [1, 4])
def test_non_finite_loss_never_reaches_the_weights(tmp_path: Path, watch_every: int, stays_bad: bool) -> None:
    task = Poisoned(5, stays_bad=stays_bad)
    state, model, records = train(task, tmp_path, TrainPlan(steps=20, watch_every=watch_every))
    assert state.status == "diverged"
    assert state.alarm is not None
    assert (state.alarm.step, state.alarm.detector) == (5, "non_finite")
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert [r.step for r in records if isinstance(r, StepRecord)][:6] == [0, 1, 2, 3, 4, 5]
    assert [(r.type, r.cause) for r in records if isinstance(r, Action)] == [("Stop", ("non_finite", 5))]
    if watch_every == 1:
        assert state.step == 5


def test_finite_numbers_beyond_float32_are_not_dropped_on_the_device(tmp_path: Path) -> None:
    task = Quadratic(curvatures=[1.0], start=[1.0])
    ends = [train(task, tmp_path, TrainPlan(steps=3, watch_every=n), lr=1e60, watch=Watch({}, {}))[1] for n in (1, 3)]
    one, five = (next(model.parameters()) for model in ends)
    assert torch.equal(one, five)
    assert one.item() == pytest.approx(-1e180)


def test_alarm_without_a_remedy_lets_the_run_go_on(tmp_path: Path) -> None:
    watch = Watch({"non_finite": NonFinite()}, {})
    state, _, records = train(Poisoned(18), tmp_path, TrainPlan(steps=20), watch=watch)
    assert (state.status, state.step) == ("diverged", 20)
    assert [r.step for r in records if isinstance(r, Alarm)] == [18, 19]


@pytest.mark.parametrize(
    ("bad_step", "stays_bad", "remedies", "plan", "status"),
    [
        (10, False, {"skip_update": SkipUpdate()}, {}, "finished"),
        (19, False, {"skip_update": SkipUpdate()}, {}, "finished"),
        (15, True, {"skip_update": SkipUpdate()}, {}, "diverged"),
        (10, True, {"skip_update": SkipUpdate(in_a_row=3)}, {}, "diverged"),
        (10, False, {}, {}, "diverged"),
        (19, False, {}, {}, "diverged"),
        (10, True, {}, {"watch_every": 4}, "diverged"),
        (10, True, {}, {"max_seconds": 1e-9}, "finished"),
        (0, True, {}, {"max_seconds": 1e-9}, "diverged"),
        (3, True, {}, {"eval_every": 1, "patience": 4}, "diverged"),
        (19, False, {"rollback": Rollback(detectors=("non_finite",))}, {"snapshots": SnapshotPlan(5)}, "finished"),
    ],
)
def test_a_run_that_ends_without_numbers_is_not_finished(
    tmp_path: Path, bad_step: int, stays_bad: bool, remedies: Any, plan: dict[str, Any], status: str
) -> None:
    """A bad batch whose update was dropped ends nothing; losses or weights that stay nan do, whoever ended the run."""
    watch, task = Watch({"non_finite": NonFinite()}, remedies), Poisoned(bad_step, stays_bad=stays_bad)
    state, _, _ = train(task, tmp_path, TrainPlan(**{"steps": 20, **plan}), watch=watch)
    assert state.status == status, state.verdict
    assert state.verdict.startswith("diverged: ") == (status == "diverged")


def test_looking_every_n_steps_gives_the_same_records(tmp_path: Path) -> None:
    task = Digits(batch_size=64, seed=0)
    plans = [TrainPlan(steps=23, eval_every=10, watch_every=n) for n in (1, 5)]
    one, five = (train(task, tmp_path, plan)[2] for plan in plans)
    numbers = [
        [(r.step, r.loss, r.grad_norm, r.examples) for r in records if isinstance(r, StepRecord)]
        for records in (one, five)
    ]
    assert numbers[0] == numbers[1]


def test_too_high_learning_rate_ends_as_diverged_with_step_evidence_and_lr(tmp_path: Path) -> None:
    state, _, records = train(Digits(batch_size=64, seed=0), tmp_path, TrainPlan(steps=400), lr=30.0)
    assert state.status == "diverged"
    alarm = next(r for r in records if isinstance(r, Alarm))
    assert alarm.severity == "stop"
    assert alarm.evidence["lr"] == 30.0
    assert f"at step {alarm.step}" in state.verdict


def test_early_stop_waits_for_its_patience_and_keeps_the_best(tmp_path: Path) -> None:
    task = Digits(batch_size=64, seed=0)
    plan = TrainPlan(steps=4000, eval_every=20, metric="accuracy", goal="max", patience=5)
    state, _, records = train(task, tmp_path, plan)
    evals = [r for r in records if isinstance(r, EvalRecord)]
    best = max(evals, key=lambda r: r.metrics["accuracy"])
    assert state.status == "finished"
    assert "stopped early" in state.verdict
    assert (state.best["step"], state.best["accuracy"]) == (best.step, best.metrics["accuracy"])
    assert [r.best for r in evals[-5:]] == [False] * 5
    saved = torch.load(tmp_path / "checkpoints/best.pt", weights_only=True)
    assert saved["state"]["step"] == best.step


def test_evaluation_is_a_mean_over_examples_not_over_batches(tmp_path: Path) -> None:
    # 397 validation examples in batches of 64 leave a last batch of 13
    task = Digits(batch_size=64, seed=0)
    _, model, records = train(task, tmp_path, TrainPlan(steps=30))
    model.eval()
    whole = Digits(batch_size=397, seed=0)
    batch = whole.batch(0, "val")
    assert batch is not None
    with torch.no_grad():
        loss = whole.loss(model, batch, whole.weight(batch))
    final = next(r for r in records if isinstance(r, EvalRecord))
    assert final.metrics["loss"] == pytest.approx(loss.total.item() / 397, rel=1e-5)
    right = (loss.outputs.argmax(dim=1) == batch[1]).sum().item()
    assert final.metrics["accuracy"] == pytest.approx(right / 397)


def test_interruption_ends_after_the_step_in_hand(tmp_path: Path) -> None:
    answers = iter([None, None, "SIGINT"])
    state, _, _ = train(
        Digits(batch_size=64, seed=0), tmp_path, TrainPlan(steps=100), interrupted=lambda: next(answers)
    )
    assert (state.status, state.step) == ("interrupted", 3)
    assert torch.load(tmp_path / "checkpoints/last.pt", weights_only=True)["state"]["step"] == 3


def test_every_model_of_a_sweep_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch gives up compiling code that it has compiled 8 times."""
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    for width in range(1, 13):
        apply = compiled(Scaled(width), TrainPlan(steps=1, compile=True))
        apply(torch.ones(2, width))
    assert len(graphs) == 12


class Scaled(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        return x * self.width


def test_bf16_trains_and_keeps_float32_weights(tmp_path: Path) -> None:
    state, model, _ = train(Digits(batch_size=64, seed=0), tmp_path, TrainPlan(steps=100, precision="bf16"))
    assert state.last_eval["accuracy"] > 0.8
    assert all(p.dtype == torch.float32 for p in model.parameters())


class Steep(Poisoned):
    """Digits whose loss is multiplied, so that its fp16 gradient overflows until the scaler has found its scale."""

    def loss(self, apply: Callable[..., Any], batch: tuple[Tensor, ...], weight: float) -> LossSum:
        loss = self.inner.loss(apply, batch, weight)
        return loss._replace(total=loss.total * 1e3)


@pytest.mark.parametrize("watch_every", [1, 5])
def test_updates_dropped_by_the_fp16_scaler_are_recorded_and_leave_the_weights(
    tmp_path: Path, watch_every: int
) -> None:
    plan = TrainPlan(steps=30, precision="fp16", watch_every=watch_every)
    state, model, records = train(Steep(-1), tmp_path, plan, lr=1e-5)
    steps = [r for r in records if isinstance(r, StepRecord)]
    dropped = [r.step for r in steps if r.skipped]
    assert dropped[:2] == [0, 1], "the first updates overflow"
    assert [r.step for r in steps] == list(range(30)), "a dropped update consumes its step"
    assert (state.status, state.alarms) == ("finished", 0)
    first = len(dropped)
    assert steps[first].loss == pytest.approx(steps[0].loss, rel=0.1)
    assert all(torch.isfinite(p).all() and p.abs().max() < 2 for p in model.parameters())


def test_full_disk_keeps_the_earlier_checkpoint(tmp_path: Path) -> None:
    train(Digits(batch_size=64, seed=0), tmp_path, TrainPlan(steps=3))
    before = (tmp_path / "checkpoints/last.pt").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(CheckpointError, match="cannot be written"):
            train(Digits(batch_size=64, seed=0), tmp_path, TrainPlan(steps=3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "checkpoints/last.pt").read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["best.pt", "last.pt"]
