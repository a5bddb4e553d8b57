"""Going back to the best weights: what goes back, what stays, and that a run that was cut short does the same."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from runner.detectors.non_finite import NonFinite
from runner.detectors.plateau import Plateau
from runner.errors import CheckpointError
from runner.records import Action, Alarm, EvalRecord, Record, StepRecord
from runner.remedies.protocol import Remedy
from runner.remedies.reduce_lr import ReduceLR
from runner.remedies.restore_best import RestoreBest
from runner.tasks.digits import Digits
from runner.train.checkpoint import Checkpoints
from runner.train.loop import fit
from runner.train.plan import TrainPlan
from runner.train.saved import newest
from runner.train.seeding import seed_everything
from runner.train.signals import GradientCosines
from runner.train.state import TrainState
from runner.watch import Watch

SPOILT = range(20, 40)
PLAN = TrainPlan(steps=60, eval_every=5, checkpoint_every=20)


class Tempted(nn.Module):
    """A classifier that forgets what it has learnt every time it is given a bad batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


class KilledError(Exception):
    """What stands for a process that is killed."""


class Spoilt(Digits):
    """Digits whose loss is turned around for some steps, and that may be killed at one."""

    def __init__(self, spoilt: range = range(0), killed_at: int | None = None) -> None:
        super().__init__(batch_size=64, seed=0)
        self.spoilt, self.killed_at, self.step = spoilt, killed_at, -1

    def model(self) -> nn.Module:
        return Tempted()

    def batch(self, step: int, split: str, part: tuple[int, int] = (0, 1)) -> Any:
        self.step = step if split == "train" else -1
        if self.step == self.killed_at and split == "train":
            raise KilledError
        return super().batch(step, split, part)

    def loss(self, apply: Callable[..., Any], batch: Any, weight: float) -> Any:
        loss = super().loss(apply, batch, weight)
        return loss._replace(total=-loss.total) if self.step in self.spoilt else loss


def momentum(groups: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=lr, momentum=0.9, fused=True)


class Made:
    """A run and what it left behind."""

    def __init__(
        self,
        directory: Path,
        *,
        task: Spoilt | None = None,
        plan: TrainPlan = PLAN,
        remedy: Remedy | None = None,
        detector: Plateau | None = None,
        watch: Watch | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] = momentum,
        source: Path | None = None,
        lr: float = 0.1,
        **options: Any,
    ) -> None:
        seed_everything(0)
        task = task or Spoilt(SPOILT)
        self.model = task.model()
        groups = [{"params": list(self.model.parameters()), "name": "all", "initial_lr": lr}]
        self.optimizer = optimizer(groups, lr=lr)
        self.records: list[Record] = []
        self.state: TrainState | None = None
        with suppress(KilledError):
            self.state = fit(
                task,
                self.model,
                self.optimizer,
                {("all", "lr"): lambda step: 1.0},
                plan=plan,
                watch=watch or Watch({"plateau": detector or Plateau(patience=1)}, {"remedy": remedy or RestoreBest()}),
                checkpoints=Checkpoints(directory, source=source),
                on_record=self.records.append,
                **options,
            )

    def of(self, kind: type[Any]) -> list[Any]:
        return [record for record in self.records if isinstance(record, kind)]


def timeless(records: list[Record]) -> list[Record]:
    return [replace(r, time_ms=0) if isinstance(r, StepRecord | EvalRecord) else r for r in records]


def test_weights_go_back_and_the_step_goes_on(tmp_path: Path) -> None:
    made = Made(tmp_path)
    first = made.of(Action)[0]
    assert (first.type, first.arguments["factor"]) == ("Rollback", pytest.approx(0.1))
    evals = {record.step: record.metrics["loss"] for record in made.of(EvalRecord)}
    best, at = int(first.arguments["to_step"]), first.step
    assert best < at - 5
    assert evals[at] > 2 * evals[best], "the spoilt stretch did damage"
    assert [r.step for r in made.of(StepRecord)] == list(range(60)), "no step twice"
    rates = {r.step: r.lr_scale for r in made.of(StepRecord)}
    assert (rates[at - 1], rates[at]) == (1.0, pytest.approx(0.1))
    # updates at a tenth of the rate from the best weights end near them, not where the spoilt stretch ended
    assert evals[at + 5] < evals[at]


def test_a_gradient_is_not_compared_with_one_of_the_weights_that_were_given_up(tmp_path: Path) -> None:
    made = Made(tmp_path, meters=[GradientCosines(1)])
    steps = {action.step for action in made.of(Action) if action.type == "Rollback"}
    without = {r.step for r in made.of(StepRecord) if "grad_cosine" not in (r.signals or {})}
    assert steps
    assert without == {0, *steps}


