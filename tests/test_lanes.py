"""Many trainings in one pass: slots, failures, remedies, checkpoints, randomness, what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from runner.build import Experiment, build
from runner.errors import CheckpointError
from runner.job import checked
from runner.lanes import recording
from runner.lanes.engine import fit_lanes
from runner.lanes.lane import Lane, Outcome
from runner.lanes.refusal import why_not
from runner.lanes.stack import Stack
from runner.records import Action, Record, StepRecord
from runner.tasks.quadratic import Quadratic
from runner.train.checkpoint import Checkpoints
from runner.train.loop import fit
from runner.train.saved import read_checkpoint
from runner.trials.choose import choose
from tests.lanes import alone, farthest, in_lanes, told
from tests.own_parts import Net
from tests.pages import composed

SMALL = ["task.hidden=[16]", "train.duration=30", "train.eval_every=10", "train.checkpoint_every=null"]
POINTS = ["task=supervised", "++task.train._target_=tests.own_parts.Points", "train.duration=30"]


def make(*overrides: str) -> Experiment:
    return build(checked(composed(*SMALL, *overrides)))


def make_of(model: str) -> Experiment:
    return build(checked(composed(*POINTS, f"++task.model._target_={model}")))


def made(*lrs: float, overrides: tuple[str, ...] = ()) -> list[Experiment]:
    return [make(f"optimizer.lr={lr}", *overrides) for lr in lrs]


def test_records_of_a_lane_are_those_of_the_single_run(tmp_path: Path) -> None:
    lrs = (0.01, 0.1, 300.0)
    single = [alone(e, tmp_path / f"s{i}") for i, e in enumerate(made(*lrs))]
    lanes = in_lanes(made(*lrs), tmp_path)
    assert [one.state.status for one in single] == ["finished", "finished", "diverged"]
    for one, lane in zip(single, lanes, strict=True):
        words, numbers = told(lane.records)
        assert words == told(one.records)[0]
        rel = 1e-4 if one.state.status == "finished" else 1e-2  # the last digit grows with the loss
        assert numbers == pytest.approx(told(one.records)[1], rel=rel, nan_ok=True)
        assert (lane.state.status, lane.state.step, lane.state.best.keys()) == (
            one.state.status,
            one.state.step,
            one.state.best.keys(),
        )


@pytest.mark.parametrize("shares", [True, False])
def test_a_place_that_is_left_goes_to_the_next_lane_which_begins_at_its_own_step(tmp_path: Path, shares: bool) -> None:
    lrs = (300.0, 0.01, 300.0, 0.1, 0.03)
    overrides = ("train.duration=25",)  # an epoch is 22 steps: lanes at other steps meet its ragged end apart
    single = [alone(e, tmp_path / f"s{i}") for i, e in enumerate(made(*lrs, overrides=overrides))]
    ended = list[int]()
    lanes = in_lanes(
        made(*lrs, overrides=overrides),
        tmp_path,
        width=2,
        shares=shares,
        on_end=lambda index, outcome: ended.append(index),
    )
    assert [lane.state.status for lane in lanes] == ["diverged", "finished", "diverged", "finished", "finished"]
    assert sorted(ended) == [0, 1, 2, 3, 4]
    assert ended[:2] == [0, 1]
    for one, lane in zip(single, lanes, strict=True):
        assert farthest(one, lane) < 1e-5
        assert lane.losses == pytest.approx(one.losses, rel=1e-4, nan_ok=True)


def test_lanes_of_other_seeds_have_their_own_data_and_weights(tmp_path: Path) -> None:
    seeds = [make(f"seed={seed}") for seed in (0, 1)], [make(f"seed={seed}") for seed in (0, 1)]
    single = [alone(e, tmp_path / f"s{i}") for i, e in enumerate(seeds[0])]
    for one, lane in zip(single, in_lanes(seeds[1], tmp_path, shares=False), strict=True):
        assert farthest(one, lane) < 1e-5
    assert farthest(single[0], single[1]) > 0.1


def test_lanes_are_built_when_there_is_room_for_them(tmp_path: Path) -> None:
    alive, most = [0], [0]

    def lanes() -> Any:
        for index, experiment in enumerate(made(0.01, 0.02, 0.03)):
            alive[0] += 1
            most[0] = max(most[0], alive[0])
            yield Lane(experiment.parts(), Checkpoints(tmp_path / str(index)), lambda record: None)

    def on_end(index: int, outcome: Outcome) -> None:
        alive[0] -= 1

    assert len(fit_lanes(lanes(), width=2, on_end=on_end)) == 3
    assert most == [2]


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


def test_an_interrupted_lane_saves_and_goes_on_as_a_single_run(tmp_path: Path) -> None:
    whole = [alone(e, tmp_path / f"s{i}") for i, e in enumerate(made(0.05, 0.1, overrides=("optimizer=adamw",)))]
    experiments, counts = made(0.05, 0.1, overrides=("optimizer=adamw",)), [0, 0]

    def interrupted(index: int) -> Callable[[], str | None]:
        def ask() -> str | None:
            counts[index] += 1
            return "SIGTERM" if counts[index] == (12, 10**9)[index] else None

        return ask

    lanes = [
        Lane(e.parts(), Checkpoints(tmp_path / str(i)), lambda record: None, interrupted(i))
        for i, e in enumerate(experiments)
    ]
    first, second = fit_lanes(lanes, width=2)
    assert not isinstance(first, Exception)
    assert not isinstance(second, Exception)
    assert (first.status, first.step, second.status) == ("interrupted", 12, "finished")
    again = made(0.05, overrides=("optimizer=adamw",))[0]
    source = tmp_path / "0" / "checkpoints" / "last.pt"
    fit(**again.parts(), checkpoints=Checkpoints(tmp_path / "0", source=source), on_record=lambda record: None)
    assert farthest(whole[0], whole[0]._replace(experiment=again)) < 1e-6


def test_checkpoints_hold_one_lane_and_are_as_small_as_those_of_a_single_run(tmp_path: Path) -> None:
    single = alone(make(), tmp_path / "s")
    in_lanes(made(*[0.01 * k for k in range(1, 9)]), tmp_path)
    sizes = [(tmp_path / name / "checkpoints" / "last.pt").stat().st_size for name in ("s", "0")]
    assert sizes[1] < 1.1 * sizes[0]
    best = read_checkpoint(tmp_path / "0" / "checkpoints" / "best.pt")
    assert best["state"]["step"] == 30
    assert single.state.best["step"] == 30


def test_a_model_that_has_left_the_stack_owns_its_memory(tmp_path: Path) -> None:
    lanes = in_lanes(made(0.01, 0.02), tmp_path)
    for lane in lanes:
        for parameter in lane.experiment.model.parameters():
            assert parameter.untyped_storage().nbytes() == parameter.numel() * parameter.element_size()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_remedies_act_on_their_lane_alone(tmp_path: Path, optimizer: str) -> None:
    overrides = (f"optimizer={optimizer}", "remedy=[rollback]", "snapshots.every=5", "train.duration=40")
    lrs = (0.01, 100.0, 0.02)
    single = [alone(e, tmp_path / f"s{i}") for i, e in enumerate(made(*lrs, overrides=overrides))]
    lanes = in_lanes(made(*lrs, overrides=overrides), tmp_path)
    assert any(isinstance(record, Action) and record.type == "Rollback" for record in lanes[1].records)
    for one, lane in zip(single, lanes, strict=True):
        kinds = [[(r.step, r.type) for r in each.records if isinstance(r, Action)] for each in (one, lane)]
        assert kinds[0] == kinds[1]
        steady = 15 if kinds[0] else None  # a run that diverges is chaotic: the last digit grows
        assert lane.losses[:steady] == pytest.approx(one.losses[:steady], rel=1e-3, nan_ok=True)


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


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(8, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.rnn(x[:, None])[0][:, -1])
        return found


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.utils.parametrizations.weight_norm(nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x)
        return found


class Branching(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.layers[0](x).mean() > 0 else -x)


class Cumulative(Net):
    def __init__(self) -> None:
        super().__init__()
        self.layers.insert(1, nn.BatchNorm1d(16, momentum=None))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            Recurrent,
            r"task.model: LSTM \(rnn\) cannot be trained in lanes: torch has no batched form of aten::lstm",
        ),
        (
            Normed,
            r"task.model: _WeightNorm \(layer.*\) cannot be trained in lanes: torch has no batched form of aten::_w",
        ),
        (Branching, r"task.model: Branching \(the model\) cannot be trained in lanes: RuntimeError: vmap: It looks"),
        (Cumulative, r"task.model: BatchNorm1d \(layers.1\) cannot be trained in lanes: RuntimeError: vmap: It looks"),
    ],
)
def test_a_model_that_cannot_be_batched_is_refused_by_name(model: type[nn.Module], reason: str) -> None:
    experiment = make_of(f"tests.test_lanes.{model.__name__}")
    before, generator = {k: v.clone() for k, v in experiment.model.state_dict().items()}, torch.get_rng_state()
    found = why_not([experiment.parts()])
    assert found is not None
    assert found.endswith("Set sweep.backend=sequential or sweep.backend=processes.")
    with pytest.raises(ValueError, match=reason):
        raise ValueError(found)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, before[name]) for name, value in experiment.model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"compile": True}, "train.compile: must be false for lanes, got true"),
        ({"precision": "fp16"}, "train.precision: must be fp32 or bf16 for lanes, as fp16 scales the loss of each run"),
        ({"watch_every": 5}, "train.watch_every: must be 1 for lanes, which look at all losses at once, got 5"),
    ],
)
def test_a_plan_that_cannot_be_batched_is_refused(changes: dict[str, Any], reason: str) -> None:
    parts = make().parts()
    found = why_not([{**parts, "plan": replace(parts["plan"], **changes)}])
    assert found is not None
    assert found.startswith(reason)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("train.accumulate=2", "train.accumulate: must be the same in all lanes, got 1 and 2"),
        ("task.dropout=0.1", "task: must make the same model in all lanes, but only one of them has 3"),
        ("task.hidden=[8]", "task: must make the same model in all lanes, but 0."),
    ],
)
def test_experiments_that_are_not_alike_are_refused(override: str, reason: str, tmp_path: Path) -> None:
    experiments = [make(), make(override)]
    found = why_not([experiment.parts() for experiment in experiments])
    assert found is not None
    assert found.startswith(reason)
    lanes = [Lane(e.parts(), Checkpoints(tmp_path / str(i)), lambda record: None) for i, e in enumerate(experiments)]
    first, second = fit_lanes(lanes, width=2)
    assert isinstance(second, Exception)
    assert not isinstance(first, Exception)


def test_bf16_trains_in_lanes_as_alone(tmp_path: Path) -> None:
    overrides = ("train.precision=bf16",)
    single = [alone(e, tmp_path / f"s{i}") for i, e in enumerate(made(0.01, 0.1, overrides=overrides))]
    for one, lane in zip(single, in_lanes(made(0.01, 0.1, overrides=overrides), tmp_path), strict=True):
        assert lane.losses == pytest.approx(one.losses, rel=0.02)


class Crowded(Quadratic):
    """Has room for two of its kind."""

    there: ClassVar[list[object]] = []

    def batch(self, step: int, split: str, part: tuple[int, int] = (0, 1)) -> Any:
        if self not in self.there:
            self.there.append(self)
        if len(self.there) > 2:  # the check and the run alone
            raise torch.OutOfMemoryError("no room")
        return super().batch(step, split, part)


def test_auto_runs_one_after_another_what_finds_no_room_in_lanes() -> None:
    words = ("task=quadratic", "task._target_=tests.test_lanes.Crowded")
    choice = choose([checked(composed(*words, f"seed={seed}")) for seed in range(3)], width=32)
    assert not choice.is_lanes
    assert choice.why.startswith("one after another, as a trial in lanes failed: OutOfMemoryError: no room")
