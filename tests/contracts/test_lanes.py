"""Lane i equals the single run with that learning rate, for every optimizer and every task."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from runner.build import Experiment
from runner.lanes.refusal import why_not
from tests.conftest import ROOT
from tests.contracts.conftest import Make, missing, optimizers, options
from tests.lanes import alone, doubled, farthest, in_lanes, losses_apart, nudged

STEPS = 50
FACTORS = [0.3, 1.0]  # of the learning rate of the page, all stable
CHEAP_OPTIMIZERS = {"adamw", "muon", "nesterov", "prodigy", "schedulefree_adamw", "sgd"}
NO_DOUBLE = {"bnb_adamw8bit", "bnb_paged_adamw8bit", "psgd_kron", "soap", "torchao_adamw8bit"}  # compute in float32
ILL_CONDITIONED = {"soap"}  # its bases of hardly any gradient turn with the last digit, see below
CHAR_LM = [  # of a short text, whose evaluation takes no longer than the steps
    *("task=char_lm", f"task.text={ROOT / 'tests/golden_schedules.json'}", "task.width=8", "task.depth=1"),
    *("task.heads=2", "task.context=16", "train.batch_size=8"),
]
SUPERVISED = ["task=supervised", "task.train._target_=tests.own_parts.Points", "task.model._target_=tests.own_parts"]
TASKS: dict[str, list[str]] = {
    "char_lm": CHAR_LM,
    "digits": ["task=digits", "task.hidden=[16]"],
    "quadratic": ["task=quadratic", "optimizer.lr=0.05"],
    "supervised": [*SUPERVISED[:-1], f"{SUPERVISED[-1]}.Net"],
    "tabular": ["task=tabular", "task.hidden=[8]"],
}
FORMS: dict[str, list[str]] = {
    "qk_norm": [*CHAR_LM, "task.qk_norm=true", "task.norm=post"],
    "cnn": ["task=digits", "task.model=cnn", "optimizer=adamw"],
    "batch_norm": [*SUPERVISED[:-1], f"{SUPERVISED[-1]}.BatchNormed"],
    "ema": [*SUPERVISED[:-1], f"{SUPERVISED[-1]}.BatchNormed", "train.ema_decay=0.9"],
    "own_average": [
        *(*SUPERVISED[:-1], f"{SUPERVISED[-1]}.BatchNormed", "optimizer=schedulefree_sgd", "train.refresh_batches=5"),
    ],
    "accumulate": ["task=digits", "task.hidden=[16]", "train.accumulate=3", "train.clip_norm=0.5"],
    "agc": ["task=digits", "task.hidden=[16]", "clip=agc"],
    "zclip": ["task=digits", "task.hidden=[16]", "clip=zclip"],
    "frozen": ["task=digits", "task.hidden=[16]", "param_groups=unfreeze", "param_groups.unfreeze_every=20"],
    "sharpness": ["task=digits", "task.hidden=[16]", "monitor.sharpness.every=10", "detector=[default,edge]"],
    "signals": ["task=digits", "task.hidden=[16]", "detector=[default,update_ratio,rms_spike]", "optimizer=adamw"],
}  # fmt: skip


def made(make: Make, overrides: list[str], *, double: bool) -> list[Experiment]:
    declared = [*overrides, f"train.duration={STEPS}", "train.eval_every=20", "train.checkpoint_every=null"]
    lr = make(*declared).optimizer.param_groups[0]["initial_lr"]
    found = [make(*declared, f"optimizer.lr={factor * lr:.6g}") for factor in FACTORS]
    return [doubled(experiment) for experiment in found] if double else found


def compare(make: Make, overrides: list[str], directory: Path, *, double: bool, weights: float, losses: float) -> None:
    """Compare weights, or only losses where `weights` is inf, of lanes with those of single runs."""
    singles = [alone(each, directory / f"s{i}") for i, each in enumerate(made(make, overrides, double=double))]
    experiments = made(make, overrides, double=double)
    assert why_not([experiment.parts() for experiment in experiments]) is None
    for single, lane in zip(singles, in_lanes(experiments, directory), strict=True):
        assert lane.losses == pytest.approx(single.losses, rel=losses, abs=losses)
        assert len(lane.losses) == STEPS
        assert lane.state.status == single.state.status
        assert farthest(single, lane) <= weights


def by_cost(names: list[Any], cheap: Collection[str]) -> list[Any]:
    """Mark what is not cheap as slow."""
    found = []
    for name in names:
        marks, text = (name.marks, name.values[0]) if hasattr(name, "marks") else ((), name)
        found.append(pytest.param(text, marks=[*marks, *([] if text in cheap else [pytest.mark.slow])]))
    return found


@pytest.mark.parametrize("name", by_cost(optimizers(without=NO_DOUBLE), CHEAP_OPTIMIZERS))
def test_every_optimizer_in_float64(make: Make, tmp_path: Path, name: str) -> None:
    overrides = [*TASKS["digits"], f"optimizer={name}"]
    compare(make, overrides, tmp_path, double=True, weights=1e-10, losses=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", optimizers(without=ILL_CONDITIONED))
def test_every_optimizer_in_float32(make: Make, tmp_path: Path, name: str) -> None:
    overrides = [*TASKS["digits"], f"optimizer={name}"]
    compare(make, overrides, tmp_path, double=False, weights=1e-6, losses=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=missing(name)) for name in sorted(ILL_CONDITIONED)])
def test_lanes_are_no_farther_from_a_run_alone_than_its_last_digit_takes_it(
    make: Make, tmp_path: Path, name: str
) -> None:
    overrides = [*TASKS["digits"], f"optimizer={name}"]
    singles = [alone(each, tmp_path / f"s{i}") for i, each in enumerate(made(make, overrides, double=False))]
    lanes = in_lanes(made(make, overrides, double=False), tmp_path)
    for index, (single, lane) in enumerate(zip(singles, lanes, strict=True)):
        moved = [
            alone(nudged(made(make, overrides, double=False)[index], seed), tmp_path / f"n{index}{seed}")
            for seed in range(3)
        ]
        by_last_digit = max(losses_apart(single, each) for each in moved)
        assert by_last_digit > 2e-5  # hundreds of times what moved them
        assert losses_apart(single, lane) < 4 * by_last_digit


@pytest.mark.parametrize("name", options("task"))
def test_every_task_in_float64(make: Make, tmp_path: Path, name: str) -> None:
    compare(make, TASKS[name], tmp_path, double=True, weights=1e-10, losses=1e-10)


@pytest.mark.parametrize("name", options("task"))
def test_every_task_in_float32(make: Make, tmp_path: Path, name: str) -> None:
    """The bias of the keys has no gradient but rounding errors, which Adam makes as large as any: losses tell there."""
    tolerance = 1e-4 if name == "char_lm" else 1e-6
    weights = float("inf") if name == "char_lm" else tolerance
    compare(make, TASKS[name], tmp_path, double=False, weights=weights, losses=tolerance)


@pytest.mark.parametrize("name", by_cost(sorted(FORMS), FORMS.keys() - {"qk_norm"}))
def test_every_form_of_training(make: Make, tmp_path: Path, name: str) -> None:
    weights = float("inf") if name == "qk_norm" else 1e-4
    compare(make, FORMS[name], tmp_path, double=False, weights=weights, losses=1e-4)
