"""Gradual unfreezing: a frozen group is as if it were not there, and a run goes on bit for bit around a thaw."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.records import Record, StepRecord
from runner.train.checkpoint import Checkpoints
from runner.train.loop import fit
from tests.conftest import Program
from tests.contracts.conftest import Make
from tests.test_resume import same

THAW = 20
DECLARED = [
    "param_groups=unfreeze",
    f"param_groups.unfreeze_every={THAW}",
    "optimizer=adamw",
    "optimizer.weight_decay=0.1",
    "task.hidden=[16,16]",
    "task.dropout=0.1",
    "train.duration=60",
]


def train(make: Make, directory: Path, *, until: int = 60, source: Path | None = None) -> Mapping[str, Any]:
    """Train up to a step; return the last checkpoint and the records of the steps."""
    experiment = make(*DECLARED)
    made: list[Record] = []
    first = int(torch.load(source, weights_only=True)["state"]["step"]) if source is not None else 0
    fit(
        experiment.task,
        experiment.model,
        experiment.optimizer,
        experiment.schedules,
        plan=experiment.plan,
        watch=experiment.watch,
        checkpoints=Checkpoints(directory, source=source),
        on_record=made.append,
        interrupted=lambda: "the test" if first + sum(isinstance(r, StepRecord) for r in made) >= until else None,
    )
    content: dict[str, Any] = torch.load(directory / "checkpoints/last.pt", weights_only=True)
    steps = [(r.step, r.loss, r.lrs, r.grad_norm) for r in made if isinstance(r, StepRecord)]
    return {"steps": steps, "model": content["model"], "optimizer": content["optimizer"]}


@pytest.mark.parametrize("stop", [THAW - 1, THAW, THAW + 1])
def test_a_run_goes_on_bit_for_bit_before_at_and_after_a_thaw(make: Make, tmp_path: Path, stop: int) -> None:
    whole = train(make, tmp_path / "whole")
    begun = train(make, tmp_path / "begun", until=stop)
    ended = train(make, tmp_path / "ended", source=tmp_path / "begun/checkpoints/last.pt")
    assert len(begun["steps"]) == stop
    assert begun["steps"] + ended["steps"] == whole["steps"]
    assert same(ended["model"], whole["model"])
    assert same(ended["optimizer"], whole["optimizer"])


def test_a_frozen_group_keeps_its_weights_has_no_state_and_no_share_in_the_gradient_norm(
    make: Make,
    tmp_path: Path,
) -> None:
    start = {name: value.clone() for name, value in make(*DECLARED).model.state_dict().items()}
    before = train(make, tmp_path / "before", until=THAW)
    after = train(make, tmp_path / "after", until=THAW + 1)
    assert [name for name, value in before["model"].items() if not torch.equal(value, start[name])] == [
        "6.weight",
        "6.bias",
    ]
    changed = [name for name, value in after["model"].items() if not torch.equal(value, start[name])]
    assert changed == ["3.weight", "3.bias", "6.weight", "6.bias"]
    assert len(before["optimizer"]["state"]) == 2
    assert len(after["optimizer"]["state"]) == 4

    head_alone = make(*DECLARED[2:], "param_groups=freeze")
    alone: list[Record] = []
    fit(
        head_alone.task,
        head_alone.model,
        head_alone.optimizer,
        head_alone.schedules,
        plan=head_alone.plan,
        watch=head_alone.watch,
        checkpoints=Checkpoints(tmp_path / "alone"),
        on_record=alone.append,
    )
    norms = [r.grad_norm for r in alone if isinstance(r, StepRecord)]
    assert [norm for *_, norm in before["steps"]] == norms[:THAW]


def test_a_frozen_group_is_recorded_with_a_learning_rate_of_0(program: Program) -> None:
    done = program(*DECLARED)
    assert done.code == 0, done.err
    records = [json.loads(line) for line in (done.run / "records.jsonl").read_text().splitlines()]
    lrs = [r["lrs"] if "lrs" in r else dict.fromkeys("036", r["lr"]) for r in records if r["kind"] == "step"]
    for name, first in {"6": 0, "3": THAW, "0": 2 * THAW}.items():
        assert [step for step, of_step in enumerate(lrs) if of_step[name] > 0] == list(range(first, 60))


def test_a_resumed_run_obeys_the_thaw_that_it_declares_now(program: Program) -> None:
    first = program(*DECLARED, "train.duration=30", "param_groups.unfreeze_every=10")
    later = program(f"resume.from={first.run}", "train.duration=60", "param_groups.unfreeze_every=25")
    assert later.code == 0, later.err
    groups = torch.load(later.run / "checkpoints/last.pt", weights_only=True)["optimizer"]["param_groups"]
    assert [group["frozen_steps"] for group in groups] == [0, 25, 50]


def test_momenta_of_other_groups_are_refused_before_anything_is_written(program: Program, tmp_path: Path) -> None:
    first = program(*DECLARED[2:], "param_groups=layerwise", "train.duration=30")
    there = set(tmp_path.rglob("*"))
    for mode in ("train", "check"):
        changed = ("train.duration=60", "param_groups.no_decay_1d=true")
        later = program(f"mode={mode}", f"resume.from={first.run}", *changed)
        assert later.code == 2
        assert (
            "param_groups: must be those of the run that goes on, but it has 6 (2 tensors), 3 (2 tensors)" in later.err
        )
    assert set(tmp_path.rglob("*")) == there
