"""The branch probe: who wins, what goes on, and that nothing changes when the running learning rate wins."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.detectors.milestone import Milestone
from runner.records import Action, Alarm, StepRecord
from runner.remedies.branch_probe import BranchProbe
from runner.train.branches import Branch, Copy, Stretch, compare, duplicate, grow
from runner.train.clipping import Fixed
from runner.train.plan import SnapshotPlan
from runner.train.saved import newest
from runner.train.signals import GradientCosines
from runner.watch import Watch
from tests.conftest import Program
from tests.test_resume import same, steps, weights
from tests.test_rollback import PLAN, Made, Spoilt, momentum, timeless


def adamw(groups: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=lr, fused=True)


STRETCH = Stretch(begin=0, steps=4, warmup=2, repeats=2, judged=2)
LOST = (math.inf, math.inf)


@pytest.mark.parametrize(
    ("scores", "expected", "is_open"),
    [
        ([(3.0, 3.1), (1.5, 1.6), (2.5, 2.6)], 1, False),
        ([(3.0, 3.1), (2.9, 3.1), (3.5, 3.5)], 0, True),
        ([(3.0, 3.1), (2.5, 2.5), (3.5, 3.5)], 0, True),
        ([(3.0, 3.1), (1.5, 3.5), (2.8, 2.95)], 0, True),
        ([(3.0, 3.1), (3.2, 3.1), (3.5, 3.5)], 0, False),
        ([(0.2, 0.9), (0.1, 0.11), (0.3, 0.31)], 1, False),
        ([LOST, (2.9, 3.1), (2.4, 3.3)], 2, False),
        ([(0.2, math.nan), (2.9, 3.1), (2.4, 3.3)], 2, False),
        ([(3.0, 3.1), (0.1, math.inf), (3.5, 3.5)], 0, False),
        ([LOST, LOST, LOST], 0, False),
        ([(0.0, -3.0), (-5.0, -5.1), (-4.0, -4.1)], 1, False),
    ],
    ids=[
        "lowest", "within the noise", "two that agree by chance", "the best scatters", "running is best",
        "only the running one scatters", "running is lost", "running is lost once", "another is lost once",
        "all are lost", "negative losses",
    ],
)  # fmt: skip
def test_the_running_rate_stays_unless_it_is_clearly_beaten(
    scores: Sequence[tuple[float, ...]], expected: int, is_open: bool
) -> None:
    branches = [Branch(factor, 4, found) for factor, found in zip((1.0, 0.3, 0.1), scores, strict=True)]
    assert compare(branches, sd=2.0) == (branches[expected], is_open)


def test_a_branch_rises_and_falls_to_zero() -> None:
    assert [STRETCH.factor(k) for k in range(4)] == [0.5, 0.75, 0.5, 0.25]
    assert [STRETCH._replace(warmup=0).factor(k) for k in range(4)] == [1.0, 0.75, 0.5, 0.25]


HIGH = {"here": 3.0, "initial": 30.0}
"""a learning rate that a lower one beats, by where the branches begin"""


def probed(
    directory: Path, *, lr: float, killed_at: int | None = None, optimizer: Any = momentum, **options: Any
) -> Made:
    """Return a run with a probe at step 15; `probe` of the options are its arguments, None leaves it out."""
    given = options.pop("probe", {})
    usual = {"stretch": 20, "factors": (1 / 30, 1 / 100), "begin": "here", "faster": 1.0, "rewarm": 0}
    remedy = BranchProbe(**{**usual, **given}) if given is not None else None
    watch = Watch({"probe_due": Milestone(at=15)}, {"probe": remedy} if remedy is not None else {})
    kept = SnapshotPlan(None, keeps_initial=True) if "initial" in watch.keeps else None
    plan = replace(PLAN, **{"snapshots": kept, **options.pop("plan", {})})
    task = options.pop("task", None) or Spoilt(killed_at=killed_at)
    return Made(directory, task=task, watch=watch, plan=plan, lr=lr, optimizer=optimizer, **options)


@pytest.mark.parametrize("probe", [{}, {"begin": "initial", "go_on": "branch"}], ids=["here", "initial"])
@pytest.mark.parametrize("watch_every", [1, 4])
@pytest.mark.parametrize("optimizer", [momentum, adamw])
def test_nothing_changes_when_the_running_rate_wins(
    tmp_path: Path, probe: dict[str, Any], watch_every: int, optimizer: Any
) -> None:
    plan = {"watch_every": watch_every, "ema_decay": 0.9}
    lr = 0.1 if optimizer is momentum else 0.01
    with_probe = probed(tmp_path / "with", lr=lr, probe=probe, plan=plan, optimizer=optimizer)
    without = probed(tmp_path / "without", lr=lr, probe=None, plan=plan, optimizer=optimizer)
    [action] = with_probe.of(Action)
    assert (action.type, action.arguments["extra_steps"]) == ("Probe", 120)
    assert "lr_scale" not in action.arguments
    assert action.message is not None
    assert action.message.endswith("; the learning rate stays")
    assert timeless(with_probe.of(StepRecord)) == timeless(without.of(StepRecord))
    for one, other in zip(with_probe.model.state_dict().values(), without.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("probe", "rewound", "kept"),
    [
        ({}, 0, 60),
        ({"begin": "initial", "rewarm": 4}, 16, 44),
        ({"go_on": "branch"}, 0, 80),
        ({"begin": "initial", "go_on": "branch"}, 0, 64),
    ],
    ids=["here", "initial", "branch from here", "branch from the initial weights"],
)
def test_a_lower_rate_that_wins_goes_on(tmp_path: Path, probe: dict[str, Any], rewound: int, kept: int) -> None:
    run = probed(tmp_path, lr=HIGH[probe.get("begin", "here")], probe=probe)
    [action] = run.of(Action)
    assert action.arguments["factor"] in (1 / 30, 1 / 100)
    assert action.arguments["rewound_steps"] == rewound
    assert run.state is not None
    assert (run.state.updates_kept, run.state.lr_scale) == (kept, action.arguments["lr_scale"])
    scales = [record.lr_scale for record in run.of(StepRecord)]
    assert (scales[15], scales[-1]) == (1.0, action.arguments["factor"])
    if probe.get("rewarm"):
        assert scales[16:20] == pytest.approx([action.arguments["factor"] * share for share in (0.25, 0.5, 0.75, 1)])
    assert run.of(StepRecord)[-1].loss < 0.5 * run.of(StepRecord)[14].loss


@pytest.mark.parametrize("begin", ["here", "initial"])
@pytest.mark.parametrize("killed_at", [18, 45])
def test_a_killed_run_goes_on_to_the_same_end(tmp_path: Path, begin: str, killed_at: int) -> None:
    """The batch of step 18 is asked for by the branches first, so the run is killed within its probe."""
    options: dict[str, Any] = {"lr": HIGH[begin], "probe": {"begin": begin}, "plan": {"checkpoint_every": 10}}
    whole = probed(tmp_path / "whole", **options)
    assert "lr_scale" in whole.of(Action)[0].arguments
    assert probed(tmp_path / "cut", killed_at=killed_at, **options).state is None
    source = newest(tmp_path / "cut/checkpoints")
    begun = torch.load(source, weights_only=True)["state"]["step"]
    rest = probed(tmp_path / "cut", source=source, **options)
    later = [record for record in timeless(whole.records) if record.step > begun]
    assert [record for record in timeless(rest.records) if record.step > begun] == later
    for one, other in zip(whole.model.state_dict().values(), rest.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("begin", ["here", "initial"])
@pytest.mark.parametrize("watch_every", [1, 4])
def test_a_run_that_is_interrupted_in_its_probe_makes_it_again(tmp_path: Path, begin: str, watch_every: int) -> None:
    options: dict[str, Any] = {"lr": HIGH[begin], "probe": {"begin": begin}, "plan": {"watch_every": watch_every}}
    whole = probed(tmp_path / "whole", **options)
    asked = count(1)
    cut = probed(tmp_path / "cut", interrupted=lambda: "SIGINT" if next(asked) > 30 else None, **options)
    assert cut.state is not None
    assert (cut.state.status, cut.state.step, cut.of(Action)) == ("interrupted", 16, [])
    rest = probed(tmp_path / "cut", source=newest(tmp_path / "cut/checkpoints"), **options)
    assert timeless(cut.records) + timeless(rest.records) == timeless(whole.records)
    for one, other in zip(whole.model.state_dict().values(), rest.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_a_run_that_goes_on_without_the_probe_does_not_make_it(tmp_path: Path) -> None:
    asked = count(1)
    probed(tmp_path, lr=3.0, interrupted=lambda: "SIGINT" if next(asked) > 30 else None)
    rest = probed(tmp_path, lr=3.0, probe=None, source=newest(tmp_path / "checkpoints"))
    assert not rest.of(Action)


@pytest.mark.parametrize("is_owed", [False, True])
def test_a_run_without_its_initial_weights_goes_on_without_the_probe(tmp_path: Path, is_owed: bool) -> None:
    """It was trained without remedies until before the probe; or it was within it, and keeps no weights any more."""
    begin, asked = {"begin": "initial"}, count(1)
    until = 30 if is_owed else 10
    probe = begin if is_owed else None
    cut = probed(tmp_path, lr=3.0, probe=probe, interrupted=lambda: "SIGINT" if next(asked) > until else None)
    assert cut.state is not None
    assert (cut.state.owed is not None) == is_owed
    plan = {"snapshots": None} if is_owed else {}
    rest = probed(tmp_path, lr=3.0, probe=begin, plan=plan, source=newest(tmp_path / "checkpoints"))
    assert rest.state is not None
    assert (rest.state.status, rest.of(Action)) == ("finished", [])


class Weightless(Spoilt):
    """Digits with val batches that weigh nothing: the first ones."""

    def __init__(self, empty: int) -> None:
        super().__init__()
        self.empty, self.index = empty, 0

    def batch(self, step: int, split: str, part: tuple[int, int] = (0, 1)) -> Any:
        self.index = step if split == "val" else self.empty
        return super().batch(step, split, part)

    def weight(self, batch: Any) -> float:
        return super().weight(batch) if self.index >= self.empty else 0.0


@pytest.mark.parametrize(("empty", "is_told"), [(1, True), (1000, False)])
def test_val_batches_that_weigh_nothing_do_not_count(tmp_path: Path, empty: int, is_told: bool) -> None:
    [action] = probed(tmp_path, lr=0.1, task=Weightless(empty)).of(Action)
    assert math.isfinite(action.arguments["score_1"]) == is_told


@pytest.mark.parametrize("keeps_ends", [False, True])
def test_branches_keep_where_they_ended_only_for_a_run_that_goes_on_there(keeps_ends: bool) -> None:
    task = Spoilt()
    model = task.model()
    optimizer = momentum([{"params": list(model.parameters()), "name": "all", "initial_lr": 0.1}], lr=0.1)
    copy = Copy(model, optimizer, torch.amp.GradScaler("cpu", enabled=False), Fixed())
    branches = grow(
        copy, (1.0, 0.1), task, {("all", "lr"): lambda step: 1.0}, PLAN,
        stretch=STRETCH, lr_scale=1.0, sd=2.0, keeps_ends=keeps_ends,
    )  # fmt: skip
    assert branches is not None
    assert [branch.end is not None for branch in branches] == [keeps_ends] * 2


def test_updates_that_the_scaler_drops_while_it_looks_for_its_scale_are_not_those_of_a_branch() -> None:
    task, plan = Spoilt(), replace(PLAN, precision="fp16")
    model = task.model()
    optimizer = momentum([{"params": list(model.parameters()), "name": "all", "initial_lr": 0.1}], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**50)
    found = grow(
        Copy(model, optimizer, scaler, Fixed()), (1.0, 0.1), task, {("all", "lr"): lambda step: 1.0}, plan,
        stretch=STRETCH._replace(steps=12), lr_scale=1.0, sd=2.0,
    )  # fmt: skip
    assert found is not None
    assert found[0].score < 0.9 * found[1].score
    assert scaler.get_scale() == 2.0**50, "the run's own scaler is left alone"


INTERRUPTED = """
import os, pathlib, signal
from runner.tasks.digits import Digits

