"""An exponential moving average of the weights, evaluated and saved beside the weights that are trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

INSIDE = "module."  # where torch's AveragedModel keeps the averaged copy, and so does a checkpoint


class WeightAverage:
    """average <- decay * average + (1 - decay) * weights, after every update; the first update sets it.

    Floating-point buffers (the statistics of BatchNorm) are averaged too, others (its counters, masks) are copied.
    Where `train.watch_every` > 1 lets the device drop an update by itself, that step averages unchanged weights.

    The same bits and the same checkpoints as torch.optim.swa_utils.AveragedModel, whose counter is a tensor: to read it
    makes the host wait for a GPU after every update.

    Args:
        model: whose weights are averaged.
        decay: share of the average that an update keeps, in (0, 1).
    Source: Polyak & Juditsky 1992; torch.optim.swa_utils.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        self._averaged, self._updates = deepcopy(model), 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for mean, now in zip(_tensors(self._averaged), _tensors(self._model), strict=True):
            means, nows = groups.setdefault(mean.dtype, ([], []))
            means.append(mean)
            nows.append(now)
        for dtype, (means, nows) in groups.items():
            if self._updates and (dtype.is_floating_point or dtype.is_complex):
                torch._foreach_lerp_(means, nows, 1 - self._decay)
            else:
                torch._foreach_copy_(means, nows)
        self._updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averaged weights while inside, in place, so that a compiled model stays compiled."""
        if not self._updates:
            yield
            return
        trained = {name: value.clone() for name, value in self._model.state_dict().items()}
        self._model.load_state_dict(self._averaged.state_dict())
        try:
            yield
        finally:
            self._model.load_state_dict(trained)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        averaged = {f"{INSIDE}{name}": value for name, value in self._averaged.state_dict().items()}
        return {"n_averaged": torch.tensor(self._updates), **averaged}

    def restore(self, content: dict[str, Any]) -> None:
        """Go on from a checkpoint; one without an average starts it from its weights."""
        if not content.get("average"):
            self._averaged.load_state_dict(content["model"])
            self._updates = 0
            return
        self._averaged.load_state_dict(averaged_in(content))
        self._updates = int(content["average"]["n_averaged"])


def averaged_in(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the averaged weights of a checkpoint that has them, by the names that the model gives them."""
    return {name.removeprefix(INSIDE): value for name, value in content["average"].items() if name.startswith(INSIDE)}


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """Return parameters and buffers."""
    return chain(model.parameters(), model.buffers())
