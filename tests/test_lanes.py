"""Many trainings in one pass: places, records, checkpoints, remedies."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.lanes.engine import fit_lanes
from runner.lanes.lane import Lane, Outcome
from runner.records import Action
from runner.train.checkpoint import Checkpoints
from runner.train.loop import fit
from runner.train.saved import read_checkpoint
from tests.lanes import alone, calm, doubled, farthest, in_lanes, made, make, told


def test_records_of_a_lane_are_those_of_the_single_run(tmp_path: Path) -> None:
    lrs = (0.01, 0.1, 300.0)
    single = [alone(e, tmp_path / f"s{i}") for i, e in enumerate(made(*lrs))]
    lanes = in_lanes(made(*lrs), tmp_path)
    assert [one.state.status for one in single] == ["finished", "finished", "diverged"]
    assert [len(calm(one.records)) == len(one.records) for one in single] == [True, True, False]
    for one, lane in zip(single, lanes, strict=True):
        assert told(lane.records)[0] == told(one.records)[0]
        assert told(calm(lane.records))[1] == pytest.approx(told(calm(one.records))[1], rel=1e-4)
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


def test_lanes_may_differ_in_all_but_the_model(tmp_path: Path) -> None:
    pages = [
        ("optimizer=adamw", "optimizer.weight_decay=0.1", "warmup=linear", "schedule=wsd"),
        ("optimizer=schedulefree_sgd", "train.duration=17"),
        ("optimizer=muon", "clip=agc", "train.ema_decay=0.9"),
        ("seed=3", "train.batch_size=32", "train.eval_every=7"),
        ("clip=zclip", "param_groups=unfreeze", "param_groups.unfreeze_every=5"),
        ("remedy=[heal]", "optimizer.lr=500", "train.clip_norm=5", "monitor.sharpness.every=10"),
    ]
    single = [alone(doubled(make(*page)), tmp_path / f"s{i}") for i, page in enumerate(pages)]
    lanes = in_lanes([doubled(make(*page)) for page in pages], tmp_path, width=4, shares=False)
    for one, lane in zip(single, lanes, strict=True):
        assert told(one.records)[0] == told(lane.records)[0]
        assert told(one.records)[1] == pytest.approx(told(lane.records)[1], rel=3e-7)  # some are measured in float32
        assert farthest(one, lane) < 1e-9


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


def test_bf16_trains_in_lanes_as_alone(tmp_path: Path) -> None:
    overrides = ("train.precision=bf16",)
    single = [alone(e, tmp_path / f"s{i}") for i, e in enumerate(made(0.01, 0.1, overrides=overrides))]
    for one, lane in zip(single, in_lanes(made(0.01, 0.1, overrides=overrides), tmp_path), strict=True):
        assert lane.losses == pytest.approx(one.losses, rel=0.02)
