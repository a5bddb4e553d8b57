"""w <- w - lr * g, checked by hand through the program: w = 0.5 and g = 2 (curvature 4)."""

import json

import pytest
import torch

from tests.conftest import Program


@pytest.mark.parametrize(("lr", "expected"), [(0.1, 0.3), (0.01, 0.48), (1.0, -1.5)])
def test_one_step_moves_the_weight_as_calculated_by_hand(program: Program, lr: float, expected: float) -> None:
    done = program(
        "task=quadratic", "task.curvatures=[4]", "task.start=[0.5]", "train.duration=1", "optimizer.momentum=0",
        "schedule=constant", "warmup=none", f"optimizer.lr={lr}",
    )  # fmt: skip
    assert done.code == 0, done.err
    content = torch.load(done.run / "checkpoints/last.pt", weights_only=True)
    assert content["model"]["w"].item() == pytest.approx(expected, abs=1e-15)
    record = json.loads((done.run / "records.jsonl").read_text().splitlines()[0])
    assert (record["loss"], record["grad_norm"], record["lr"]) == (0.5, 2.0, lr)
