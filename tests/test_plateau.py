"""Plateau and streaks: the rules of torch and transformers, live and over random curves."""

import json
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.detectors.plateau import Plateau
from runner.detectors.protocol import Detector
from runner.detectors.streak import Streak
from runner.records import Action, Alarm, EvalRecord, StepRecord
from runner.remedies.greedy import Greedy
from runner.remedies.protocol import History, Remedy
from runner.remedies.reduce_lr import ReduceLR
from runner.remedies.restore_best import RestoreBest
from runner.remedies.scale_lr import changes
from runner.watch import Watch
from tests.conftest import Done, Program

PLATEAU = ["detector=[non_finite,divergence,plateau]", "remedy=[reduce_lr,stop]"]
QUICK = ["task.hidden=[16]", "train.duration=300", "train.eval_every=5"]


def scales(detector: Detector, remedy: Remedy, values: Iterable[float]) -> list[float]:
    """Return lr_scale after each value, one evaluation a step."""
    watch = Watch({type(detector).__name__.lower(): detector}, {"remedy": remedy})
    state, history, found = watch.start(), History(), []
    for step, value in enumerate(values):
        seen = StepRecord(step, 0, 1.0, 0.1, 1.0, 64, lr_scale=history.lr_scale)
        state, _ = watch.observe(state, seen)
        state, alarms = watch.observe(state, EvalRecord(step + 1, 0, "val", {"loss": value}))
        for action, _ in watch.decide(alarms, history):
            history = History((*history.actions, action), action.arguments["lr_scale"])
        found.append(history.lr_scale)
    return found


def one_weight(lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def stepped(scheduler: Any, optimizer: torch.optim.Optimizer, values: Iterable[float]) -> list[float]:
    """Return the learning rate that a library's scheduler leaves after each value."""
    found = []
    for value in values:
        scheduler.step(value)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def lines(done: Done, kind: str) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (done.run / "records.jsonl").read_text().splitlines()]
    return [record for record in records if record["kind"] == kind]


def test_published_trace() -> None:
    found = scales(Plateau(patience=2, cooldown=1), ReduceLR(factor=0.1), [1.0] + [0.9] * 10)
    assert found == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01])


VALUES = st.lists(
    st.one_of(st.sampled_from([1.0, 0.9, 0.99995, -1.0, math.nan, math.inf, -math.inf]), st.floats(-3, 3)),
    max_size=80,
)


@settings(deadline=None)
@given(
    values=VALUES,
    mode=st.sampled_from(["min", "max"]),
    patience=st.integers(0, 4),
    threshold=st.sampled_from([0.0, 1e-4, 0.1, 1.0]),
    threshold_mode=st.sampled_from(["rel", "abs"]),
    cooldown=st.integers(0, 4),
    factor=st.sampled_from([0.1, 0.5, 0.999]),
    floor=st.sampled_from([0.0, 0.05, 1.0]),
    eps=st.sampled_from([0.0, 1e-8, 1e-2]),
)
def test_plateau_and_reduce_lr_are_torch_to_the_letter(
    values: list[float],
    mode: Literal["min", "max"],
    patience: int,
    threshold: float,
    threshold_mode: Literal["rel", "abs"],
    cooldown: int,
    factor: float,
    floor: float,
    eps: float,
) -> None:
    optimizer = one_weight(1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode, factor, patience, threshold, threshold_mode, cooldown, floor, eps
    )
    detector = Plateau(
        mode=mode, patience=patience, threshold=threshold, threshold_mode=threshold_mode, cooldown=cooldown
    )
    remedy = ReduceLR(factor=factor, min_scale=floor, eps=eps)
    assert scales(detector, remedy, values) == stepped(scheduler, optimizer, values)


