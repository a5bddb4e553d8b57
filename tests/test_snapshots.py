"""Going back to weights of some steps ago: what is kept, what goes back, and that a cut run does the same."""

import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.detectors.non_finite import NonFinite
from runner.errors import CheckpointError
from runner.records import Action, StepRecord, to_json
from runner.remedies.clip import Clip
from runner.remedies.ladder import Ladder, Rung
from runner.remedies.protocol import Remedy
from runner.remedies.restart import Restart
from runner.remedies.rollback import Rollback
from runner.remedies.skip_update import SkipUpdate
from runner.remedies.stop import Stop
from runner.train.clipping import Clipping, Fixed, Percentile, ZClip
from runner.train.plan import SnapshotPlan
from runner.train.saved import newest
from runner.watch import Watch
from tests.test_rollback import PLAN, Made, Spoilt, momentum, timeless

BAD = ("non_finite",)


class Poisoned(Spoilt):
    """Digits whose loss is nan at some steps."""

    def __init__(self, *poisoned: int, killed_at: int | None = None) -> None:
        super().__init__(killed_at=killed_at)
        self.poisoned = poisoned

    def loss(self, apply: Any, batch: Any, weight: float) -> Any:
        loss = super().loss(apply, batch, weight)
        return loss._replace(total=loss.total * float("nan")) if self.step in self.poisoned else loss


def made(directory: Path, remedy: Remedy, *poisoned: int, killed_at: int | None = None, **options: Any) -> Made:
    """Return a run whose weights are kept every 8 steps, and nan met by a remedy."""
    kept = SnapshotPlan(8, 3, options.pop("keeps_initial", False), options.pop("on_disk", False))
    plan = replace(PLAN, **{"snapshots": kept, **options.pop("plan", {})})
    watch = Watch({"non_finite": NonFinite()}, {"remedy": remedy, "stop": Stop()})
    return Made(directory, task=Poisoned(*poisoned, killed_at=killed_at), plan=plan, watch=watch, **options)


def actions(run: Made) -> list[tuple[str, int, dict[str, float]]]:
    return [(action.type, action.step, dict(action.arguments)) for action in run.of(Action)]


