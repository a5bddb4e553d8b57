"""The multilayer perceptron of the tasks whose examples are vectors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def mlp(inputs: int, hidden: Sequence[int], outputs: int, *, dropout: float) -> nn.Module:
    """Return a freshly initialised network: (n, inputs) -> (n, outputs).

    Args:
        inputs: width of an example.
        hidden: widths of the hidden layers, each followed by ReLU; none gives a linear model.
        outputs: width of the result.
        dropout: probability of dropping a hidden unit; in [0, 1).
    """
    layers: list[nn.Module] = []
    width = inputs
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ReLU()]
        layers += [nn.Dropout(dropout)] if dropout else []
        width = size
    return nn.Sequential(*layers, nn.Linear(width, outputs))
