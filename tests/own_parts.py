"""A user's own file: models and data sets that the runner knows nothing about. Tests copy it where they launch."""

import math
import os
import random
import signal
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from runner.optim.groups import Group, Grouping


class Net(nn.Module):
    def __init__(self, inputs: int = 8, classes: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, classes))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x)
        return found


class BatchNormed(Net):
    """Has BatchNorm, which cannot train on one example."""

    def __init__(self) -> None:
        super().__init__()
        self.layers.insert(1, nn.BatchNorm1d(16))


class Exact(Net):
    """Takes batches of sixteen examples only."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(16, 8))


class Tagger(nn.Module):
    """Takes and returns mappings, as transformers models do; its own loss is a mean over labels that are not -100."""

    def __init__(self, words: int = 20, tags: int = 4) -> None:
        super().__init__()
        self.table = nn.Embedding(words, tags)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.table(input_ids)
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


class Scorer(nn.Module):
    """Returns (batch, classes) logits for a mapping."""

    def __init__(self, words: int = 20, classes: int = 4) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(words, classes)

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        return {"logits": self.bag(input_ids)}


class Points(Dataset[tuple[Tensor, int]]):
    """Classes around three centres; `noise` draws from all three global generators at every look."""

    def __init__(
        self, n: int = 150, noise: float = 0.0, broken: int = -1, wide: int = -1, deadly: int = -1, exits: int = -1
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        self.y = torch.arange(n) % 3
        self.x = torch.randn(n, 8, generator=generator) + self.y[:, None]
        self.noise, self.broken, self.wide, self.deadly, self.exits = noise, broken, wide, deadly, exits

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == self.broken:
            raise OSError("truncated file")
        if index == self.exits:
            sys.exit(0)
        if index == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        drawn = torch.rand(8) + random.random() + float(np.random.rand())
        return torch.cat([self.x[index] + self.noise * drawn, torch.zeros(int(index == self.wide))]), int(self.y[index])


class Counted(Points):
    """Leaves a line in the file `read` each time that it is made."""

    def __init__(self) -> None:
        super().__init__()
        with open("read", "a", encoding="utf-8") as file:
            file.write("made\n")


class Sentences(Dataset[dict[str, Tensor]]):
    """Six words a sentence; from one to six of them have a label, the others -100."""

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        words = (torch.arange(6) * 7 + index) % 20
        labels = torch.where(torch.arange(6) <= index % 6, words % 4, -100)
        return {"input_ids": words, "labels": labels}


class Bags(Sentences):
    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": super().__getitem__(index)["input_ids"], "labels": torch.tensor(index % 4)}


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        yield from range(9)


class NoLength(Dataset[Tensor]):
    def __getitem__(self, index: int) -> Tensor:
        return torch.zeros(8)


class NoItems(Dataset[Tensor]):
    def __len__(self) -> int:
        return 9


class Nothing(Points):
    def __getitem__(self, index: int) -> Any:
        return None


def tensors(n: int = 150, classes: int = 3, form: str = "int64", inputs: int = 8) -> TensorDataset:
    """All in memory; `form` of the targets: int64, float64, float32, or one of them as "<form> column"."""
    generator = torch.Generator().manual_seed(0)
    dtype, _, column = form.partition(" ")
    targets = (torch.arange(n) % classes).to(getattr(torch, dtype))
    return TensorDataset(torch.randn(n, inputs, generator=generator), targets[:, None] if column else targets)


def unlabelled(n: int = 150) -> TensorDataset:
    return TensorDataset(torch.randn(n, 8))


def join_with_noise(items: list[Any]) -> list[Tensor]:
    x, y = torch.utils.data.default_collate(items)
    return [x + torch.rand(()), y]


def halving(step: int) -> float:
    """A schedule of one's own."""
    return float(0.5 ** (step / 100))


def fast_first() -> Grouping:
    """Train the first tensor ten times as fast as the rest."""
    return lambda model: [
        Group("first", list(model.parameters())[:1], lr_multiplier=10.0),
        Group("rest", list(model.parameters())[1:]),
    ]


def not_a_number_at_7(step: int) -> float:
    """A factor with a hole."""
    return float("nan") if step == 7 else 1.0


def nothing_of_use(step: int, kind: str) -> Any:
    """What is no factor, in one of its forms."""
    return {"none": None, "complex": 1j, "text": "0.5", "two": torch.ones(2), "zero": 0.0}[kind]


class Counting:
    """A factor that depends on how often it was asked."""

    def __init__(self) -> None:
        self.calls = 1

    def __call__(self, step: int) -> float:
        self.calls += 1
        return 1.0 / self.calls


def rate_table() -> Any:
    """Return a schedule that has a rate for each of the 440 updates of a default run, and no more."""
    return [1.0 - step / 440 for step in range(440)].__getitem__


def lost_at_3() -> Any:
    """Return a schedule that gives no number at step 3."""
    return lambda step: math.nan if step == 3 else 1.0


def exiting() -> Any:
    """Return a schedule that ends the program."""
    return lambda step: sys.exit(3)


def short_table() -> Any:
    """Return a schedule that has rates for four updates."""
    return [1.0, 0.5, 0.2, 0.1].__getitem__