@pytest.mark.parametrize("on_disk", [False, True])
def test_weights_of_some_steps_ago_come_back_with_an_empty_optimizer(tmp_path: Path, on_disk: bool) -> None:
    """An interruption right after the rollback leaves a checkpoint with what the run goes on from."""
    steps = iter(range(1, 61))
    run = made(
        tmp_path,
        Rollback(detectors=BAD),
        30,
        on_disk=on_disk,
        plan={"checkpoint_every": None, "eval_every": None},
        interrupted=lambda: "SIGINT" if next(steps) == 31 else None,
    )
    assert actions(run) == [
        ("Rollback", 30, {"factor": 0.5, "lr_scale": 0.5, "to_step": 16, "rewound_steps": 14}),
    ]
    assert run.state is not None
    assert (run.state.step, run.state.updates_kept, run.state.lr_scale) == (31, 16, 0.5)
    until = iter(range(1, 61))
    short = made(tmp_path / "short", Stop(), interrupted=lambda: "SIGINT" if next(until) == 16 else None)
    for one, other in zip(run.model.state_dict().values(), short.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    saved = torch.load(tmp_path / "checkpoints/last.pt", weights_only=True)
    assert saved["optimizer"]["state"] == {}
    assert list(saved["snapshots"]) == [8, 16], "what came after them is forgotten"
    assert [record.step for record in run.of(StepRecord)] == list(range(31)), "no step twice"


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize(
    "make",
    [lambda: ZClip(warmup=12), ZClip, lambda: Percentile(calibration=12), Percentile],
    ids=["zclip", "zclip in its warmup", "percentile", "percentile in its calibration"],
)
def test_what_clipping_follows_goes_back_with_the_weights(
    tmp_path: Path, make: Callable[[], Clipping], on_disk: bool
) -> None:
    def followed(name: str, remedy: Remedy, *poisoned: int, until: int) -> list[Any]:
        steps, clipping, plan = iter(range(1, 61)), make(), {"checkpoint_every": None, "eval_every": None}
        options: dict[str, Any] = {"on_disk": on_disk, "plan": plan, "clipping": clipping}
        made(tmp_path / name, remedy, *poisoned, interrupted=lambda: "a" if next(steps) == until else None, **options)
        state = clipping.state_dict().values()
        return [torch.as_tensor(value).nan_to_num(-1.0).tolist() for value in state if value is not None]

    assert followed("back", Rollback(detectors=BAD), 30, until=31) == followed("then", Stop(), until=16)


def test_a_norm_that_a_remedy_has_set_does_not_go_back_with_the_weights(tmp_path: Path) -> None:
    clip, clipping, plan = Clip(detectors=BAD, norm=0.5, max_times=1), Fixed(clip_norm=9.0), {"eval_every": None}
    rungs = {"clip": Rung(remedy=clip, attempts=1), "back": Rung(remedy=Rollback(detectors=BAD), attempts=1)}
    run = made(tmp_path, Ladder(rungs=rungs, rest=0), 20, plan=plan, clipping=clipping)
    assert [(action.type, action.step) for action in run.of(Action)] == [("Clip", 20), ("Rollback", 21)]
    assert clipping.most == 0.5


def test_the_ring_keeps_the_latest_and_the_initial_weights_where_they_are_wanted(tmp_path: Path) -> None:
    for keeps_initial, kept in ((False, [40, 48, 56]), (True, [0, 40, 48, 56])):
        made(tmp_path, Stop(), keeps_initial=keeps_initial)
        assert list(torch.load(tmp_path / "checkpoints/last.pt", weights_only=True)["snapshots"]) == kept


def test_files_of_snapshots_go_when_no_checkpoint_names_them(tmp_path: Path) -> None:
    made(tmp_path, Stop(), on_disk=True)
    assert sorted(int(path.stem) for path in tmp_path.glob("snapshots/*")) == [40, 48, 56]


def test_a_ring_on_the_disk_is_no_longer_there_than_in_memory(tmp_path: Path) -> None:
    most = 0

    def count() -> None:
        nonlocal most
        most = max(most, len(list(tmp_path.glob("snapshots/*"))))

    rare = {"checkpoint_every": None, "eval_every": None}
    run = made(tmp_path, Rollback(detectors=BAD), 45, on_disk=True, keeps_initial=True, plan=rare, interrupted=count)
    assert [given["to_step"] for _, _, given in actions(run)] == [32]
    assert most == 4, "three, and the initial weights"


def test_a_full_disk_is_told_as_the_system_says_it(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, before[1]))  # as a full disk: a write fails in the middle
    try:
        with pytest.raises(
            CheckpointError, match=r"snapshots.0\.pt: cannot be written \(File too large\)\. Free some space"
        ):
            made(tmp_path, Rollback(detectors=BAD), on_disk=True, plan={"checkpoint_every": None, "eval_every": None})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.glob("snapshots/*")) == []


def test_a_run_without_such_a_remedy_keeps_nothing(tmp_path: Path) -> None:
    run = made(tmp_path, Stop(), plan={"snapshots": None})
    assert torch.load(tmp_path / "checkpoints/last.pt", weights_only=True)["snapshots"] == {}
    assert run.state is not None
    assert run.state.updates_kept == 60


def test_a_restart_begins_with_the_initial_weights_and_a_rising_rate(tmp_path: Path) -> None:
    run = made(tmp_path, Restart(detectors=BAD, factor=0.1, rewarm=4), 30, keeps_initial=True)
    assert actions(run)[0][2]["to_step"] == 0
    scales = [record.lr_scale for record in run.of(StepRecord)[30:37]]
    assert scales == pytest.approx([1.0, 0.025, 0.05, 0.075, 0.1, 0.1, 0.1])
    losses = [record.loss for record in run.of(StepRecord)]
    assert losses[31] > losses[29] + 1, "as at the beginning"


