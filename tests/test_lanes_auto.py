"""Whether runs are made in lanes is measured, and anew where that does not tell for as many as there are."""

from typing import Any, ClassVar
from weakref import WeakSet

import pytest
import torch

from runner.config import Config
from runner.job import checked
from runner.tasks.quadratic import Quadratic
from runner.trials.auto import Auto, Known
from runner.trials.beside import Beside
from runner.trials.choose import Choice, choose
from tests.lanes import SMALL
from tests.pages import composed
from tests.test_lanes_failures import Crowded
from tests.test_lanes_updates import Hungry


class Big(Quadratic):
    """Has room for so many of its kind."""

    room: ClassVar[int]
    there: ClassVar[list[object]]

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        if len(self.there) == self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.there.append(self)


class Growing(torch.optim.SGD):
    """Finds room for so many at its second update."""

    room: ClassVar[int]
    fed: ClassVar[WeakSet[torch.optim.Optimizer]] = WeakSet()

    def step(self, closure: Any = None) -> Any:
        if self in self.fed and len(self.fed) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.fed.add(self)
        return super().step(closure)


def pages(*overrides: str, runs: int = 4) -> list[Config]:
    return [checked(composed(*overrides, f"seed={seed}")) for seed in range(runs)]


def crowded() -> list[Config]:
    words = ("task=supervised", "++task.train._target_=tests.own_parts.Points")
    return pages(*words, "++task.model._target_=tests.test_lanes_failures.Crowded")


@pytest.mark.parametrize("most", [3, 2])
def test_auto_halves_what_finds_no_room(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(Crowded, "most", most)
    monkeypatch.setattr(Crowded, "error", MemoryError("no room"), raising=False)
    choice = choose(crowded(), width=32)
    assert choice.width == 2
    assert "a step of 2 runs" in choice.why


@pytest.mark.parametrize("room", [3, 2])
def test_auto_tries_as_many_as_can_be_built(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    monkeypatch.setattr(Big, "room", room, raising=False)
    monkeypatch.setattr(Big, "there", [], raising=False)
    choice = choose(pages("task=quadratic", "task._target_=tests.test_lanes_auto.Big"), width=32)
    assert choice.width == room
    assert f"a step of {room} runs" in choice.why


def test_auto_takes_no_lanes_where_two_find_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Crowded, "most", 1)
    monkeypatch.setattr(Crowded, "error", MemoryError("no room"), raising=False)
    assert choose(crowded(), width=32).why == (
        "one after another, as lanes cannot be: train.batch_size: must leave memory for two runs at once, got "
        "MemoryError: no room"
    )
    monkeypatch.setattr(Big, "room", 1, raising=False)
    monkeypatch.setattr(Big, "there", [], raising=False)
    words = ("task=quadratic", "task._target_=tests.test_lanes_auto.Big")
    assert choose(pages(*words), width=32).why == "one after another, as memory has no room for two of them"


@pytest.mark.parametrize(("optimizer", "room"), [("updates.Hungry", 3), ("updates.Hungry", 2), ("auto.Growing", 2)])
def test_auto_tries_as_many_as_have_room_for_their_updates(
    monkeypatch: pytest.MonkeyPatch, optimizer: str, room: int
) -> None:
    for kind in (Hungry, Growing):
        monkeypatch.setattr(kind, "room", room, raising=False)
        monkeypatch.setattr(kind, "fed", WeakSet())
    choice = choose(pages("task=quadratic", f"optimizer._target_=tests.test_lanes_{optimizer}"), width=4)
    assert choice.width == room
    assert f"a step of {room} runs" in choice.why


@pytest.mark.parametrize(
    ("room", "why"),
    [(1, "memory has no room for two of them"), (0, "a trial of one run failed: OutOfMemoryError: CUDA out of memory")],
)
def test_auto_takes_no_lanes_where_two_find_no_room_for_their_updates(
    monkeypatch: pytest.MonkeyPatch, room: int, why: str
) -> None:
    monkeypatch.setattr(Hungry, "room", room)
    monkeypatch.setattr(Hungry, "fed", WeakSet())
    choice = choose(pages("task=quadratic", "optimizer._target_=tests.test_lanes_updates.Hungry"), width=4)
    assert choice.why.startswith(f"one after another, as {why}")


def test_a_trial_ends_where_its_first_run_does_so_before() -> None:
    configs = pages("task=quadratic", "optimizer.lr=1e30", runs=1) + pages("task=quadratic", runs=3)
    assert "a step of 4 runs" in choose(configs, width=4).why


def test_auto_runs_one_after_another_what_fails_in_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Crowded, "most", 0)
    monkeypatch.setattr(Crowded, "error", OSError("no disk"), raising=False)
    choice = choose(crowded(), width=32)
    assert not choice.is_lanes
    assert "OSError: no disk" in choice.why


def test_what_is_known_of_some_runs_is_asked_anew_where_it_does_not_tell() -> None:
    known, no, yes = Known(width=32), Choice(False, "", 32), Choice(True, "", 32)
    assert [known.tells(runs) for runs in (1, 2)] == [False, None]
    known.learn(3, no)
    assert [known.tells(runs) for runs in (2, 3, 4, 40)] == [False, False, None, None]
    known.learn(40, yes)
    assert [known.tells(runs) for runs in (3, 4, 31, 32, 100)] == [False, None, None, True, True]
    known.learn(10, yes._replace(width=5))
    assert (known.width, [known.tells(runs) for runs in (3, 4, 5, 20)]) == (5, [False, None, True, True])
    known.learn(4, no._replace(is_for_any=True))
    assert [known.tells(runs) for runs in (4, 20)] == [False, True]


def test_auto_says_once_why_a_kind_of_run_cannot_be_lanes(capsys: pytest.CaptureFixture[str]) -> None:
    auto = Auto(32, Beside(pages()[0].tracking), quiet=False)
    for runs in (2, 4):
        auto.prepare(pages(*SMALL, "train.watch_every=2", runs=runs))
    assert capsys.readouterr().out.count("sweep.backend: one after another, as lanes cannot be: train.watch_every") == 1
