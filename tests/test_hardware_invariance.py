"""The learning rate at an example does not depend on how a batch is spread over ranks and micro-batches."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

from runner.job import checked
from tests.conftest import Program
from tests.pages import composed
from tests.ranks import train

STEPS = 24
CLIP_NORM = 0.5
DECLARED = (
    "train.batch_size=61",  # no multiple of 8, nor is 58, the last batch of an epoch: parts differ in size
    f"train.duration={STEPS}",
    "train.eval_every=null",
    "train.threads=1",
    "param_groups=no_decay_1d",
    "optimizer.lr=0.2",
    "scaling=linear",
    "scaling.reference_batch_size=32",
    "schedule_of=[one_cycle_momentum]",
    "schedule=one_cycle",
    "warmup=none",
)


def spread(folder: Path, *, ranks: int, accumulate: int) -> tuple[list[tuple[int, Any]], dict[str, Tensor]]:
    """Train on real gloo ranks; return (examples seen, learning rates) of every step, and the weights at the end."""
    folder.mkdir()
    config = checked(composed(*DECLARED, f"train.accumulate={accumulate}"))
    arguments = (ranks, config, str(folder), CLIP_NORM)
    start_processes(train, arguments, nprocs=ranks, start_method="forkserver")  # type: ignore[no-untyped-call]
    trained = torch.load(folder / "trained.pt", weights_only=True)
    return trained["pairs"], trained["weights"]


def steps_of(run: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    return [record for record in records if record["kind"] == "step"]


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)])
def test_ranks_give_the_rates_and_the_weights_of_accumulation(program: Program, tmp_path: Path, ranks: int) -> None:
    alone = program(*DECLARED, "train.accumulate=8", f"train.clip_norm={CLIP_NORM}")
    records = steps_of(alone.run)
    pairs, weights = spread(tmp_path / "ranks", ranks=ranks, accumulate=8 // ranks)
    assert [(record["examples"], record["lr"]) for record in records] == [(seen, lrs["decay"]) for seen, lrs in pairs]
    assert len({lrs["decay"] for _, lrs in pairs}) == STEPS
    assert records[-1]["examples"] == 1400 + 61
    expected = torch.load(alone.run / "checkpoints/last.pt", weights_only=True)["model"]
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("duration", "warmup", "peak"), [("46", "9", 8), ("2ep", "20%", 9), ("2ep", "1ep", 22), ("2800ex", "700ex", 11)]
)
def test_micro_batches_change_neither_rates_nor_losses(program: Program, duration: str, warmup: str, peak: int) -> None:
    overrides = (
        f"train.duration={duration}",
        f"warmup.duration={warmup}",
        "train.batch_size=61",
        "train.eval_every=null",
    )
    whole, parts = (steps_of(program(*overrides, f"train.accumulate={n}").run) for n in (1, 8))
    assert [(step["examples"], step["lr"]) for step in whole] == [(step["examples"], step["lr"]) for step in parts]
    assert [step["loss"] for step in parts] == pytest.approx([step["loss"] for step in whole], rel=1e-4)
    assert max(whole, key=lambda step: step["lr"])["step"] == peak
