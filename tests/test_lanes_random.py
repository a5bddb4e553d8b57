"""Dropout in lanes, and passes that are recorded and played."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from runner.lanes import recording
from runner.lanes.stack import Stack
from tests.lanes import in_lanes, made


def test_dropout_is_the_same_for_the_same_lanes_and_differs_between_them(tmp_path: Path) -> None:
    def run(name: str) -> list[list[float]]:
        experiments = made(0.02, 0.02, overrides=("task.dropout=0.5",))
        return [lane.losses for lane in in_lanes(experiments, tmp_path / name)]

    one, again = run("a"), run("b")
    assert one == again
    assert one[0][0] != one[1][0]


def test_a_pass_that_is_played_is_the_one_that_was_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(name: str) -> list[list[float]]:
        experiments = made(0.02, 0.05, overrides=("task.dropout=0.5", "train.duration=40"))
        return [lane.losses for lane in in_lanes(experiments, tmp_path / name)]

    monkeypatch.setattr(recording, "EAGER_PASSES", 5)
    played = run("played")
    monkeypatch.setattr(recording, "EAGER_PASSES", 10**9)
    assert run("eager") == played


def test_dropout_drops_its_share_in_every_lane() -> None:
    stack = Stack([nn.Sequential(nn.Dropout(0.3), nn.Flatten()) for _ in range(2)])
    ones = torch.ones(2, 4000, 8)

    def outputs(x: Tensor) -> Tensor:
        with stack.lent({}) as model:
            found: Tensor = model(x)
        return found

    dropped = torch.func.vmap(outputs, randomness="different")(ones) == 0
    for lane in dropped:
        assert float(lane.float().mean()) == pytest.approx(0.3, abs=0.01)
    assert not torch.equal(dropped[0], dropped[1])