@settings(deadline=None)
@given(values=VALUES)
def test_defaults_are_those_of_torch(values: list[float]) -> None:
    optimizer = one_weight(1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    many = [value for value in values for _ in range(4)]
    assert scales(Plateau(), ReduceLR(), many) == stepped(scheduler, optimizer, many)


def test_a_run_with_the_presets_has_the_learning_rates_of_torch(program: Program) -> None:
    done = program(*PLATEAU, *QUICK, "train.eval_every=2", "schedule=constant", "warmup=none", "optimizer.lr=0.5")
    assert done.code == 0, done.err
    optimizer = one_weight(0.5)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    evals = lines(done, "eval")
    after = stepped(scheduler, optimizer, [record["metrics"]["loss"] for record in evals])
    expected = [([0.5, *after])[step // 2] for step in range(300)]
    assert len(set(expected)) >= 3, "no plateau in this run"
    assert [record["lr"] for record in lines(done, "step")] == pytest.approx(expected, rel=1e-12)


def test_it_composes_with_warmup_and_decay(program: Program) -> None:
    done = program(*PLATEAU, *QUICK, "detectors.plateau.patience=2", "warmup.duration=30", "optimizer.lr=0.5")
    assert done.code == 0, done.err
    seen = {record["lr_scale"] for record in lines(done, "step")}
    assert {1.0, 0.1} < seen
    for record in lines(done, "step"):
        step = record["step"]
        warmup = min((step + 1) / 30, 1.0)
        cosine = 0.5 * (1 + math.cos(math.pi * max(step - 29, 0) / (300 - 29)))
        assert record["lr"] == pytest.approx(0.5 * warmup * cosine * record["lr_scale"], rel=1e-12)


def test_ratios_between_groups_survive_the_cuts(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = "param_groups._target_=tests.test_plateau.halved"
    done = program(*PLATEAU, *QUICK, groups, "detectors.plateau.patience=1", "optimizer.lr=0.5")
    assert done.code == 0, done.err
    assert lines(done, "action")
    rates = [record["lrs"] for record in lines(done, "step")]
    assert all(rate["biases"] == pytest.approx(rate["matrices"] / 2, rel=1e-12) for rate in rates)


def halved() -> Any:
    """Return a grouping whose biases have half the learning rate."""
    from runner.optim.groups import Group

    return lambda model: [
        Group("matrices", [p for p in model.parameters() if p.ndim > 1]),
        Group("biases", [p for p in model.parameters() if p.ndim <= 1], lr_multiplier=0.5),
    ]


def test_the_end_of_a_run_counts_the_cuts(program: Program) -> None:
    done = program(*PLATEAU, *QUICK, "detectors.plateau.patience=0", "remedies.reduce_lr.max_cuts=2")
    assert done.code == 0, done.err
    assert "lr      2 cuts, at the end 0.01 of its schedule" in done.out
    assert ": learning rate x 0.1, now 0.1 of its schedule" in done.out
    result = json.loads((done.run / "result.json").read_text())
    assert result["actions"] == 2
    assert {key: result["learning_rate"][key] for key in ("cuts", "raises", "rollbacks", "lr_scale")} == {
        "cuts": 2, "raises": 0, "rollbacks": 0, "lr_scale": pytest.approx(0.01),
    }  # fmt: skip


def test_a_plateau_that_nobody_answers_only_informs(program: Program) -> None:
    done = program("detector=[plateau]", *QUICK, "detectors.plateau.patience=0")
    assert done.code == 0, done.err
    assert len(lines(done, "alarm")) > 2
    assert not lines(done, "action")
    assert {record["lr_scale"] for record in lines(done, "step")} == {1.0}


def test_training_loss_serves_a_task_without_evaluations(program: Program) -> None:
    declared = [
        "task=quadratic",
        "train.duration=200",
        "detectors.plateau.metric=train/loss",
        "detectors.plateau.patience=1",
    ]
    done = program(*PLATEAU, *declared, "detectors.plateau.window=5", "detectors.plateau.threshold=0.9")
    assert done.code == 0, done.err
    records = lines(done, "step")
    cuts = [record["step"] for record in lines(done, "action")]
    assert cuts
    assert all(step % 5 == 4 for step in cuts), "one value every five steps"
    for step in cuts:
        assert records[step]["lr_scale"] > records[step + 1]["lr_scale"], "from the next step on"


def window_alarms(losses: Sequence[float]) -> list[int]:
    detector, found = Plateau(metric="train/loss", window=2, patience=0), []
    state = detector.init()
    for step, loss in enumerate(losses):
        state, alarm = detector.update(state, StepRecord(step, 0, loss, 0.1, 1.0, 64))
        found += [alarm.step] if alarm is not None else []
    return found


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([3, 1, 2, 1, 1, 1, 1, 1], [7]),
        ([3, 1, 0, 9, 1, 1], [3]),
        ([1, 1, math.nan, 0, 0, 0], [3]),
        ([1, 1, 2], []),
    ],
    ids=["falls, then flat", "mean decides", "nan is bad", "half a window"],
)
def test_each_window_of_the_training_loss_is_one_value(losses: list[float], expected: list[int]) -> None:
    assert window_alarms(losses) == expected


@settings(deadline=None)
@given(
    values=st.lists(st.floats(-3, 3), min_size=20, max_size=200),
    mode=st.sampled_from(["min", "max"]),
    patience=st.integers(0, 3),
    threshold_mode=st.sampled_from(["rel", "abs"]),
    cooldown=st.integers(0, 3),
    warmup=st.integers(0, 3),
    window=st.sampled_from([1, 4]),
    floor=st.sampled_from([0.0, 0.3]),
    reset_after=st.integers(1, 4),
    is_trend=st.booleans(),
)
def test_streak_and_greedy_are_transformers_in_ratios(
    values: list[float],
    mode: Literal["min", "max"],
    patience: int,
    threshold_mode: Literal["rel", "abs"],
    cooldown: int,
    warmup: int,
    window: int,
    floor: float,
    reset_after: int,
    is_trend: bool,
) -> None:
    from transformers.optimization import GreedyLR

    if is_trend:  # long good streaks, which a random sequence does not have
        sign = -1 if mode == "min" else 1
        values = [value / 10 + sign * step for step, value in enumerate(values)]
    optimizer = one_weight(1.0)
    scheduler = GreedyLR(
        optimizer, mode=mode, factor=0.5, patience=patience, threshold_mode=threshold_mode, cooldown=cooldown,
        warmup=warmup, min_lr=floor, max_lr=4.0, smooth=window > 1, window_size=window, reset_start=reset_after,
    )  # fmt: skip
    detector = Streak(
        mode=mode, patience=patience, threshold_mode=threshold_mode, cooldown=cooldown, warmup=warmup, window=window
    )
    remedy = Greedy(factor=0.5, min_scale=floor, max_scale=4.0, reset_after=reset_after)
    assert scales(detector, remedy, values) == stepped(scheduler, optimizer, values)


def test_greedy_rises_falls_and_starts_anew() -> None:
    falling, flat = [10.0 - step for step in range(6)], [4.0] * 20
    found = scales(Streak(patience=1), Greedy(factor=0.5, min_scale=0.25, reset_after=2), falling + flat)
    assert found[:6] == [1, 2, 2, 4, 4, 8]
    assert 0.25 in found
    back = next(step for step, (one, other) in enumerate(pairwise(found)) if other > one and step > 6)
    assert found[back : back + 2] == [0.25, 1.0]


def test_nan_leaves_the_average_of_a_streak_with_its_window() -> None:
    """In transformers' StreamingAverage one nan makes every later average nan."""
    found = scales(Streak(patience=1, window=2), Greedy(factor=0.5), [10.0, math.nan, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0])
    assert found[-1] > 1.0


ALARM = Alarm(7, "plateau", "warn", {}, "m")


@pytest.mark.parametrize(
    ("remedy", "history", "expected"),
    [
        (ReduceLR(min_scale=0.5), History(), ("ScaleLR", 0.5)),
        (ReduceLR(min_scale=0.5), History(lr_scale=0.5), None),
        (ReduceLR(detectors=("other",)), History(), None),
        (ReduceLR(max_cuts=1), History((Action(1, "x", "ScaleLR", {"factor": 0.1}, ("plateau", 1)),)), None),
        (ReduceLR(max_cuts=1), History((Action(1, "x", "ScaleLR", {"factor": 0.1}, ("plateau", 1)),) * 3), None),
        (ReduceLR(max_cuts=1), History((Action(1, "x", "ScaleLR", {"factor": 0.1}, ("other", 1)),)), ("ScaleLR", 0.1)),
        (RestoreBest(), History(), ("ScaleLR", 0.1)),
        (RestoreBest(), History(best_step=3), ("Rollback", 0.1)),
        (RestoreBest(), History(best_step=ALARM.step), ("ScaleLR", 0.1)),
        (RestoreBest(min_scale=0.5), History(lr_scale=0.5, best_step=3), None),
    ],
)
def test_remedy_answers(remedy: Remedy, history: History, expected: tuple[str, float] | None) -> None:
    action = remedy.propose(ALARM, history)
    assert (action and (action.type, action.arguments["lr_scale"])) == expected


@pytest.mark.parametrize("remedy", [ReduceLR(detectors=("streak",)), RestoreBest(detectors=("streak",))])
def test_good_news_cuts_nothing(remedy: Remedy) -> None:
    assert remedy.propose(Alarm(7, "streak", "info", {"good": 3}, "m"), History(best_step=3)) is None


def test_restore_best_says_where_it_goes_or_that_there_is_nothing() -> None:
    there = RestoreBest().propose(ALARM, History(best_step=3))
    nothing = RestoreBest().propose(ALARM, History())
    assert there is not None
    assert nothing is not None
    assert there.arguments["to_step"] == 3
    assert there.message == "weights of step 3, empty optimizer state, learning rate x 0.1, now 0.1 of its schedule"
    assert nothing.message == "no best weights yet, so only the learning rate x 0.1, now 0.1 of its schedule"


def test_changes_count_what_became_of_the_learning_rate() -> None:
    factors = [("ScaleLR", 0.5, 0.5), ("Rollback", 0.5, 0.25), ("ScaleLR", 2.0, 0.5)]
    actions = [Action(1, "r", kind, {"factor": f, "lr_scale": s}) for kind, f, s in factors]  # type: ignore[arg-type]
    assert changes(actions, lr_scale=0.5) == {"cuts": 2, "raises": 1, "rollbacks": 1, "lr_scale": 0.5}
    assert changes([Action(1, "stop", "Stop")], lr_scale=1.0) == {}


@pytest.mark.parametrize(
    ("overrides", "warning"),
    [
        (
            ["remedy=[reduce_lr,stop]"],
            "remedies.reduce_lr.detectors: plateau is not active, so reduce_lr never answers it. "
            "Set detector=[default,plateau].",
        ),
        (
            ["remedy=[stop,advise,restart]"],
            "remedies.advise: comes after stop, which ends the run first when an alarm is a stop. "
            "Set remedy=[advise,restart,stop].",
        ),
        (
            ["detector=[]", "remedy=[advise,stop]"],
            "detectors: none is active, so nothing sets off advise, stop. Set detector=[default], or remedy=[].",
        ),
        (
            ["remedy=[advise,tenfold,restart]", "remedies.tenfold.rest=0"],
            "remedies.restart: comes after tenfold, which answers non_finite, divergence first and ends the run when "
            "that has not helped. Set remedy=[tenfold] or remedy=[restart].",
        ),
        (
            [*PLATEAU, "train.early_stop.patience=10"],
            "train.early_stop.patience: 10 ends the run before detector plateau with its patience of 10 finds anything."
            " Set train.early_stop.patience=22 or more.",
        ),
        (
            [*PLATEAU, "train.eval_every=null"],
            "train.eval_every: null evaluates at the end only, so detector plateau finds nothing. Set it to 5%.",
        ),
    ],
)
def test_what_can_never_act_is_a_warning(program: Program, overrides: list[str], warning: str) -> None:
    done = program(*overrides, "train.duration=3")
    assert done.code == 0, done.err
    assert f"warning {warning}" in done.err.replace("\n", " ")


def test_presets_warn_of_nothing(program: Program) -> None:
    for words in ([*PLATEAU, "train.early_stop.patience=11"], ["detector=[]", "remedy=[]"]):
        assert program(*words, "train.duration=3").err == ""
