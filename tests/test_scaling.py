"""The learning rate follows the batch size by a declared rule, and a run says where its rate comes from."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.build import Experiment, build
from runner.job import checked
from runner.scaling import Hyperparameters, Rule, scale
from tests.conftest import Program
from tests.pages import composed

LINEAR = ("scaling=linear", "scaling.reference_batch_size=32")
WHOLE_SQRT = ("optimizer=adamw", "scaling=sqrt", "scaling.reference_batch_size=16", "scaling.betas=true")


def make(*overrides: str) -> Experiment:
    return build(checked(composed(*overrides)))


def result_of(run: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    return result


def origin_of(run: Path) -> list[tuple[str, float]]:
    return [(step["what"], step["value"]) for step in result_of(run)["learning_rate"]["origin"]]


@pytest.mark.parametrize(
    ("rule", "factor", "lr"), [("linear", 4, 4e-3), ("linear", 0.5, 5e-4), ("sqrt", 4, 2e-3), ("none", 4, 1e-3)]
)
def test_rule_gives_the_published_learning_rate(rule: Rule, factor: float, lr: float) -> None:
    scaled = scale(Hyperparameters(1e-3), rule=rule, factor=factor)
    assert scaled.lr == pytest.approx(lr, rel=1e-12)
    assert (scaled.betas, scaled.eps) == (None, None)


def test_sqrt_rule_scales_betas_and_eps_as_published() -> None:
    scaled = scale(Hyperparameters(1e-3, (0.9, 0.999), 1e-8), rule="sqrt", factor=4)
    assert scaled.lr == pytest.approx(2e-3, rel=1e-12)
    assert scaled.betas == pytest.approx((0.6, 0.996), rel=1e-12)
    assert scaled.eps == pytest.approx(5e-9, rel=1e-12)


def test_scaling_there_and_back_changes_nothing() -> None:
    before = Hyperparameters(1e-3, (0.9, 0.999), 1e-8)
    back = scale(scale(before, rule="sqrt", factor=8), rule="sqrt", factor=1 / 8)
    assert (back.lr, *(back.betas or ()), back.eps) == pytest.approx((1e-3, 0.9, 0.999, 1e-8), rel=1e-12)


def test_average_that_would_keep_nothing_is_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match=r"below 1, got \(1 - 0.9\) \* 16 = 1.6"):
        scale(Hyperparameters(1e-3, (0.9, 0.999)), rule="sqrt", factor=16)


def test_optimizer_is_made_with_the_scaled_values() -> None:
    (group,) = make(*WHOLE_SQRT).optimizer.param_groups
    assert (group["lr"], group["initial_lr"], group["eps"]) == pytest.approx((2e-3, 2e-3, 5e-9), rel=1e-12)
    assert group["betas"] == pytest.approx((0.6, 0.996), rel=1e-12)


def test_lowest_learning_rate_is_absolute_also_after_scaling() -> None:
    made = make(*LINEAR, "optimizer.lr=0.1", "+schedule.min_lr=0.05", "warmup=none")
    initial_lr = made.optimizer.param_groups[0]["initial_lr"]
    assert initial_lr * made.schedules[("all", "lr")](made.plan.steps) == pytest.approx(0.05, rel=1e-12)


def test_groups_keep_their_ratio_to_the_scaled_rate() -> None:
    made = make(*LINEAR, "optimizer.lr=0.1", "param_groups._target_=tests.own_parts.fast_first")
    assert {g["name"]: g["initial_lr"] for g in made.optimizer.param_groups} == {"first": 2.0, "rest": 0.2}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            (*WHOLE_SQRT, "scaling.reference_batch_size=4"),
            "scaling.betas: must keep (1 - beta) * k below 1, got (1 - 0.9) * 16 = 1.6, where k = train.batch_size / "
            "scaling.reference_batch_size. Set scaling.betas=false, a smaller train.batch_size or larger "
            "optimizer.betas.",
        ),
        (
            (*WHOLE_SQRT, "optimizer=sgd"),
            "scaling.betas: must be false for an optimizer without betas, got true with SGD. Set scaling.betas=false.",
        ),
        (
            (*LINEAR, "scaling.betas=true"),
            "scaling.betas: must be false with the linear rule, got true. Set scaling=sqrt scaling.betas=true.",
        ),
        (
            (*WHOLE_SQRT, "optimizer.betas=[0.9]"),
            "optimizer.betas: must be a list of 2, each item a finite number, got [0.9]",
        ),
        (
            (*WHOLE_SQRT, "~optimizer.eps"),
            "optimizer.eps: must be a finite number >= 0 to be scaled, got nothing. Give optimizer.eps, or set "
            "scaling.betas=false.",
        ),
        (
            (*LINEAR, "scaling.reference_batch_size=0"),
            "scaling.reference_batch_size: must be an integer >= 1 or null, got 0.",
        ),
    ],
)
def test_scaling_that_cannot_be_is_refused(program: Program, overrides: tuple[str, ...], message: str) -> None:
    done = program(*overrides)
    assert done.code == 2
    assert message in done.err
    assert list(done.directory.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "warning"),
    [
        ((*LINEAR, "optimizer=adamw"), "scaling: the sqrt rule is the usual one for AdamW"),
        (("scaling=sqrt", "scaling.reference_batch_size=32"), "scaling: the linear rule is the usual one for SGD"),
        (
            (*LINEAR, "scaling.reference_batch_size=1", "optimizer.lr=0.01"),
            "scaling: batch size 64 is 64 times the reference",
        ),
        (
            (*LINEAR, "optimizer.lr=5"),
            "optimizer.lr: 10 after scaling (5 before) is 12.5 times above the typical range",
        ),
        ((*WHOLE_SQRT, "warmup=untuned"), "warmup.beta2: 0.999 is scaled to 0.996 for the optimizer"),
    ],
)
def test_unusual_scaling_is_a_warning(program: Program, overrides: tuple[str, ...], warning: str) -> None:
    done = program(*overrides, "train.duration=2")
    assert done.code == 0
    assert f"warning {warning}" in done.err


def test_usual_scaling_is_no_warning(program: Program) -> None:
    for overrides in (LINEAR, WHOLE_SQRT):
        assert "warning" not in program(*overrides, "train.duration=2").err


def test_run_uses_and_records_the_scaled_rate_and_repeats_it_from_its_command(program: Program) -> None:
    done = program(*LINEAR, "optimizer.lr=0.05", "schedule=constant", "warmup=none", "train.duration=3")
    result = result_of(done.run)
    assert result["title"] == "sgd lr=0.1 constant w0"
    found = result["learning_rate"]
    assert (found["optimizer.lr"], found["used"]) == (0.05, 0.1)
    assert found["origin"] == [
        {"what": "typed", "where": "the command line", "value": 0.05},
        {
            "what": "scaled",
            "rule": "linear",
            "lr_factor": 2.0,
            "value": 0.1,
            "reference_batch_size": 32,
            "batch_size": 64,
        },
    ]
    assert found["groups"] == {"all": {"lr_multiplier": 1.0, "initial_lr": 0.1}}
    words = "0.05 typed on the command line, scaled to 0.1 (linear rule, from batch size 32 to 64)"
    assert found["in_words"] == words
    assert f"learning rate: {words}" in done.err + done.out
    steps = [json.loads(line) for line in (done.run / "records.jsonl").read_text().splitlines()]
    assert {step["lr"] for step in steps if step["kind"] == "step"} == {0.1}


def test_advice_speaks_of_the_learning_rate_as_written(program: Program) -> None:
    done = program(*LINEAR, "optimizer.lr=20", "train.duration=60")
    assert done.code == 3
    assert "optimizer.lr=2" in done.out.replace("optimizer.lr=20", "")


def test_origin_is_the_default_of_the_option_the_page_or_the_run_that_goes_on(program: Program, tmp_path: Path) -> None:
    default = program("optimizer=adamw", "train.duration=4", "train.checkpoint_every=2")
    assert result_of(default.run)["learning_rate"]["origin"] == [
        {"what": "default", "where": "conf/optimizer/adamw.yaml", "value": 0.001}
    ]
    goes_on = program(f"resume.from={default.run}", "train.duration=8", *LINEAR)
    assert origin_of(goes_on.run) == [("default", 0.001), ("resumed", 0.001), ("scaled", 0.002)]
    again = program(f"resume.from={goes_on.run}", "train.duration=12", "optimizer.lr=0.003")
    assert origin_of(again.run) == [("typed", 0.003), ("scaled", 0.006)]
    (tmp_path / "mine.yaml").write_text("defaults: [config, _self_]\noptimizer: {lr: 0.25}\ntrain: {duration: 2}\n")
    of_page = program("--config-dir", str(tmp_path), "--config-name", "mine")
    assert result_of(of_page.run)["learning_rate"]["in_words"] == "0.25 written in mine"
    (tmp_path / "fine.v2.yaml").write_text("defaults: [config, _self_]\noptimizer: {lr: 0.1}\ntrain: {duration: 2}\n")
    of_page = program("--config-dir", str(tmp_path), "--config-name", "fine.v2")
    assert result_of(of_page.run)["learning_rate"]["in_words"] == "0.1 written in fine.v2"
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer/own.yaml").write_text("_target_: torch.optim.SGD\n_partial_: true\nlr: 2e-1\n")
    of_option = program("--config-dir", str(tmp_path), "optimizer=own", "train.duration=2")
    assert origin_of(of_option.run) == [("default", 0.2)]


def test_a_page_that_goes_on_scaled_is_scaled_once(program: Program) -> None:
    first = program(*LINEAR, "optimizer.lr=0.05", "train.duration=4", "train.checkpoint_every=2")
    second = program(f"resume.from={first.run}", "train.duration=8")
    assert origin_of(second.run) == [("typed", 0.05), ("resumed", 0.05), ("scaled", 0.1)]
    checkpoint = torch.load(second.run / "checkpoints/last.pt", weights_only=True)
    assert [group["initial_lr"] for group in checkpoint["optimizer"]["param_groups"]] == [0.1]


def test_dry_run_prints_the_rate_as_written_and_as_used(program: Program) -> None:
    done = program(*WHOLE_SQRT, "mode=check", "mode.steps=2")
    assert (
        "learning rate: 0.001 default of conf/optimizer/adamw.yaml, scaled to 0.002 "
        "(sqrt rule, from batch size 16 to 64, betas 0.6 and 0.996, eps 5e-09)"
    ) in done.out


@pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")
@pytest.mark.filterwarnings("ignore:The ..noload.. loader strategy:DeprecationWarning")
def test_mlflow_knows_the_rate_used_and_where_it_comes_from(program: Program) -> None:
    grouped = ("param_groups._target_=tests.own_parts.fast_first", "tracking.wait_seconds=60")
    done = program(*LINEAR, "optimizer.lr=0.005", *grouped, "train.duration=3", tracking="mlflow")
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{done.directory}/runs/mlflow.db")
    run = client.get_run(result_of(done.run)["mlflow_run_id"])
    assert run.data.params["optimizer.lr"] == "0.005"
    found = {key: value for key, value in {**run.data.params, **run.data.tags}.items() if key.startswith("lr.")}
    assert found == {
        "lr.used": "0.01",
        "lr.group.first": "0.1",
        "lr.group.rest": "0.01",
        "lr.origin": "0.005 typed on the command line, scaled to 0.01 (linear rule, from batch size 32 to 64)",
        "lr.scaling": "linear x2",
    }
