"""The tasks of the benchmark: those of the runner on data in memory, with faults at known steps."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from runner.tasks.char_lm import CharLM
from runner.tasks.digits import Digits
from runner.tasks.logits import HasLogits
from runner.tasks.protocol import Batch, LossSum, Task
from runner.tasks.tabular import Tabular
from runner.tasks.tensors import TensorData

ALL = 10**6  # more rows than any split has, so that one batch is all of them
VAL_WINDOWS = 128  # of text: enough for a difference of a hundredth of a nat
EDGE_ROWS = 500  # of the digits, for full batches


class Setting(NamedTuple):
    """A task as the benchmark trains it.

    Attributes:
        make: the task, given batch_size and seed.
        batch_size: examples a step.
        steps: length of a run.
        kind: how its model is made: as the task makes it, or "tanh" (three layers), "recurrent".
        loss: as the task computes it, or "mse" against one-hot targets.
        clip_norm: what its best learning rates are found with.
    """

    make: Callable[..., Task]
    batch_size: int
    steps: int
    kind: Literal["own", "tanh", "recurrent"] = "own"
    loss: Literal["own", "mse"] = "own"
    clip_norm: float | None = None


def _diabetes(**options: Any) -> Task:
    return Tabular(path=str(diabetes_table()), target="target", **options)


_SMALL_LM: dict[str, Any] = {"context": 32, "width": 48, "depth": 2, "heads": 4}
SETTINGS: dict[str, Setting] = {
    "digits_mlp": Setting(Digits, 64, 400),
    "digits_cnn": Setting(functools.partial(Digits, model="cnn"), 64, 300),
    "digits_deep": Setting(functools.partial(Digits, hidden=(128,) * 6), 64, 400),
    "digits_batch_4": Setting(Digits, 4, 1000),
    "digits_rnn": Setting(Digits, 64, 300, kind="recurrent", clip_norm=1.0),
    "digits_full": Setting(Digits, EDGE_ROWS, 1000, kind="tanh", loss="mse"),
    "cancer": Setting(Tabular, 32, 300),
    "cancer_batch_2": Setting(Tabular, 2, 1000),
    "diabetes": Setting(_diabetes, 32, 300),
    "char_lm": Setting(functools.partial(CharLM, **_SMALL_LM), 8, 300),
    "char_lm_post": Setting(functools.partial(CharLM, **{**_SMALL_LM, "depth": 4}, norm="post"), 8, 250),
}
"""name -> task; a full batch is 500 digits (SCIENCE: at the edge of stability), the small batches have heavy tails"""


class Fault(NamedTuple):
    """What is wrong with a run's data, model or arithmetic.

    Attributes:
        kind: "inputs" (times `size`), "targets" (drawn at random), "nan" (one input, or the loss where inputs are
            numbers of characters), "half" (forward pass in float16 without a scaler, one input times `size`),
            "few" (only `size` examples train), "init" (all matrices times `size`).
        steps: where, for those that happen at steps.
        size: how much.
    """

    kind: Literal["none", "inputs", "targets", "nan", "half", "few", "init"] = "none"
    steps: tuple[int, ...] = ()
    size: float = 1.0


class Rigged:
    """A task with a known fault, its data handed out in memory; the val split is one batch.

    Args:
        name: of the setting.
        fault: what goes wrong.
        seed: order of the data.
    """

    goals: Mapping[str, Literal["min", "max"]] = {"loss": "min"}
    remarks: Sequence[str] = ()

    def __init__(self, name: str, fault: Fault, *, seed: int) -> None:
        self.setting, self.fault, self.seed = SETTINGS[name], fault, seed
        self.inner = _task(name)
        splits = dict(_splits(name))
        if self.setting.loss == "mse":
            splits["train"] = tuple(tensor[:EDGE_ROWS] for tensor in splits["train"])
        if fault.kind == "few":
            chosen = torch.randperm(len(splits["train"][0]), generator=torch.Generator().manual_seed(seed))
            splits["train"] = tuple(tensor[chosen[: int(fault.size)]] for tensor in splits["train"])
        self.val = splits["val"]
        self.data = TensorData(splits, batch_size=self.setting.batch_size, seed=seed)
        self.examples, self.digest = self.data.examples, self.inner.digest
        self.prior_entropy = None if self.setting.loss == "mse" else self.inner.prior_entropy
        self.is_wrong_now = False

    def model(self) -> nn.Module:
        """Return a fresh model."""
        model = {"own": self.inner.model, "tanh": _tanh, "recurrent": Recurrent}[self.setting.kind]()
        if self.fault.kind == "init":
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.ndim > 1:
                        parameter.mul_(self.fault.size)
        return model

    def batch(self, step: int, split: str, part: tuple[int, int] = (0, 1)) -> tuple[Tensor, ...] | None:
        """Return a batch, spoiled where the fault says so."""
        self.is_wrong_now = split == "train" and step in self.fault.steps
        if split != "train":
            return self.val if step == 0 else None
        batch = self.data.batch(step, split, part)
        return self._spoiled(step, batch) if self.is_wrong_now and batch is not None else batch

    def _spoiled(self, step: int, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        inputs, *targets = batch
        generator = torch.Generator().manual_seed(1000 * self.seed + step)
        is_text = not targets
        if is_text and self.fault.kind in ("inputs", "targets"):
            # of text, a window is both: characters drawn at random, or the same ones in another order
            order = torch.randperm(inputs.numel(), generator=generator)
            return (inputs.flatten()[order].view_as(inputs),)
        if self.fault.kind == "inputs":
            inputs = inputs * self.fault.size
        elif self.fault.kind == "targets":
            drawn = torch.randperm(len(inputs), generator=generator)
            targets = [target[drawn] for target in targets]
        elif self.fault.kind in ("nan", "half") and not is_text:
            inputs = inputs.clone()
            inputs[0, 0] = math.nan if self.fault.kind == "nan" else self.fault.size
        return (inputs, *targets)

    def weight(self, batch: Batch) -> float:
        """Return what the loss is divided by."""
        return self.inner.weight(batch)

    def loss(self, apply: Callable[..., Any], batch: Batch, weight: float) -> LossSum:
        """Return the loss, in half precision or not a number where the fault says so."""
        if self.setting.loss == "mse":
            outputs = apply(batch[0])
            targets = nn.functional.one_hot(batch[1], outputs.shape[1]).float()
            return LossSum(5.0 * ((outputs - targets) ** 2).mean() * len(outputs), len(outputs), outputs)
        if self.fault.kind == "half":
            with torch.autocast("cpu", torch.float16):
                loss = self.inner.loss(apply, batch, weight)
        else:
            loss = self.inner.loss(apply, batch, weight)
        if self.is_wrong_now and self.fault.kind in ("nan", "half") and len(batch) == 1:
            return loss._replace(total=loss.total * math.nan)
        return loss

    def logits(self, outputs: Any) -> Tensor | None:
        """Return the logits among what the model returned; None where there are none."""
        return self.inner.logits(outputs) if self.setting.loss == "own" and isinstance(self.inner, HasLogits) else None

    def scores(self) -> NoScores:
        """Return metrics that cost nothing."""
        return NoScores()


class NoScores:
    """The loss alone."""

    def update(self, outputs: Any, batch: Batch) -> None:
        """Take in nothing."""

    def compute(self, loss: float) -> dict[str, float]:
        """Return nothing beside the loss."""
        return {}


class Recurrent(nn.Module):
    """Reads an image of the digits in 32 steps of two pixels: (n, 64) -> (n, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.RNN(2, 64, nonlinearity="relu", batch_first=True)
        self.head = nn.Linear(64, 10)
        nn.init.eye_(dict(self.body.named_parameters())["weight_hh_l0"])  # Le et al. 2015, arXiv:1504.00941

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.body(pixels.view(len(pixels), 32, 2))[0][:, -1])  # type: ignore[no-any-return]


def _tanh() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10))


@functools.cache
def _task(name: str) -> Task:
    return SETTINGS[name].make(batch_size=ALL, seed=0)


@functools.cache
def _splits(name: str) -> dict[str, tuple[Tensor, ...]]:
    """Return all rows of a task, which come as one batch."""
    found: dict[str, Any] = {split: _task(name).batch(0, split) for split in ("train", "val")}
    if len(found["train"]) == 1:  # windows of text
        found["val"] = (found["val"][0][:VAL_WINDOWS],)
    return found


@functools.cache
def diabetes_table() -> Path:
    """Write scikit-learn's diabetes set as a CSV file, once; return where."""
    path = Path("runs/instability_benchmark/diabetes.csv")
    if not path.exists():
        from sklearn.datasets import load_diabetes

        path.parent.mkdir(parents=True, exist_ok=True)
        load_diabetes(as_frame=True).frame.to_csv(path, index=False)
    return path
