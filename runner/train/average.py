"""An exponential moving average of the weights, evaluated and saved beside the weights that are trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel, get_ema_multi_avg_fn


class WeightAverage:
    """average <- decay * average + (1 - decay) * weights, after every update; the first update sets it.

    Floating-point buffers (the statistics of BatchNorm) are averaged too, others (its counters, masks) are copied.
    Where `train.watch_every` > 1 lets the device drop an update by itself, that step averages unchanged weights.

    Args:
        model: whose weights are averaged.
        decay: share of the average that an update keeps, in (0, 1).
    Source: Polyak & Juditsky 1992; torch.optim.swa_utils.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model = model
        self._averaged = AveragedModel(model, multi_avg_fn=_floating(decay), use_buffers=True)

    def update(self) -> None:
        """Take in the weights as they are now."""
        self._averaged.update_parameters(self._model)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averaged weights while inside, in place, so that a compiled model stays compiled."""
        if self._averaged.n_averaged == 0:
            yield
            return
        trained = {name: value.clone() for name, value in self._model.state_dict().items()}
        self._model.load_state_dict(self._averaged.module.state_dict())
        try:
            yield
        finally:
            self._model.load_state_dict(trained)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return self._averaged.state_dict()

    def restore(self, content: dict[str, Any]) -> None:
        """Go on from a checkpoint; one without an average starts it from its weights."""
        if content.get("average"):
            self._averaged.load_state_dict(content["average"])
        else:
            self._averaged.module.load_state_dict(content["model"])


def _floating(decay: float) -> Any:
    """Return torch's average, for what can be averaged."""
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

    def update(averaged: PARAM_LIST, current: PARAM_LIST, count: Tensor | int) -> None:
        if averaged[0].is_floating_point() or averaged[0].is_complex():
            average(averaged, current, count)
        else:
            torch._foreach_copy_(averaged, current)

    return update
