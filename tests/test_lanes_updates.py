"""Memory that runs out in an update: the first one, where the state of the optimizer is made, or a later one."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakSet

import pytest
import torch

from runner.build import Experiment, build
from runner.job import checked
from runner.lanes.engine import fit_lanes
from runner.lanes.lane import Lane
from runner.records import Record
from runner.train.checkpoint import Checkpoints
from runner.train.seeding import seed_everything
from tests.lanes import alone, told
from tests.pages import composed
from tests.test_lanes_failures import LRS, POINTS


class Hungry(torch.optim.SGD):
    """Finds room for the states of so many at once, and some of it for one more."""

    room: ClassVar[int] = 100
    fed: ClassVar[WeakSet[torch.optim.Optimizer]] = WeakSet()

    def step(self, closure: Any = None) -> Any:
        return self.feed(self, super().step)

    @classmethod
    def feed(cls, optimizer: torch.optim.Optimizer, step: Callable[[], Any]) -> Any:
        if optimizer not in cls.fed and len(cls.fed) >= cls.room:
            step()
            raise torch.OutOfMemoryError("CUDA out of memory.")
        cls.fed.add(optimizer)
        return step()


HUNGRY = "optimizer._target_=tests.test_lanes_updates.Hungry"


@pytest.fixture
def food(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def set_room(room: int) -> None:
        monkeypatch.setattr(Hungry, "room", room)
        monkeypatch.setattr(Hungry, "fed", WeakSet())

    return set_room


def made_hungry(*words: str, runs: int = 5) -> Iterator[Experiment]:
    """Make experiments when there is a place for them; their optimizers find no room beside too many."""
    for lr in LRS[:runs]:
        model = "BatchNormed" if HUNGRY in words else "Net"  # by Adam, a bias before BatchNorm follows the last digit
        page = (*POINTS, f"++task.model._target_=tests.own_parts.{model}", "train.duration=5", "train.eval_every=1")
        experiment = build(checked(composed(*page, *words, f"optimizer.lr={lr}")))
        if HUNGRY not in words:
            optimizer = experiment.optimizer
            optimizer.step = partial(Hungry.feed, optimizer, partial(type(optimizer).step, optimizer))  # type: ignore
        yield experiment


@pytest.mark.parametrize("words", [(HUNGRY,), ("optimizer=adamw",), ("optimizer=schedulefree_adamw",)])
def test_lanes_whose_state_finds_no_room_wait_and_all_come_to_their_end(
    tmp_path: Path, food: Callable[[int], None], words: tuple[str, ...]
) -> None:
    food(100)
    singles = [alone(each, tmp_path / f"s{i}") for i, each in enumerate(made_hungry(*words))]
    food(2)
    records: list[list[Record]] = [[] for _ in LRS]
    models, widths = list[Any](), list[int]()

    def lanes() -> Iterator[Lane]:
        for index, experiment in enumerate(made_hungry(*words)):
            models.append(experiment.model)
            seed_everything(0)
            yield Lane(experiment.parts(), Checkpoints(tmp_path / str(index)), records[index].append)

    outcomes = fit_lanes(lanes(), width=5, on_narrow=widths.append)
    assert [getattr(outcome, "status", outcome) for outcome in outcomes] == ["finished"] * 5
    assert widths[0] == 2
    for single, model, those in zip(singles, models, records, strict=True):
        words_, numbers = told(single.records)
        assert told(those)[0] == words_
        assert told(those)[1] == pytest.approx(numbers, rel=1e-4, abs=1e-6)
        for one, other in zip(single.experiment.model.parameters(), model.parameters(), strict=True):
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def hungry_lanes(tmp_path: Path, runs: int) -> list[Any]:
    lanes = (
        Lane(each.parts(), Checkpoints(tmp_path / str(index)), lambda record: None)
        for index, each in enumerate(made_hungry(HUNGRY, runs=runs))
    )
    return fit_lanes(lanes, width=runs)


def test_lanes_whose_state_finds_no_room_alone_say_what_to_do(tmp_path: Path, food: Callable[[int], None]) -> None:
    food(0)
    assert {str(outcome) for outcome in hungry_lanes(tmp_path, runs=3)} == {
        "train.batch_size: must leave memory for a step of one run alone, got OutOfMemoryError: CUDA out of memory."
        " Set train.accumulate=2, which is the same batch in smaller parts, or a smaller batch or model."
    }


def test_a_lane_that_finds_no_room_for_a_later_update_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def feed(cls: type[Hungry], optimizer: torch.optim.Optimizer, step: Callable[[], Any]) -> Any:
        if optimizer.state and optimizer.param_groups[0]["initial_lr"] == LRS[2]:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return step()

    monkeypatch.setattr(Hungry, "feed", classmethod(feed))
    outcomes = hungry_lanes(tmp_path, runs=4)
    assert str(outcomes[2]) == (
        "sweep.lanes: must leave memory for what 4 runs keep, got OutOfMemoryError: CUDA out of memory. "
        "Set sweep.lanes=2."
    )
    assert [getattr(outcome, "status", "failed") for outcome in outcomes] == [*["finished"] * 2, "failed", "finished"]
