"""A step asks nothing of the device that makes the host wait: on torch's `meta` device no value can be read at all."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from runner.tasks.char_lm import CharLM
from runner.tasks.digits import Digits
from runner.tasks.protocol import Task
from runner.tasks.quadratic import Quadratic
from runner.tasks.supervised import Supervised
from runner.tasks.tabular import Tabular
from runner.train.clipping import Fixed
from runner.train.plan import TrainPlan
from runner.train.step import gradients, guard_on_device, update
from tests import own_parts

COUNTED: dict[str, Any] = {"batch_size": 16, "seed": 0}
CLASSES = torch.tensor([1.0, 5.0, 0.2])


def supervised(**arguments: Any) -> Supervised:
    defaults = {"model": own_parts.Net, "train": own_parts.Points(), "loss": nn.CrossEntropyLoss()}
    return Supervised(**{**COUNTED, **defaults, **arguments})


TASKS: dict[str, Callable[[], Task]] = {
    "digits": lambda: Digits(**COUNTED),
    "char_lm": lambda: CharLM(**COUNTED, width=8, depth=1, heads=2),
    "quadratic": Quadratic,
    "tabular": lambda: Tabular(**COUNTED),
    "cross entropy": supervised,
    "class weights": lambda: supervised(loss=nn.CrossEntropyLoss(weight=CLASSES, ignore_index=1)),
    "tensors in memory": lambda: supervised(train=own_parts.tensors()),
    "per example": lambda: supervised(loss=nn.CrossEntropyLoss(reduction="none")),
    "function": lambda: supervised(loss=nn.functional.cross_entropy),
    "function with class weights": lambda: supervised(loss=partial(nn.functional.cross_entropy, weight=CLASSES)),
    "own function": lambda: supervised(loss=lambda outputs, targets: (outputs.logsumexp(1) - targets).mean()),
    "the model's own": lambda: supervised(model=own_parts.Tagger, train=own_parts.Sentences(), loss=None),
}


@pytest.mark.parametrize("make", TASKS.values(), ids=TASKS)
def test_a_step_reads_no_value_from_the_device(make: Callable[[], Task]) -> None:
    task, device = make(), torch.device("meta")
    model = task.model().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=True)
    plan = TrainPlan(steps=1, accumulate=3, device=device)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    signals = gradients(task, model, optimizer, plan, scaler, 0, Fixed(clip_norm=1.0))
    update(optimizer, scaler, drop=False)
    guard_on_device(optimizer, signals, replace(plan, watch_every=2))
    assert signals.weight > 0
    assert signals.total.is_meta  # type: ignore[union-attr]
    assert signals.grad_norm.is_meta  # type: ignore[union-attr]


def test_the_meta_device_notices_a_value_that_is_read() -> None:
    with pytest.raises(RuntimeError, match=r"Tensor.item\(\) cannot be called on meta tensors"):
        torch.ones(3, device="meta").sum().item()


def test_function_with_class_weights_counts_them_on_the_host() -> None:
    made = supervised(loss=partial(nn.functional.cross_entropy, weight=CLASSES))
    assert made.weight([torch.zeros(2, 8), torch.tensor([1, 2])]) == pytest.approx(5.2)
