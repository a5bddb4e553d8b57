"""mode=range_test: ramps that leave the training as it is, a bracket, and mistakes."""

import copy
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from runner.build import Experiment, build, checkpoint_source, find_facts
from runner.check import check
from runner.checks.range_test import ramp_limits
from runner.config import Config
from runner.estimate import trial_plan
from runner.finding.ramp import FEWEST, FEWEST_A_DECADE, TYPICAL_A_DECADE, ramp_lrs
from runner.nodes import conf_directory
from runner.range_bracket import range_bracket, verify
from runner.range_test import run_ramps, starting_point
from runner.train.branches import Copy
from runner.train.seeding import generator_states
from tests.conftest import Program, Refusal, train_here
from tests.pages import composed

SMALL = ("task.hidden=[16]", "train.duration=60", "train.device=cpu")
NORMED = """
import torch
from torch import nn


class Normed(nn.Module):
    \"\"\"BatchNorm, dropout, and a buffer that is in no state_dict.\"\"\"

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.layers = nn.Sequential(nn.Linear(64, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.3), nn.Linear(9, 10))

    def forward(self, x):
        self.seen += 1
        return self.layers(x)
"""


def configured(*overrides: str) -> Config:
    return check(composed("mode=range_test", "tracking=off", *overrides), find_facts=find_facts)


def started(config: Config) -> tuple[Experiment, Copy, int]:
    experiment = build(config)
    place = starting_point(
        experiment.task, experiment.model, experiment.optimizer, plan=experiment.plan, clipping=experiment.clipping,
        watch=experiment.watch, source=checkpoint_source(config.resume),
    )  # fmt: skip
    return (experiment, *place)


def everything(it: Copy) -> list[Any]:
    """All that a training is made of, tensors as they are."""
    tensors = [*it.model.parameters(), *it.model.buffers(), *(p.grad for p in it.model.parameters())]
    state = [value for held in it.optimizer.state.values() for value in held.values()]
    groups = [{k: v for k, v in group.items() if k != "params"} for group in it.optimizer.param_groups]
    modes = [module.training for module in it.model.modules()]
    trained = [parameter.requires_grad for parameter in it.model.parameters()]
    rest = [groups, modes, trained, it.scaler.state_dict(), dict(it.clipping.state_dict()), generator_states()]
    return copy.deepcopy([tensors, state, rest])


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.mark.parametrize(
    "overrides",
    [
        ("optimizer=sgd", "clip=zclip"),
        ("optimizer=adamw", "train.accumulate=2", "train.clip_norm=0.5"),
        ("optimizer=adam", "train.precision=bf16"),
        ("optimizer=muon",),
        ("optimizer=schedulefree_sgd",),
        ("optimizer=sgd", "param_groups=unfreeze"),
    ],
    ids=" ".join,
)
def test_a_training_is_bit_for_bit_as_it_was(overrides: tuple[str, ...]) -> None:
    config = configured(*SMALL, "task.dropout=0.2", *overrides)
    experiment, begun, begin = started(config)
    first = experiment.task.batch(begin, "train")
    before = everything(begun)
    ramps = run_ramps(
        begun, ramp_lrs(1e-4, 10, steps=30), experiment.task, trial_plan(experiment.plan), base_lr=config.optimizer.lr,
        begin=begin, repeats=2,
    )  # fmt: skip
    assert ramps[0].losses != ramps[1].losses
    assert same(everything(begun), before)
    assert same(experiment.task.batch(begin, "train"), first)


