"""What breaks one of many trainings in a pass, and what then becomes of the others."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from runner.build import Experiment, build
from runner.errors import CheckpointError, TaskError
from runner.job import checked
from runner.lanes.engine import fit_lanes
from runner.lanes.lane import Lane
from runner.records import Record, StepRecord
from runner.train.checkpoint import Checkpoints
from tests.lanes import alone, farthest, in_lanes, made
from tests.own_parts import BatchNormed
from tests.pages import composed

POINTS = ["task=supervised", "++task.train._target_=tests.own_parts.Points", "train.eval_every=10"]
LRS = (0.01, 0.02, 0.03, 0.05, 0.1)
CPU_IS_FULL = "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"


def test_what_a_lane_raises_ends_that_lane_alone(tmp_path: Path) -> None:
    def broken(record: Record) -> None:
        if isinstance(record, StepRecord) and record.step == 7:
            raise OSError("no space")

    seen: list[Record] = []
    experiments = made(0.01, 0.02, 0.03)
    lanes = [
        Lane(e.parts(), Checkpoints(tmp_path / str(i)), [seen.append, broken, lambda record: None][i])
        for i, e in enumerate(experiments)
    ]
    first, second, third = fit_lanes(lanes, width=3)
    assert isinstance(second, OSError)
    assert not isinstance(first, Exception)
    assert not isinstance(third, Exception)
    assert (first.status, third.status, len([r for r in seen if isinstance(r, StepRecord)])) == (
        "finished",
        "finished",
        30,
    )


def test_a_checkpoint_that_cannot_be_loaded_is_that_lanes_outcome(tmp_path: Path) -> None:
    experiments = made(0.01, 0.02)
    sources = [None, tmp_path / "nothing.pt"]
    lanes = [
        Lane(e.parts(), Checkpoints(tmp_path / str(i), source=sources[i]), lambda record: None)
        for i, e in enumerate(experiments)
    ]
    first, second = fit_lanes(lanes, width=2)
    assert not isinstance(first, Exception)
    assert isinstance(second, CheckpointError)


class _Room(torch.autograd.Function):
    """Gives its tensor on, where no more lanes have one than there is room for."""

    @staticmethod
    def forward(x: Tensor, is_training: bool) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, None]:
        return grads[0], None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], x: Tensor, is_training: bool) -> tuple[Tensor, int]:
        if info.batch_size > (Crowded.most if is_training else Crowded.most_evaluated):
            raise Crowded.error
        return x.clone(), in_dims[0]


class Crowded(BatchNormed):
    """Finds room for so many lanes, once its statistics have changed."""

    most: ClassVar[int] = 100
    most_evaluated: ClassVar[int] = 100
    error: ClassVar[Exception]

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = _Room.apply(super().forward(x), self.training)  # type: ignore[no-untyped-call]
        return found


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def set_room(most: int = 100, most_evaluated: int = 100, error: Exception | None = None) -> None:
        monkeypatch.setattr(Crowded, "most", most)
        monkeypatch.setattr(Crowded, "most_evaluated", most_evaluated)
        monkeypatch.setattr(Crowded, "error", error or torch.OutOfMemoryError("CUDA out of memory."), raising=False)

    return set_room


def crowded(*lrs: float, model: str = "test_lanes_failures.Crowded", steps: int = 15) -> list[Experiment]:
    words = [*POINTS, f"++task.model._target_=tests.{model}", f"train.duration={steps}"]
    return [build(checked(composed(*words, f"optimizer.lr={lr}"))) for lr in lrs]


def singles(directory: Path, *lrs: float) -> Iterator[Any]:
    for index, experiment in enumerate(crowded(*lrs, model="own_parts.BatchNormed")):
        yield alone(experiment, directory / f"s{index}")


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(CPU_IS_FULL), MemoryError("Unable to allocate")],
)
def test_where_memory_runs_out_half_of_the_lanes_wait_and_all_come_to_their_end(
    tmp_path: Path, room: Callable[..., None], error: Exception
) -> None:
    room(most=2, error=error)
    widths = list[int]()
    lanes = in_lanes(crowded(*LRS), tmp_path, on_narrow=widths.append)
    assert widths == [2]
    for single, lane in zip(singles(tmp_path, *LRS), lanes, strict=True):
        assert lane.state.status == "finished"
        assert farthest(single, lane) < 1e-5  # the count of batches in BatchNorm too
        assert lane.losses == pytest.approx(single.losses, rel=1e-4)


def test_lanes_that_are_put_off_are_as_they_were_before_the_step(tmp_path: Path, room: Callable[..., None]) -> None:
    room()
    experiments, before, widths = crowded(*LRS[:4]), dict[int, dict[str, Tensor]](), list[int]()

    def copy_at_7(index: int) -> Callable[[], None]:
        steps = iter(range(100))

        def after_step() -> None:
            if next(steps) == 7:
                model = experiments[index].model
                before[index] = {name: value.clone() for name, value in model.state_dict().items()}
                room(most=2)

        return after_step

    def compare(width: int) -> None:
        widths.append(width)
        for index, state in before.items():
            now = experiments[index].model.state_dict()
            assert all(torch.equal(value, now[name]) for name, value in state.items())

    lanes = [
        Lane(e.parts(), Checkpoints(tmp_path / str(i)), lambda record: None, copy_at_7(i))
        for i, e in enumerate(experiments)
    ]
    outcomes = fit_lanes(lanes, width=4, on_narrow=compare)
    assert (widths, len(before)) == ([2], 4)
    assert [None if isinstance(o, Exception) else (o.status, o.step) for o in outcomes] == [("finished", 15)] * 4


def test_a_lane_that_finds_no_room_alone_says_what_to_do(tmp_path: Path, room: Callable[..., None]) -> None:
    room(most=0)
    lanes = [
        Lane(e.parts(), Checkpoints(tmp_path / str(i)), lambda record: None) for i, e in enumerate(crowded(0.1, 0.2))
    ]
    for outcome in fit_lanes(lanes, width=2):
        assert str(outcome) == (
            "train.batch_size: must leave memory for a step of one run alone, got OutOfMemoryError: CUDA out of memory."
            " Set train.accumulate=2, which is the same batch in smaller parts, or a smaller batch or model."
        )


def test_a_lane_that_cannot_be_built_beside_others_is_asked_for_again(tmp_path: Path) -> None:
    first, second = (
        Lane(e.parts(), Checkpoints(tmp_path / str(i)), lambda record: None) for i, e in enumerate(made(0.01, 0.02))
    )
    widths, ended = list[int](), list[int]()
    outcomes = fit_lanes(
        [first, None, second], width=2, on_narrow=widths.append, on_end=lambda index, outcome: ended.append(index)
    )
    assert (widths, ended) == ([1], [0, 1])
    assert [getattr(outcome, "status", outcome) for outcome in outcomes] == ["finished"] * 2


def test_evaluations_that_find_no_room_together_are_made_apart(tmp_path: Path, room: Callable[..., None]) -> None:
    room(most_evaluated=2)
    widths = list[int]()
    lanes = in_lanes(crowded(*LRS), tmp_path, on_narrow=widths.append)
    assert not widths
    for single, lane in zip(singles(tmp_path, *LRS), lanes, strict=True):
        assert lane.state.last_eval == pytest.approx(single.state.last_eval, rel=1e-4)


class Spoiled:
    """A task of which one batch, or what it makes of evaluations, is spoiled."""

    def __init__(self, task: Any, how: str) -> None:
        self._task, self._how = task, how

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def batch(self, step: int, split: str, part: tuple[int, int] = (0, 1)) -> Any:
        found = self._task.batch(step, split, part)
        if split != "train" or step != 7:
            return found
        if self._how == "broken":
            raise OSError("truncated file")
        if self._how == "exit":
            sys.exit("no more")
        return {"empty": None, "no class": (found[0], found[1] + 50)}.get(self._how, found)

    def scores(self) -> Any:
        if self._how == "no score":
            raise ValueError("no such metric")
        return self._task.scores()


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ("broken", OSError, "truncated file"),
        ("exit", TaskError, "task: must not end the program, got SystemExit: no more"),
        ("empty", TaskError, "task: must give training data with a weight at every step, got none at step 7."),
        ("no class", TaskError, "task.loss: must get targets from 0 to 2 for outputs"),
        ("no score", ValueError, "no such metric"),
    ],
)
def test_a_pass_that_one_lane_breaks_ends_that_lane_alone(
    tmp_path: Path, how: str, kind: type[Exception], words: str
) -> None:
    experiments = crowded(*LRS[:3], model="own_parts.BatchNormed")
    lanes = [
        Lane(
            {**e.parts(), "task": Spoiled(e.task, how) if index == 1 else e.task},
            Checkpoints(tmp_path / str(index)),
            lambda record: None,
        )
        for index, e in enumerate(experiments)
    ]
    outcomes = fit_lanes(lanes, width=3)
    assert isinstance(outcomes[1], kind)
    assert str(outcomes[1]).startswith(words)
    for index, single in enumerate(singles(tmp_path, *LRS[:3])):
        if index != 1:
            assert getattr(outcomes[index], "status", outcomes[index]) == "finished"
            assert farthest(single, single._replace(experiment=experiments[index])) < 1e-5