@pytest.mark.parametrize("ema_decay", [None, 0.5])
@pytest.mark.parametrize(
    "optimizer", [momentum, torch.optim.AdamW, torch.optim.Adagrad], ids=["sgd", "adamw", "adagrad"]
)
def test_what_goes_on_is_the_best_checkpoint_with_an_empty_optimizer(
    tmp_path: Path, optimizer: Callable[..., torch.optim.Optimizer], ema_decay: float | None
) -> None:
    """No update is made between the rollback and the end: an interruption comes first."""
    plan = replace(PLAN, ema_decay=ema_decay)
    made = Made(tmp_path, plan=plan, optimizer=optimizer)
    action = next(a for a in made.of(Action) if a.type == "Rollback")
    steps_made = iter(range(1, 61))
    short = Made(
        tmp_path / "short",
        plan=plan,
        optimizer=optimizer,
        interrupted=lambda: "SIGINT" if next(steps_made) == action.step else None,
    )
    assert short.state is not None
    assert short.state.step == action.step
    best, last = (torch.load(tmp_path / f"short/checkpoints/{name}.pt", weights_only=True) for name in ("best", "last"))
    assert best["state"]["step"] == action.arguments["to_step"]
    for key in ("model", "average"):
        assert (best[key] is None) == (last[key] is None)
        for name, value in (best[key] or {}).items():
            assert torch.equal(value, last[key][name]), name
    fresh = optimizer([{"params": list(Tempted().parameters())}], lr=0.1).state_dict()["state"]
    assert last["optimizer"]["state"].keys() == fresh.keys()
    assert all(torch.equal(last["optimizer"]["state"][i]["sum"], fresh[i]["sum"]) for i in fresh)
    assert last["state"]["lr_scale"] == pytest.approx(0.1)
    assert last["detectors"]["plateau"][0] == best["state"]["best"]["loss"]


def test_a_step_size_that_the_optimizer_estimates_goes_back_to_that_of_the_best_weights(tmp_path: Path) -> None:
    prodigy = pytest.importorskip("prodigyopt").Prodigy
    made = Made(
        tmp_path,
        optimizer=lambda groups, lr: prodigy([{**group, "initial_lr": 1.0} for group in groups], lr=1.0),
        remedy=RestoreBest(factor=0.5),
    )
    estimates = {r.step: r.lr / r.lr_scale for r in made.of(StepRecord)}
    rollbacks = [(a.step, a.arguments["to_step"]) for a in made.of(Action) if a.type == "Rollback"]
    assert rollbacks
    for step, best in rollbacks:
        assert estimates[step] == pytest.approx(estimates[best])
        assert 1000 * estimates[0] < estimates[step] < estimates[step - 1], "neither the first nor that of the damage"


