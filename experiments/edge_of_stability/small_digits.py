"""500 of scikit-learn's digits as a regression on one-hot targets, and a small tanh network for them."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset


def digits(examples: int = 500) -> TensorDataset:
    """Return the first images of a fixed order: (64 centred pixels, 10 numbers of which one is 1)."""
    data = load_digits()
    chosen = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))[:examples]
    pixels = torch.from_numpy(data.data)[chosen].float() / 16
    targets = nn.functional.one_hot(torch.from_numpy(data.target)[chosen], 10).float()
    return TensorDataset(pixels - pixels.mean(dim=0), targets)


class Net(nn.Module):
    """64-32-32-10 with tanh: 3,466 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10))

    def forward(self, pixels: Tensor) -> Tensor:
        outputs: Tensor = self.layers(pixels)
        return outputs


def half_squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return half the squared distance, the mean over examples."""
    return (outputs - targets).square().sum(dim=1).mean() / 2