def test_statistics_and_buffers_outside_the_checkpoint_are_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "normed.py").write_text(NORMED)
    monkeypatch.syspath_prepend(str(tmp_path))
    from normed import Normed  # type: ignore[import-not-found]

    config = configured(*SMALL, "optimizer=sgd")
    experiment = build(config)
    torch.manual_seed(0)
    model: nn.Module = Normed()
    optimizer = torch.optim.SGD([{"params": list(model.parameters()), "name": "all", "initial_lr": 0.1}], lr=0.1)
    begun, _ = starting_point(
        experiment.task, model, optimizer, plan=experiment.plan, clipping=experiment.clipping, watch=experiment.watch
    )
    before = everything(begun)
    run_ramps(begun, ramp_lrs(1e-3, 1, steps=20), experiment.task, trial_plan(experiment.plan), base_lr=0.1)
    assert same(everything(begun), before)


def test_every_group_keeps_its_ratio_and_no_schedule_is_in_force() -> None:
    config = configured(
        *SMALL, "optimizer=adamw", "param_groups=head", "warmup=linear", "warmup.duration=50", "schedule=cosine"
    )
    experiment, begun, _ = started(config)
    initial = [group["initial_lr"] for group in begun.optimizer.param_groups]
    assert len(set(initial)) == 2, "the groups differ"
    seen = list[list[float]]()
    begun.optimizer.register_step_pre_hook(lambda *_: seen.append([]))  # copies are made without hooks
    lrs = ramp_lrs(1e-4, 1e-2, steps=21)

    class Watched(torch.optim.AdamW):
        def step(self, closure: Any = None) -> Any:
            seen.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    begun.optimizer.__class__ = Watched
    run_ramps(begun, lrs, experiment.task, trial_plan(experiment.plan), base_lr=config.optimizer.lr)
    assert seen == [[pytest.approx(begin * lr / config.optimizer.lr) for begin in initial] for lr in lrs]


def test_a_loss_that_is_no_number_ends_a_ramp_there() -> None:
    config = configured(*SMALL, "optimizer=sgd")
    experiment, begun, _ = started(config)
    task, losses = experiment.task, 0

    class Spoilt:
        def __getattr__(self, name: str) -> Any:
            return getattr(task, name)

        def loss(self, *args: Any) -> Any:
            nonlocal losses
            losses += 1
            found = task.loss(*args)
            return found._replace(total=found.total * (math.nan if losses == 8 else 1.0))

    lrs = ramp_lrs(1e-4, 1e-2, steps=30)
    [ramp] = run_ramps(begun, lrs, Spoilt(), trial_plan(experiment.plan), base_lr=config.optimizer.lr)
    assert len(ramp.losses) == losses == 8
    assert ramp.losses[-1] == math.inf
    assert ramp.stopped == "the loss or its gradient was no number"
    assert ramp.stop == lrs[7]


def test_a_ramp_in_the_middle_of_a_training_begins_where_that_goes_on(tmp_path: Path) -> None:
    done = train_here(*SMALL, "optimizer=adam", "optimizer.lr=0.02", directory=tmp_path)
    resumed = configured(*SMALL, "optimizer=adam", "optimizer.lr=0.02", f"resume.from={done.run}", "train.duration=200")
    experiment, begun, begin = started(resumed)
    assert begin == 60
    saved = torch.load(done.run / "checkpoints" / "last.pt", weights_only=False)
    assert same(dict(begun.model.state_dict()), dict(saved["model"]))
    fresh = configured(*SMALL, "optimizer=adam")
    later, first = (range_bracket(config, steps=80, repeats=1) for config in (resumed, fresh))
    assert later.begin == 60
    assert later.ramps[0].losses[0] < 0.5 * first.ramps[0].losses[0]
    assert later.sharpness is None
    assert first.sharpness is not None
    batch = experiment.task.batch(60, "train")
    with torch.no_grad():
        loss = float(experiment.task.loss(begun.model.train(), batch, 1.0).total) / experiment.task.weight(batch)
    assert later.ramps[0].losses[0] == pytest.approx(loss, rel=1e-5)


