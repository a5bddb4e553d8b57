"""Clipping that follows the training: the published rules, step by step, and what a checkpoint keeps of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from runner.records import StepRecord
from runner.train.clipping import Adaptive, Clipping, Fixed, Percentile, ZClip
from runner.train.saved import newest
from runner.watch import Watch
from tests.conftest import Refusal
from tests.test_rollback import PLAN, Made, Spoilt, timeless

GENERATOR = torch.Generator().manual_seed(0)
NORMS = [*(torch.rand(60, generator=GENERATOR) + 0.5).tolist(), 9.0, math.inf, *[1.0] * 10, 30.0, 2.0, math.nan, 1.0]


def clipped_norms(clipping: Clipping, norms: Sequence[float]) -> tuple[list[float], list[bool]]:
    """Return the norm after clipping, and whether it was clipped, of a gradient of each of these norms."""
    after, flags = [], []
    for norm in norms:
        grads = [torch.tensor([0.6, 0.0]) * norm, torch.tensor([[0.8]]) * norm]
        before, is_clipped = clipping.clip([], grads)
        assert float(before) == pytest.approx(norm) or not math.isfinite(norm)
        after.append(float(torch.linalg.vector_norm(torch.cat([grad.flatten() for grad in grads]))))
        assert is_clipped is not None
        flags.append(bool(is_clipped))
    return after, flags


def as_published(norms: Sequence[float], max_norm: float) -> list[float]:
    """Return what ZClip leaves of norms, by the rule of its reference implementation."""
    found: list[float] = []
    mean = var = 0.0
    for step, norm in enumerate(norms):
        if step < 25:
            most = max_norm
            if step == 24:
                mean = sum(norms[:25]) / 25
                var = sum((value - mean) ** 2 for value in norms[:25]) / 25
            found.append(min(norm, most))
            continue
        z = (norm - mean) / (math.sqrt(var) + 1e-6)
        most = min(mean + 2.5 * math.sqrt(var) / (z / 2.5) if z > 2.5 else norm, max_norm)
        found.append(min(norm, most))
        mean = 0.97 * mean + 0.03 * most
        var = 0.97 * var + 0.03 * (most - mean) ** 2
    return found


@pytest.mark.parametrize("max_norm", [1.0, 100.0])
def test_zclip_is_its_reference_implementation(max_norm: float) -> None:
    finite = [norm for norm in NORMS if math.isfinite(norm)]
    after, flags = clipped_norms(ZClip(max_norm=max_norm), finite)
    expected = as_published(finite, max_norm)
    assert after == pytest.approx(expected, rel=1e-4)
    assert flags == [one < norm * (1 - 1e-6) for one, norm in zip(expected, finite, strict=True)]
    assert any(flags[25:])


def test_a_norm_that_is_no_number_leaves_mean_and_deviation() -> None:
    with_holes, _ = clipped_norms(ZClip(max_norm=None), NORMS)
    assert all(math.isfinite(after) for after, norm in zip(with_holes, NORMS, strict=True) if math.isfinite(norm))
    zclip = ZClip(max_norm=None)
    clipped_norms(zclip, NORMS[:40])
    before = zclip.state_dict()
    clipped_norms(zclip, [math.inf, math.nan] * 10)
    assert zclip.state_dict() == before


def test_a_calibration_without_a_number_takes_the_first_that_comes() -> None:
    after, flags = clipped_norms(Percentile(calibration=2), [math.inf, math.nan, math.nan, 2.0, 1.0, 4.0])
    assert after[3:] == pytest.approx([2.0, 1.0, 2.0], rel=1e-5)
    assert flags == [*[False] * 5, True]


def test_percentile_clips_after_its_calibration() -> None:
    norms = [*map(float, range(1, 11)), 5.0, 50.0, 9.0]
    after, flags = clipped_norms(Percentile(calibration=10, share=0.9), norms)
    assert after == pytest.approx([*map(float, range(1, 11)), 5.0, 9.1, 9.0], rel=1e-5)
    assert flags == [*[False] * 11, True, False]


def test_adaptive_clipping_looks_at_every_unit() -> None:
    weights = [torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([0.6, 0.8])]
    grads = [torch.tensor([[0.3, 0.4], [3.0, 4.0]]), torch.tensor([0.003, 0.004])]
    norm, is_clipped = Adaptive(share=0.01, eps=1e-3).clip(weights, grads)
    assert float(norm) == pytest.approx(math.sqrt(0.25 + 25 + 25e-6))
    assert torch.linalg.vector_norm(grads[0], dim=1).tolist() == pytest.approx([0.05, 1e-5])
    assert grads[1].tolist() == pytest.approx([0.003, 0.004]), "below a hundredth of its weights"
    assert is_clipped is not None
    assert bool(is_clipped)
    _, again = Adaptive(share=1.0).clip(weights, [torch.tensor([[0.3, 0.4], [0.0, 0.0]]), torch.zeros(2)])
    assert again is not None
    assert not bool(again)


MAKES: dict[str, Callable[[], Clipping]] = {
    "percentile": lambda: Percentile(calibration=15, share=0.1),
    "zclip": ZClip,
    "adaptive": lambda: Adaptive(share=0.2),
    "fixed": lambda: Fixed(clip_norm=0.5),
}


@pytest.mark.parametrize("killed_at", [18, 44])
@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_a_killed_run_goes_on_to_the_same_end(tmp_path: Path, make: Callable[[], Clipping], killed_at: int) -> None:
    plan = replace(PLAN, checkpoint_every=10, watch_every=4)

    def run(name: str, killed_at: int | None = None, source: Path | None = None) -> Made:
        task = Spoilt(killed_at=killed_at)
        return Made(tmp_path / name, task=task, plan=plan, watch=Watch({}, {}), clipping=make(), source=source)

    whole = run("whole")
    flags = [record.clipped for record in whole.of(StepRecord)]
    assert True in flags
    assert run("cut", killed_at).state is None
    source = newest(tmp_path / "cut/checkpoints")
    begin = torch.load(source, weights_only=True)["state"]["step"]
    rest = run("cut", source=source)
    later = [record for record in timeless(whole.records) if record.step > begin]
    assert [record for record in timeless(rest.records) if record.step > begin] == later
    for one, other in zip(whole.model.state_dict().values(), rest.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_clipping_reads_no_value_from_the_device(make: Callable[[], Clipping]) -> None:
    clipping, parameter = make(), torch.ones(3, 2, device="meta")
    for _ in range(30):
        grads: list[Tensor] = [torch.ones(3, 2, device="meta")]
        norm, is_clipped = clipping.clip([parameter], grads)
        assert norm.is_meta
        assert is_clipped is None or is_clipped.is_meta


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["clip=zclip", "train.clip_norm=1.0"],
            "train.clip_norm: must be null with a clip that finds its own norm, got 1. Set clip=fixed, or "
            "train.clip_norm=null.",
        ),
        (
            ["clip=agc", "remedy=[clip,stop]"],
            "remedies.clip: must have clip=fixed, whose norm it sets, got 'runner.train.clipping.Adaptive'. "
            "Set clip=fixed.",
        ),
        (["clip=percentile", "clip.share=1.5"], "clip.share: must be a finite number > 0 and < 1, got 1.5. "),
        (["clip=zclip", "clip.warmup=1"], "clip.warmup: must be an integer >= 2, got 1. "),
    ],
)
def test_what_does_not_go_together_is_refused(
    refuse_row: Callable[..., Refusal], overrides: list[str], message: str
) -> None:
    refused: Any = refuse_row("tracking=off", *overrides)
    assert refused.code == 2, refused.err
    assert message in refused.err