@pytest.mark.parametrize("remedy", [ReduceLR(), RestoreBest()], ids=["reduce_lr", "restore_best"])
@pytest.mark.parametrize("killed_at", [33, 44, 53])
@pytest.mark.parametrize("watch_every", [1, 4])
def test_a_killed_run_goes_on_to_the_same_end(tmp_path: Path, remedy: Remedy, killed_at: int, watch_every: int) -> None:
    plan = replace(PLAN, watch_every=watch_every)
    whole = Made(tmp_path / "whole", remedy=remedy, plan=plan)
    assert len(whole.of(Action)) >= 2
    killed = Made(tmp_path / "cut", task=Spoilt(SPOILT, killed_at), remedy=remedy, plan=plan)
    assert killed.state is None
    source = newest(tmp_path / "cut/checkpoints")
    begin = torch.load(source, weights_only=True)["state"]["step"]
    rest = Made(tmp_path / "cut", remedy=remedy, plan=plan, source=source)
    later = [record for record in timeless(whole.records) if record.step > begin]
    assert [record for record in timeless(rest.records) if record.step > begin] == later
    for one, other in zip(whole.model.state_dict().values(), rest.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_the_newest_checkpoint_is_the_one_with_the_most_updates(tmp_path: Path) -> None:
    Made(tmp_path, task=Spoilt(killed_at=38), plan=replace(PLAN, checkpoint_every=20))
    assert newest(tmp_path / "checkpoints").name == "best.pt", "best of step 35, last of step 20"
    (tmp_path / "checkpoints/best.pt").write_bytes(b"torn")
    assert newest(tmp_path / "checkpoints").name == "last.pt"


@pytest.mark.parametrize("watch_every", [1, 4])
def test_the_update_of_the_step_that_is_undone_is_dropped(tmp_path: Path, watch_every: int) -> None:
    """The alarm comes from the training loss, between the gradient of the old weights and the update."""
    detector = Plateau(metric="train/loss", window=2, patience=0, cooldown=1000)
    task = Spoilt(range(0))
    plan = replace(PLAN, steps=60, watch_every=watch_every, eval_every=10)
    made = Made(tmp_path, task=task, plan=plan, detector=detector)
    action = made.of(Action)[0]
    assert action.type == "Rollback"
    assert action.step > action.arguments["to_step"], "there are updates to undo"
    seen = (action.step // watch_every + 1) * watch_every  # the update that follows the look is dropped too
    stop = iter(range(1, 61))
    short = Made(
        tmp_path / "short",
        task=Spoilt(range(0)),
        plan=plan,
        detector=detector,
        interrupted=lambda: "SIGINT" if next(stop) == seen else None,
    )
    assert short.state is not None
    saved = torch.load(tmp_path / "short/checkpoints/best.pt", weights_only=True)
    for name, value in short.model.state_dict().items():
        assert torch.equal(value, saved["model"][name]), name
    assert all(torch.isfinite(p).all() for p in made.model.parameters())


def test_before_the_first_evaluation_only_the_rate_falls(tmp_path: Path) -> None:
    detector = Plateau(metric="train/loss", window=1, patience=0)
    made = Made(tmp_path, plan=replace(PLAN, eval_every=30), detector=detector, remedy=RestoreBest(factor=0.9))
    early, late = ([a for a in made.of(Action) if (a.step < 30) == is_early] for is_early in (True, False))
    assert {a.type for a in early} == {"ScaleLR"}
    assert {a.message.partition(" the learning")[0] for a in early} == {"no best weights yet, so only"}
    assert {a.type for a in late if a.step > 30} == {"Rollback"}
    assert {a.type for a in late if a.step == 30} == {"ScaleLR"}, "these are the best weights"


def test_the_last_evaluation_changes_nothing_that_is_trained_no_further(tmp_path: Path) -> None:
    made = Made(tmp_path, plan=replace(PLAN, steps=35), detector=Plateau(patience=2))
    assert [a.step for a in made.of(Alarm)] == [35], "bad at 25, 30 and 35"
    assert not made.of(Action)
    saved = torch.load(tmp_path / "checkpoints/last.pt", weights_only=True)
    assert all(torch.equal(value, saved["model"][name]) for name, value in made.model.state_dict().items())
    assert saved["state"]["lr_scale"] == 1.0


def test_best_weights_of_another_step_are_refused(tmp_path: Path) -> None:
    class Meddled(Spoilt):
        def batch(self, step: int, split: str, part: tuple[int, int] = (0, 1)) -> Any:
            if step == 24 and split == "train":
                path = tmp_path / "checkpoints/best.pt"
                content = torch.load(path, weights_only=True)
                content["state"]["step"] = 1
                torch.save(content, path)
            return super().batch(step, split, part)

    with pytest.raises(CheckpointError, match=r"best.pt: must hold the weights of step 20, got those of step 1"):
        Made(tmp_path, task=Meddled(SPOILT))


@pytest.mark.parametrize("remedy", [ReduceLR(), RestoreBest()], ids=["reduce_lr", "restore_best"])
def test_a_rollback_leaves_the_cooldown_of_its_detector(tmp_path: Path, remedy: Remedy) -> None:
    """Patience 1 and cooldown 3 at an evaluation every five steps: no two cuts within 25 steps."""
    task = Spoilt(range(20, 200))
    cuts = {}
    for cooldown in (0, 3):
        detector = Plateau(patience=1, cooldown=cooldown)
        made = Made(tmp_path / f"{cooldown}", task=task, detector=detector, remedy=remedy)
        cuts[cooldown] = [action.step for action in made.of(Action)]
    assert cuts == {0: [30, 40, 50], 3: [30, 55]}


class Poisoned(Spoilt):
    """Digits whose loss is nan at some steps."""

    def loss(self, apply: Callable[..., Any], batch: Any, weight: float) -> Any:
        loss = super().loss(apply, batch, weight)
        return loss._replace(total=loss.total * float("nan")) if self.step in (25, 28) else loss


def test_a_bad_first_update_after_a_rollback_is_seen_at_once(tmp_path: Path) -> None:
    """Fused SGD would fill its empty momentum with garbage, and the good updates behind it would be undone too."""
    watch = Watch({"non_finite": NonFinite()}, {"remedy": RestoreBest(detectors=("non_finite",))})
    steps_made = iter(range(1, 61))
    made = Made(
        tmp_path,
        task=Poisoned(),
        plan=replace(PLAN, watch_every=4, eval_every=20),
        watch=watch,
        interrupted=lambda: "SIGINT" if next(steps_made) == 32 else None,
    )
    assert [(a.type, a.step) for a in made.of(Action)] == [("Rollback", 25), ("Rollback", 28)]
    best = torch.load(tmp_path / "checkpoints/best.pt", weights_only=True)["model"]
    weights = dict(made.model.named_parameters())
    assert all(torch.isfinite(value).all() for value in weights.values())
    name = "layers.1.weight"
    assert not torch.equal(weights[name], best[name]), "updates 29, 30 and 31 count"
