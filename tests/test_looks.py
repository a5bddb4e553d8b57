"""What an alarm changes where it is late: at an evaluation, in a window that is cut short, at the last step."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.records import Action, Alarm, EvalRecord, Severity, StepRecord
from runner.remedies.branch_probe import BranchProbe
from runner.remedies.reduce_lr import ReduceLR
from runner.remedies.restart import Restart
from runner.remedies.restore_best import RestoreBest
from runner.remedies.rewarm import Rewarm
from runner.remedies.rollback import Rollback
from runner.remedies.stop import Stop
from runner.train.meters import Moment
from runner.train.plan import SnapshotPlan, TrainPlan
from runner.train.saved import newest
from runner.watch import Watch
from tests.test_rollback import Made, Spoilt, timeless

PLAN = TrainPlan(steps=30, eval_every=5, snapshots=SnapshotPlan(every=4, keep=3))


class Bell:
    """Rings at one record."""

    needs: frozenset[str] = frozenset()

    def __init__(self, at: int, kind: type[Any] = StepRecord, severity: Severity = "warn") -> None:
        self.at, self.kind, self.severity = at, kind, severity

    def init(self) -> tuple[()]:
        return ()

    def update(self, state: tuple[()], record: StepRecord | EvalRecord) -> tuple[tuple[()], Alarm | None]:
        rings = isinstance(record, self.kind) and record.step == self.at
        return state, Alarm(record.step, "bell", self.severity, {}, "it rings") if rings else None


def made(directory: Path, bell: Bell, remedy: Any, *, killed_at: int | None = None, **options: Any) -> Made:
    watch = Watch({"bell": bell}, {"remedy": remedy})
    plan = replace(PLAN, **options.pop("plan", {}))
    return Made(directory, task=Spoilt(killed_at=killed_at), plan=plan, watch=watch, **options)


def interrupted_at(step: int) -> Callable[[], str | None]:
    asked = count(1)
    return lambda: "SIGINT" if next(asked) == step else None


def back(**options: Any) -> Rollback:
    return Rollback(detectors=("bell",), **options)


def test_best_weights_are_those_that_were_evaluated_though_the_run_goes_back(tmp_path: Path) -> None:
    whole = made(tmp_path, Bell(15, EvalRecord), back(), plan={"steps": 17}, killed_at=16)
    assert [(record.step, record.best) for record in whole.of(EvalRecord)] == [(5, True), (10, True), (15, True)]
    assert [(action.type, action.step) for action in whole.of(Action)] == [("Rollback", 15)]
    until = made(tmp_path / "until", Bell(99), back(), interrupted=interrupted_at(15))
    best = torch.load(tmp_path / "checkpoints/best.pt", weights_only=True)
    assert (best["state"]["step"], best["state"]["updates_kept"]) == (15, 15)
    assert all(torch.equal(value, best["model"][name]) for name, value in until.model.state_dict().items())


def test_a_run_that_is_killed_after_it_went_back_from_its_best_goes_on_to_the_same_end(tmp_path: Path) -> None:
    whole = made(tmp_path / "whole", Bell(15, EvalRecord), back())
    made(tmp_path / "cut", Bell(15, EvalRecord), back(), killed_at=17)
    rest = made(tmp_path / "cut", Bell(15, EvalRecord), back(), source=newest(tmp_path / "cut/checkpoints"))
    assert timeless(rest.of(StepRecord)) == timeless(whole.of(StepRecord))[15:]
    for one, other in zip(whole.model.state_dict().values(), rest.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_a_warmup_that_is_asked_for_in_a_window_that_is_cut_short_begins_with_the_next_step(tmp_path: Path) -> None:
    plan, remedy = {"watch_every": 8, "eval_every": None, "snapshots": None}, Rewarm(detectors=("bell",), duration=5)
    cut = made(tmp_path, Bell(12), remedy, plan=plan, interrupted=interrupted_at(14))
    assert [action.type for action in cut.of(Action)] == ["Rewarm"]
    rest = made(tmp_path, Bell(12), remedy, plan=plan, source=newest(tmp_path / "checkpoints"))
    assert [record.lr_scale for record in rest.of(StepRecord)][:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_a_stop_that_is_found_in_a_window_that_is_cut_short_ends_the_run(tmp_path: Path) -> None:
    plan = {"watch_every": 8, "eval_every": None, "snapshots": None}
    cut = made(tmp_path, Bell(12, severity="stop"), Stop(), plan=plan, interrupted=interrupted_at(14))
    assert cut.state is not None
    assert (cut.state.status, cut.state.verdict) == ("diverged", "diverged: it rings")
    assert [action.type for action in cut.of(Action)] == ["Stop"]


class Updates:
    """Tells of every update."""

    name = "updates"

    def before(self, moment: Moment) -> Mapping[str, float]:
        return {}

    def after(self, moment: Moment) -> Mapping[str, float]:
        return {"prev_update_norm": 1.0}

    def forget(self) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


def test_after_a_rollback_from_an_evaluation_no_update_is_the_latest(tmp_path: Path) -> None:
    run = made(tmp_path, Bell(15, EvalRecord), back(), meters=[Updates()])
    without = [record.step for record in run.of(StepRecord) if record.prev_update_norm is None]
    assert without == [0, 15]


def test_no_updates_are_lost_where_the_best_weights_are_of_before_a_restart(tmp_path: Path) -> None:
    remedies = {"restart": Restart(detectors=("one",)), "best": RestoreBest(detectors=("two",))}
    watch = Watch({"one": Bell(20), "two": Bell(22)}, remedies)
    plan = replace(PLAN, snapshots=SnapshotPlan(every=None, keeps_initial=True))
    run = Made(tmp_path, task=Spoilt(), plan=plan, watch=watch)
    found = [(action.arguments["to_step"], action.arguments["rewound_steps"]) for action in run.of(Action)]
    assert found == [(0, 20), (20, 0)]


@pytest.mark.parametrize("remedy", [ReduceLR(detectors=("bell",)), Rewarm(detectors=("bell",))], ids=["cut", "rewarm"])
def test_the_last_step_changes_no_learning_rate(tmp_path: Path, remedy: Any) -> None:
    run = made(tmp_path, Bell(29), remedy)
    assert run.state is not None
    assert (run.of(Action), run.state.lr_scale) == ([], 1.0)


def test_the_update_of_the_last_step_is_dropped_all_the_same(tmp_path: Path) -> None:
    run = made(tmp_path, Bell(29), back())
    assert run.state is not None
    assert ([action.type for action in run.of(Action)], run.state.updates_kept) == (["Rollback"], 24)


@pytest.mark.parametrize(("at", "kind"), [(29, StepRecord), (30, EvalRecord)], ids=["step", "evaluation"])
def test_a_probe_that_is_due_at_the_end_says_why_it_is_not_made(tmp_path: Path, at: int, kind: type[Any]) -> None:
    run = made(tmp_path, Bell(at, kind), BranchProbe(detectors=("bell",), begin="here"))
    assert [action.message for action in run.of(Action)] == ["no probe: no step is left"]
    assert run.state is not None
    assert run.state.owed is None


@pytest.mark.parametrize(
    ("watch_every", "every", "due"),
    [
        (1, 20, [0, 20, 40]),
        (10, 20, [19, 39, 59]),
        (7, 20, [13, 27, 41, 55]),
        (3, 20, [17, 35, 53]),
        (50, 20, [49]),
    ],
)
def test_signals_are_measured_where_the_host_looks_anyway(watch_every: int, every: int, due: list[int]) -> None:
    plan = TrainPlan(steps=60, watch_every=watch_every)
    assert [step for step in range(60) if plan.measures_at(step, every)] == due
    assert watch_every == 1 or all(map(plan.looks_at, due))
    long = [step for step in range(3000) if plan.measures_at(step, every)]
    rare = [step for step in range(3000) if plan.measures_at(step, every, times=5)]
    assert rare == (long[::5] if watch_every == 1 else long[4::5])