def test_weights_to_begin_with_are_ramped(tmp_path: Path) -> None:
    done = train_here(*SMALL, "optimizer=adam", "optimizer.lr=0.02", directory=tmp_path)
    config = configured(*SMALL, "optimizer=adam", f"task.init_from={done.run}", "task.regime=fine_tune")
    test = range_bracket(config, steps=80, repeats=1)
    assert test.begin == 0
    assert test.ramps[0].losses[0] < 1.2
    assert ramp_limits(config.optimizer, config.task, "exponential") == pytest.approx((1e-7, 10))


@pytest.mark.parametrize(
    ("optimizer", "shape", "limits"),
    [("sgd", "exponential", (1e-4, 800)), ("adam", "exponential", (6e-7, 10)), ("sgd", "linear", (1e-4, 2.4))],
)
def test_a_ramp_reaches_beyond_the_rates_in_use(optimizer: str, shape: Any, limits: tuple[float, float]) -> None:
    config = configured(*SMALL, f"optimizer={optimizer}")
    assert ramp_limits(config.optimizer, config.task, shape) == pytest.approx(limits)
    unknown = config.optimizer.model_copy(update={"typical": None})
    assert ramp_limits(unknown, config.task, shape) == (1e-7, 10.0)


@pytest.mark.usefixtures("pictures")
def test_bracket_is_printed_as_overrides_and_written(program: Program) -> None:
    done = program(*SMALL, "mode=range_test", "optimizer=sgd")
    assert done.code == 0, done.err
    report = json.loads((done.run / "range_test.json").read_text())
    low, high = report["low"], report["high"]
    line = next(line for line in done.out.splitlines() if line.startswith("go on with: "))
    assert (
        report["overrides"] == line.split()[-3:] == ["mode=search", f"search.low={low:.2g}", f"search.high={high:.2g}"]
    )
    assert low == min(ramp["rules"]["valley"] for ramp in report["ramps"]) / 3
    assert high == max(ramp["lrs"][-1] for ramp in report["ramps"]) / 3
    assert report["nothing"] is None
    made = sum(len(ramp["losses"]) for ramp in report["ramps"])
    assert report["steps"] == made + 62, "and the products with the Hessian"
    assert report["cost"] == report["steps"] / 60
    first = report["ramps"][0]
    assert f"ramp 1: {len(first['lrs'])} steps, lr 1e-4 to {first['lrs'][-1]:.2g}, stopped: the loss" in done.out
    assert f"cost: {report['steps']} steps, {report['steps'] / 60:.2g} times the run" in done.out
    assert "that is a bracket, not an answer" in done.out
    assert "upper bracket of optimizer.lr: about" in done.out
    assert (done.run / "range_test.png").stat().st_size > 10_000
    assert not list(done.directory.glob("**/records.jsonl")), "a ramp is no run"


def test_quiet_prints_the_overrides_and_the_directory(program: Program) -> None:
    done = program(*SMALL, "mode=range_test", "quiet=true", "mode.sharpness=false", "mode.repeats=1")
    assert done.out.startswith("go on with: python -m runner ")
    assert len(done.out.splitlines()) == 2


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize(
    ("overrides", "code", "reason", "advice"),
    [
        (["mode.low=30"], 3, "it diverges at once: at lr", "Begin lower: mode.low=0.03"),
        (["mode.low=1e30", "mode.high=1e37"], 3, "it diverges at once: at lr", "Begin lower: mode.low=1e27"),
        (["mode.low=1e-9", "mode.high=1e-7"], 1, "it is noise: the loss scatters by", "Go further: mode.high=1e-4"),
        (
            ["task=quadratic", "mode.low=1e-20", "mode.high=1e-17"],
            1,
            "the curve is flat: the loss stays at",
            "Go further: mode.high=1e-14",
        ),
    ],
    ids=["at once", "with no second loss", "noise", "flat"],
)
def test_no_suggestion_is_said_with_its_reason(
    program: Program, overrides: list[str], code: int, reason: str, advice: str
) -> None:
    words = ["mode=range_test", "optimizer=sgd", "train.duration=60", "mode.sharpness=false", "mode.repeats=1"]
    done = program(*words, *overrides)
    assert done.code == code, done.err
    report = json.loads((done.run / "range_test.json").read_text())
    assert report["nothing"]["reason"].startswith(reason)
    assert report["nothing"]["advice"].startswith(advice)
    assert report["overrides"] == []
    assert (report["low"], report["high"]) == ("nan", "nan")
    assert f"no suggestion: {report['nothing']['reason']}. {report['nothing']['advice']}." in done.err
    assert "mode=search" not in done.out + done.err
    assert (done.run / "range_test.png").stat().st_size > 5_000


