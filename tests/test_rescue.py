"""What remedies cure, on real runs: the acceptance cases of automatic remedies."""

import math
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from torch import Tensor

from runner.build import build
from runner.job import checked
from runner.records import Record, StepRecord
from runner.train.checkpoint import Checkpoints
from runner.train.loop import fit
from tests.conftest import Program
from tests.pages import composed

DIGITS = (
    "task.hidden=[256,256]", "train.duration=400", "schedule=linear_to_zero", "warmup=none",
    "train.eval_every=null", "train.checkpoint_every=null",
)  # fmt: skip
SEEDS = [pytest.param(seed, marks=[pytest.mark.slow] if seed else []) for seed in range(5)]


class Trained(NamedTuple):
    """A run, and what came out of it."""

    status: str
    val_loss: float
    losses: list[float]
    actions: list[str]
    weights: dict[str, Tensor]

    @property
    def has_failed(self) -> bool:
        """Whether it has not come near the 0.09 that the best rate gives, two and a half times of it."""
        return self.status != "finished" or not self.val_loss < 0.25


def trained(folder: Path, *overrides: str) -> Trained:
    made = build(checked(composed("tracking=off", *overrides)))
    records: list[Record] = []
    state = fit(
        made.task, made.model, made.optimizer, made.schedules, plan=made.plan, watch=made.watch,
        checkpoints=Checkpoints(folder), on_record=records.append, clipping=made.clipping,
    )  # fmt: skip
    losses = [record.loss for record in records if isinstance(record, StepRecord)]
    actions = [action.remedy for action in state.actions]
    return Trained(state.status, state.last_eval.get("loss", math.inf), losses, actions, made.model.state_dict())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_rate_that_is_far_too_high_is_healed(tmp_path: Path, seed: int) -> None:
    declared = [*DIGITS, "optimizer.lr=1.0", f"seed={seed}"]
    assert trained(tmp_path / "none", *declared, "remedy=[stop]").has_failed
    healed = trained(tmp_path / "heal", *declared, "remedy=[heal]")
    assert "heal/compare" in healed.actions
    assert not healed.has_failed


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_rollbacks_alone_heal_it_with_a_sharper_trigger(tmp_path: Path, seed: int) -> None:
    """Seed 0 is not healed by rollbacks: its loss smoulders, and never rises by more than its noise explains."""
    sharper = ["detectors.blow_up.smoothing=0.8", "detectors.blow_up.margin=0.3"]
    healed = trained(tmp_path, *DIGITS, "optimizer.lr=1.0", f"seed={seed}", "remedy=[rollback_ladder]", *sharper)
    assert set(healed.actions) == {"rollback_ladder/halve"}
    assert not healed.has_failed


@pytest.mark.parametrize(
    ("remedy", "rate", "made"),
    [
        ("rollback_ladder", ["optimizer.lr=0.2"], []),
        ("heal", ["optimizer=adamw", "optimizer.lr=0.002"], ["heal/compare"]),
    ],
)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_healthy_run_is_not_touched(tmp_path: Path, remedy: str, rate: list[str], made: list[str], seed: int) -> None:
    declared = [*DIGITS, *rate, f"seed={seed}"]
    plain = trained(tmp_path / "plain", *declared, "remedy=[stop]")
    watched = trained(tmp_path / "watched", *declared, f"remedy=[{remedy}]")
    assert watched.actions == made
    assert watched.losses == plain.losses
    assert watched.val_loss == plain.val_loss
    assert all(torch.equal(value, watched.weights[name]) for name, value in plain.weights.items())


def test_a_probe_beside_heal_is_made_once(tmp_path: Path) -> None:
    made = trained(tmp_path, "train.duration=100", "optimizer.lr=0.05", "remedy=[probe,heal]").actions
    assert made == ["probe"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_dropping_updates_does_not_resolve_a_rate_that_is_too_high(tmp_path: Path, seed: int) -> None:
    declared = [*DIGITS, "optimizer.lr=1.0", f"seed={seed}", "detector=[non_finite,divergence,loss_spike]"]
    skipping = ["remedy=[skip_update,stop]", "remedies.skip_update.detectors=[non_finite,loss_spike]"]
    assert trained(tmp_path, *declared, *skipping).has_failed


POST_LN = (
    "task=char_lm", "task.norm=post", "task.context=32", "task.width=48", "task.depth=4", "train.batch_size=8",
    "train.duration=250", "schedule=cosine", "warmup.duration=5%", "train.eval_every=null",
    "train.checkpoint_every=null", "optimizer=adamw", "optimizer.lr=0.0316",
)  # fmt: skip


@pytest.mark.xfail(
    reason="the gain of the lower rates, a tenth, is below the least scatter that a probe assumes", strict=True
)
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_transformer_that_is_stuck_at_the_frequencies_of_its_targets_is_healed(tmp_path: Path, seed: int) -> None:
    stuck = trained(tmp_path / "none", *POST_LN, f"seed={seed}", "remedy=[stop]")
    healed = trained(tmp_path / "heal", *POST_LN, f"seed={seed}", "remedy=[heal]", "~detectors.probe_due")
    assert healed.actions == ["heal/compare"]
    assert healed.val_loss < stuck.val_loss - 0.3


def test_a_run_that_goes_on_with_another_remedy_gets_the_detectors_that_come_with_it(program: Program) -> None:
    first = program("train.duration=30", "detector=[non_finite]")
    rest = program(f"resume.from={first.run}", "remedy=[heal]", "train.duration=40")
    assert rest.code == 0, rest.err
    page = yaml.safe_load((rest.run / "config.yaml").read_text())
    assert {"blow_up", "divergence", "non_finite", "stuck_at_prior"} <= page["detectors"].keys()
