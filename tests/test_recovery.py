"""A learning rate that a remedy has cut comes back, and no further than it was."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from runner.records import Action, Alarm, EvalRecord, StepRecord
from runner.remedies.ladder import Ladder, Rung
from runner.remedies.reduce_lr import ReduceLR
from runner.remedies.rollback import Rollback
from runner.train.plan import SnapshotPlan, TrainPlan
from runner.train.saved import newest
from runner.train.state import TrainState
from runner.watch import Watch
from tests.conftest import Program
from tests.test_rollback import Made, Spoilt, timeless

PLAN = TrainPlan(steps=60, checkpoint_every=7, snapshots=SnapshotPlan(every=5))


class Seen(NamedTuple):
    """Nothing to remember."""


class Bell:
    """Rings at given steps."""

    needs: frozenset[str] = frozenset()

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def init(self) -> Seen:
        return Seen()

    def update(self, state: Seen, record: StepRecord | EvalRecord) -> tuple[Seen, Alarm | None]:
        rings = isinstance(record, StepRecord) and record.step in self.steps
        return state, Alarm(record.step, "bell", "warn", {}, "it rings") if rings else None


def reduce(**options: float) -> ReduceLR:
    return ReduceLR(detectors=("bell",), **{"factor": 0.1, "recovery": 10, **options})  # type: ignore[arg-type]


def made(directory: Path, *steps: int, remedies: dict[str, object] | None = None, **options: object) -> Made:
    watch = Watch({"bell": Bell(*steps)}, remedies or {"reduce_lr": reduce()})  # type: ignore[arg-type]
    return Made(directory, watch=watch, **{"task": Spoilt(), "plan": PLAN, **options})  # type: ignore[arg-type]


def scales(run: Made) -> list[float]:
    return [record.lr_scale for record in run.of(StepRecord)]


def test_the_rate_is_cut_and_comes_back_by_the_same_factor_at_every_step(tmp_path: Path) -> None:
    seen = scales(made(tmp_path, 20))
    assert seen[:21] == [1.0] * 21
    assert seen[21] == 0.1
    ratios = [after / before for before, after in itertools.pairwise(seen[21:32])]
    assert ratios == pytest.approx([10**0.1] * 10)
    assert seen[31:] == [1.0] * 29


def test_an_alarm_on_the_way_back_cuts_what_the_rate_is_then_and_leads_back_there(tmp_path: Path) -> None:
    seen = scales(made(tmp_path, 20, 26))
    there = 0.1 * 10**0.5
    assert seen[26] == pytest.approx(there)
    assert seen[27] == pytest.approx(0.1 * there)
    assert max(seen[27:]) == seen[-1] == seen[26]


def test_the_rate_comes_back_from_the_floor(tmp_path: Path) -> None:
    seen = scales(made(tmp_path, 20, remedies={"reduce_lr": reduce(min_scale=0.5)}))
    assert seen[21] == 0.5
    assert seen[-1] == 1.0


def test_on_a_ladder_and_under_a_rollback_it_is_the_last_action_that_counts(tmp_path: Path) -> None:
    rungs = {"cut": Rung(remedy=reduce(), attempts=1), "back": Rung(remedy=Rollback(detectors=("bell",)), attempts=1)}
    run = made(tmp_path, 20, 26, 50, remedies={"ladder": Ladder(rungs=rungs, rest=2)})
    seen = scales(run)
    assert [action.type for action in run.of(Action)] == ["ScaleLR", "Rollback"]
    assert seen[26] == pytest.approx(0.1 * 10**0.5)
    assert seen[27:] == pytest.approx([0.5 * seen[26]] * 33)


@pytest.mark.parametrize("killed_at", [22, 27, 36])
def test_a_killed_run_comes_back_to_the_same_weights(tmp_path: Path, killed_at: int) -> None:
    whole = made(tmp_path / "whole", 20, 25)
    made(tmp_path / "cut", 20, 25, task=Spoilt(killed_at=killed_at))
    source = newest(tmp_path / "cut/checkpoints")
    begin = torch.load(source, weights_only=True)["state"]["step"]
    rest = made(tmp_path / "cut", 20, 25, source=source)
    assert [r for r in timeless(rest.records) if r.step > begin] == [
        r for r in timeless(whole.records) if r.step > begin
    ]
    for one, other in zip(whole.model.state_dict().values(), rest.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("factor", [0.999999, 0.5, 1e-6])
@pytest.mark.parametrize("length", [1, 2, 7, 1000])
def test_the_way_back_rises_and_never_goes_past_its_end(factor: float, length: int) -> None:
    state = TrainState({}, step=5, lr_scale=0.3)
    state.set_lr_scale(0.3 * factor, begin=6, recovery_steps=length)
    seen = []
    for state.step in range(5, 10 + length):
        seen.append(state.lr_scale_now)
    assert seen == sorted(seen)
    assert seen[:2] == [0.3 * factor] * 2
    assert seen[1 + length :] == [0.3] * 4


def test_the_page_takes_a_duration(program: Program) -> None:
    plateau = ["metric=train/loss", "patience=1", "window=5"]
    found = program(
        *(f"detectors.plateau.{text}" for text in plateau),
        *("detector=[default,plateau]", "remedy=[reduce_lr,stop]", "remedies.reduce_lr.recovery=10%"),
        *("task=digits", "optimizer.lr=1e-9", "train.duration=60"),
    )
    assert "back at 1 in 6 steps" in found.out + found.err