class Rings(Digits):
    def batch(self, step, split, part=(0, 1)):
        if split == "train" and step == 20 and not pathlib.Path("has_rung").exists():
            pathlib.Path("has_rung").touch()
            os.kill(os.getpid(), signal.SIGINT)
        return super().batch(step, split, part)
"""


@pytest.mark.slow
def test_ctrl_c_in_a_probe_saves_the_run_as_it_was_before(program: Program, tmp_path: Path) -> None:
    """The batch of step 20 is first asked for by a branch."""
    (tmp_path / "parts.py").write_text(INTERRUPTED)
    declared = [
        "task._target_=parts.Rings", "task.hidden=[16]", "task.dropout=0.2", "train.duration=60", "optimizer.lr=30",
        "remedy=[probe,heal]", "detectors.probe_due.at=10", "remedies.probe.stretch=30", "remedies.probe.faster=1",
    ]  # fmt: skip
    cut = program(*declared, spawn=True)
    assert cut.code == 130, cut.err
    assert "interrupted by SIGINT at step 11, in a probe that the run makes again when it goes on\n" in cut.out
    assert f"go on with: python -m runner resume.from={cut.out.split()[-1]}\n" in cut.out
    before = json.loads((cut.run / "result.json").read_text())
    assert (before["status"], before["steps"]) == ("interrupted", 11)
    rest = program(f"resume.from={cut.run}")
    assert rest.code == 0, rest.err
    whole = program(*declared)
    assert steps(rest.run) == steps(whole.run)
    assert any(record["kind"] == "action" for record in steps(whole.run))
    assert same(weights(rest.run)["model"], weights(whole.run)["model"])


def test_where_every_branch_is_lost_the_rate_stays(tmp_path: Path) -> None:
    run = probed(tmp_path, lr=1e12, probe={"factors": (0.5,), "begin": "initial"})
    [action] = run.of(Action)
    assert (action.arguments["score_1"], action.arguments["score_0.5"]) == (math.inf, math.inf)
    assert "lr_scale" not in action.arguments


def test_a_probe_that_replaces_the_weights_leaves_no_gradient_to_compare_with(tmp_path: Path) -> None:
    run = probed(tmp_path, lr=HIGH["initial"], probe={"begin": "initial"}, meters=[GradientCosines(1)])
    assert "factor" in run.of(Action)[0].arguments
    assert [r.step for r in run.of(StepRecord) if "grad_cosine" not in (r.signals or {})] == [0, 16]


def test_the_cue_of_a_probe_is_no_alarm(tmp_path: Path) -> None:
    run = probed(tmp_path, lr=0.1)
    [action] = run.of(Action)
    assert run.state is not None
    assert (action.cause, run.of(Alarm), run.state.alarms) == (("probe_due", 15), [], 0)


def test_a_probe_needs_room(tmp_path: Path) -> None:
    run = probed(tmp_path, lr=3.0, plan={"steps": 25})
    [action] = run.of(Action)
    assert action.message == "no probe: branches of 9 steps say nothing"


def test_a_copy_of_an_optimizer_keeps_the_arguments_that_its_class_keeps_for_itself() -> None:
    """torch copies state and groups only; Lion of pytorch_optimizer reads `self.maximize` at every step."""

    class Signs(torch.optim.SGD):
        def __init__(self, *args: Any, sign: float, **settings: Any) -> None:
            super().__init__(*args, **settings)
            self.sign, self.first = sign, self.param_groups[0]["params"][0]

    model = torch.nn.Linear(3, 2)
    copy = Copy(
        model, Signs(model.parameters(), lr=0.1, sign=-1.0), torch.amp.GradScaler("cpu", enabled=False), Fixed()
    )
    twin = duplicate(copy)
    assert isinstance(twin.optimizer, Signs)
    assert twin.optimizer.sign == -1.0
    assert twin.optimizer.first is twin.model.weight is not model.weight