def test_short_schedules_around_the_middle_are_compared(program: Program) -> None:
    done = program(*SMALL, "mode=range_test", "optimizer=adam", "mode.verify=true", "mode.repeats=1")
    assert done.code == 0, done.err
    report = json.loads((done.run / "range_test.json").read_text())
    middle = math.sqrt(report["low"] * report["high"])
    assert [one["lr"] for one in report["verified"]] == pytest.approx([0.3 * middle, middle, 3 * middle])
    assert [one["steps"] for one in report["verified"]] == [30, 30, 30], "twice a quarter of 60 steps"
    assert done.out.count("lowest") >= 1
    spent = report["steps"] + 90
    assert f"cost: {spent} steps" in done.out


def test_verification_goes_on_from_the_checkpoint_and_tells_divergence(tmp_path: Path) -> None:
    done = train_here(*SMALL, "optimizer=sgd", directory=tmp_path)
    config = configured(*SMALL, "optimizer=sgd", f"resume.from={done.run}", "train.duration=200")
    low, middle, high = verify(config, 1e3)
    assert [one.lr for one in (low, middle, high)] == pytest.approx([300, 1e3, 3e3])
    assert high.losses[0] == math.inf or high.losses[0] > 10


MLP = ("task=digits", "task.hidden=[256,256]", "train.duration=400")
CNN = ("task=digits", "task.model=cnn", "train.duration=400")
GPT = (
    "task=char_lm", "task.width=64", "task.depth=2", "task.context=32", "train.batch_size=16", "train.duration=300",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("overrides", "best"),
    [  # lowest mean val loss of two seeds, rates a factor 2 to 3.3 apart, warmup and schedule of the page
        ((*MLP, "optimizer=sgd"), 0.4),  # 0.01 0.443, 0.03 0.129, 0.1 0.0976, 0.2 0.0969, 0.4 0.0864, 0.8 0.223
        ((*MLP, "optimizer=adam"), 2e-3),  # 3e-4 0.223, 1e-3 0.0991, 2e-3 0.0924, 4e-3 0.0932, 1e-2 0.128
        ((*MLP, "optimizer=rmsprop"), 3e-3),  # 3e-4 0.154, 1e-3 0.0884, 3e-3 0.0879, 1e-2 0.119
        ((*MLP, "optimizer=adagrad"), 0.03),  # 3e-3 0.189, 0.01 0.0936, 0.03 0.0867, 0.1 0.112
        ((*MLP, "optimizer=lion"), 3e-4),  # 1e-4 1.31, 3e-4 0.156, 1e-3 0.685
        ((*MLP, "optimizer=muon"), 0.01),  # 3e-3 1.05, 0.01 0.0988, 0.03 0.119, 0.1 0.325
        ((*MLP, "optimizer=schedulefree_adamw"), 3e-3),  # 1e-3 0.112, 3e-3 0.1, 0.01 0.112, 0.03 0.28
        ((*CNN, "optimizer=sgd"), 0.1),  # 0.03 0.103, 0.1 0.055, 0.2 0.0696, 0.4 0.162
        ((*CNN, "optimizer=adam"), 0.03),  # 3e-3 0.0816, 0.01 0.0508, 0.03 0.0479, 0.1 0.176
        ((*CNN, "optimizer=sgd", "train.batch_size=8"), 0.03),  # 0.01 0.461, 0.03 0.116, 0.1 0.177, 0.2 2.31
        ((*GPT, "optimizer=adam"), 3e-3),  # 1e-3 2.28, 3e-3 2.11, 0.01 2.12, 0.03 2.42
        ((*GPT, "optimizer=sgd"), 0.1),  # 0.03 2.34, 0.1 2.31, 0.3 2.64
    ],
)
def test_bracket_contains_the_best_rate(overrides: tuple[str, ...], best: float, seed: int) -> None:
    found = range_bracket(configured(*overrides, f"seed={seed}"), sharpness=False).found
    assert found.low < best < found.high


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (["mode.low=3", "mode.high=1"], ["mode.low: must be less than mode.high=1, got 3. Set mode.low=1e-4."]),
        (["mode.low=1e5"], ["mode.low: must be less than mode.high=800, where it ends, got 1e5. Set mode.low=0.08."]),
        (
            ["mode.high=1e-9"],
            ["mode.high: must be greater than mode.low=1e-4, where the ramp begins, got 1e-9. Set mode.high=1."],
        ),
        (["mode.low=0"], ["mode.low: must be a finite number > 0 or null, got 0."]),
        (["mode.low=nan"], ["mode.low: must be a finite number > 0 or null, got nan."]),
        (["mode.high=-1"], ["mode.high: must be a finite number > 0 or null, got -1."]),
        (
            ["mode.steps=25"],
            ["mode.steps: must be at least 36, 5 a decade from 1e-4 to 800, got 25. Set mode.steps=null for 139."],
        ),
        (
            ["mode.steps=19", "mode.shape=linear"],
            ["mode.steps: must be an integer >= 20 and <= 1000000 or null, got 19."],
        ),
        (
            ["mode.steps=3", "mode.low=3", "mode.high=1", "mode.repeats=0"],
            ["mode.steps: must be an integer >= 20 ", "mode.low: must be less than mode.high=1", "mode.repeats: must"],
        ),
        (["mode.repeats=0"], ["mode.repeats: must be an integer >= 1 and <= 100, got 0."]),
        (["mode.shape=cubic"], ["mode.shape: must be one of exponential, linear, got 'cubic'."]),
        (["mode.lo=1"], ["mode.lo: unknown key, did you mean mode.low?"]),
        (
            ["optimizer=prodigy", "mode.low=3", "mode.high=1", "mode.repeats=0", "train.durations=3"],
            [
                "mode.low: must be less than mode.high=1, got 3.",
                "mode.repeats: must be an integer >= 1",
                "optimizer._target_: must be an optimizer whose step size is optimizer.lr, got 'prodigyopt.Prodigy', "
                "which estimates one of its own as it goes. Try a few values of what it does take: "
                "-m optimizer.d_coef=0.5,1,2.",
                "train.durations: unknown key",
            ],
        ),
        (
            ["optimizer=rprop"],
            ["optimizer._target_: must be an optimizer that reads optimizer.lr at every update, got "
             "'torch.optim.Rprop', which reads it at the first only."],
        ),
    ],
)  # fmt: skip
def test_mistakes_are_refused_all_at_once(
    refuse: Callable[..., Refusal], overrides: list[str], messages: list[str]
) -> None:
    refusal = refuse("mode=range_test", "optimizer=sgd", *overrides)
    assert refusal.code == 2
    assert [message for message in messages if message not in refusal.err] == []
    assert refusal.left_behind == []


def test_page_has_the_numbers_that_are_checked() -> None:
    text = (conf_directory() / "mode" / "range_test.yaml").read_text()
    assert f"at least {FEWEST}, and {FEWEST_A_DECADE} a decade; null is {TYPICAL_A_DECADE} a decade" in text


def test_other_modes_take_an_optimizer_that_a_ramp_cannot(program: Program) -> None:
    assert program(*SMALL, "mode=check", "optimizer=rprop").code == 0