def test_a_skipped_update_leaves_weights_and_optimizer_alone(tmp_path: Path) -> None:
    run = made(tmp_path, SkipUpdate(detectors=BAD), 30, plan={"checkpoint_every": 1, "eval_every": None})
    assert actions(run) == [("SkipUpdate", 30, {})]
    for step in (30, 31):
        steps = iter(range(1, 61))
        made(
            tmp_path / str(step),
            SkipUpdate(detectors=BAD),
            30,
            interrupted=lambda steps=steps, step=step: "SIGINT" if next(steps) == step else None,
        )
    before, after = (torch.load(tmp_path / f"{n}/checkpoints/last.pt", weights_only=True) for n in (30, 31))
    for name, value in before["model"].items():
        if "running" not in name and "num_batches" not in name:  # the forward pass has seen the batch
            assert torch.equal(value, after["model"][name]), name
    for number, state in before["optimizer"]["state"].items():
        assert torch.equal(state["momentum_buffer"], after["optimizer"]["state"][number]["momentum_buffer"])
    assert run.state is not None
    assert (run.state.status, run.state.updates_kept) == ("finished", 59)


def test_a_clip_holds_from_the_next_step_on(tmp_path: Path) -> None:
    clipping = Fixed()
    watch = Watch({"non_finite": NonFinite()}, {"clip": Clip(detectors=BAD, norm=1e-3), "stop": Stop()})
    plan = replace(PLAN, eval_every=None, checkpoint_every=None)
    run = Made(tmp_path, task=Poisoned(30), watch=watch, plan=plan, clipping=clipping)
    clipped = {record.step: record.clipped for record in run.of(StepRecord)}
    assert clipped[29] is clipped[30] is None
    assert clipped[31] is not None
    assert clipping.state_dict() == {"norm": 1e-3}


LADDER = Ladder(
    rungs={
        "halve": Rung(remedy=Rollback(detectors=BAD, rewarm=3, max_cuts=None), attempts=2),
        "tenth": Rung(remedy=Restart(detectors=BAD, factor=0.1, rewarm=3, max_cuts=None), attempts=1),
        "skip": Rung(remedy=SkipUpdate(detectors=BAD), attempts=2),
    },
    rest=0,
)


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("killed_at", [33, 44, 56])
@pytest.mark.parametrize("optimizer", [momentum, torch.optim.AdamW], ids=["sgd", "adamw"])
def test_a_killed_run_goes_on_to_the_same_end(tmp_path: Path, killed_at: int, on_disk: bool, optimizer: Any) -> None:
    options: dict[str, Any] = {"keeps_initial": True, "on_disk": on_disk, "optimizer": optimizer}
    poisoned = (22, 35, 47, 51)
    plan = {"ema_decay": 0.9}
    whole = made(tmp_path / "whole", LADDER, *poisoned, plan=plan, **options)
    assert [(a.remedy, a.step) for a in whole.of(Action)] == [
        ("remedy/halve", 22), ("remedy/halve", 35), ("remedy/tenth", 47), ("remedy/skip", 51),
    ]  # fmt: skip
    killed = made(tmp_path / "cut", LADDER, *poisoned, killed_at=killed_at, plan=plan, **options)
    assert killed.state is None
    source = newest(tmp_path / "cut/checkpoints")
    begin = torch.load(source, weights_only=True)["state"]["step"]
    rest = made(tmp_path / "cut", LADDER, *poisoned, plan=plan, source=source, **options)
    later, again = ([to_json(r) for r in timeless(run.records) if r.step > begin] for run in (whole, rest))
    assert again == later
    for one, other in zip(whole.model.state_dict().values(), rest.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_an_estimated_step_size_goes_back_with_the_weights(tmp_path: Path) -> None:
    prodigy = pytest.importorskip("prodigyopt").Prodigy
    run = made(
        tmp_path,
        Rollback(detectors=BAD),
        45,
        optimizer=lambda groups, lr: prodigy([{**group, "initial_lr": 1.0} for group in groups], lr=1.0),
    )
    estimates = {record.step: record.lr / record.lr_scale for record in run.of(StepRecord)}
    [(_, step, given)] = actions(run)
    assert estimates[step + 1] == pytest.approx(estimates[int(given["to_step"])])
    assert estimates[step + 1] > 10 * estimates[0]
