"""Data sets that are no part of the runner: anything with __len__ and __getitem__ will do."""

import random

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

HELD_OUT = 5  # every fifth image validates


class Digits(Dataset[tuple[Tensor, int]]):
    """scikit-learn's digits as images; training images are shifted at random by up to `shift` pixels."""

    def __init__(self, train: bool = True, shift: int = 0, size: int = 8, channels: int = 1) -> None:
        digits = load_digits()
        chosen = [index for index in range(len(digits.target)) if (index % HELD_OUT != 0) == train]
        images = torch.from_numpy(digits.images[chosen]).float().div(16).sub(0.5).unsqueeze(1)
        self.images = functional.interpolate(images, (size, size), mode="bilinear").expand(-1, channels, -1, -1)
        self.classes = digits.target[chosen]
        self.shift = shift

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        rows, columns = (random.randint(-self.shift, self.shift) for _ in range(2))
        return torch.roll(self.images[index], (rows, columns), dims=(1, 2)), int(self.classes[index])


class DigitsByName(Digits):
    """The same images in mappings, as transformers models take them."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:  # type: ignore[override]
        image, label = super().__getitem__(index)
        return {"pixel_values": image, "labels": torch.tensor(label)}
