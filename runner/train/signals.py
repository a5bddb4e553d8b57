"""Meters of weights and gradients: how far an update moves the weights, how well Adam's second moment fits, cosines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, NAdam, Optimizer, RAdam

from runner.optim.readout import effective_lrs
from runner.train.meters import Moment

UPDATE_SIGNALS = frozenset({"update_ratio/max", "update_ratio/median", "update_ratio/min", "prev_update_norm"})
RMS = "rms/max"
RMS_SIGNALS = frozenset({RMS})
COSINE_SIGNALS = frozenset({"grad_cosine"})
BURST = 10
"""steps in a row whose gradients are compared with those before them, each time that cosines are due"""

_PLAIN_MOMENTS = (Adam, NAdam, RAdam)
_PLAIN_MOMENTS_BY_NAME = {"MuonAdamW", "AdamWScheduleFree", "RAdamScheduleFree"}


class UpdateRatios:
    """How far an update moves the weights.

    update_ratio of a matrix = ||W after - W before|| / ||W before||, unitless: its largest, median and smallest value
    over all matrices; prev_update_norm = L2 norm of the update of all trained parameters. Known after the update, so
    the record of the next step has them. Weights are copied at the steps where they are due only.

    Left out: matrices that are all zero before the update, and those whose learning rate is zero. A step whose
    gradient is not finite, and whose update is dropped somewhere, tells nothing.

    Args:
        every: optimizer steps between two measurements.
    Source: cs231n.github.io/neural-networks-3, "ratio of weights:updates".
    """

    name = "update_ratios"

    def __init__(self, every: int) -> None:
        self._every = every
        self._before: list[tuple[Tensor, Tensor]] = []  # (parameter, copy of it)
        self._is_sound: Tensor | None = None

    def before(self, moment: Moment) -> Mapping[str, float]:
        """Keep the weights where an update is due; return {}."""
        self._before = []
        if moment.step % self._every == 0:
            moving = list(_moving(moment.optimizer))
            self._before = [(parameter, parameter.detach().clone()) for parameter in moving]
            self._is_sound = _are_finite([p.grad for p in moving if p.grad is not None])
        return {}

    def after(self, moment: Moment) -> Mapping[str, float]:
        """Return the ratios and the norm of the update, if it was due and made."""
        if not self._before or self._is_sound is None:
            return {}
        kept, self._before = self._before, []
        with torch.no_grad():  # a context at every step would cost more than the measurements
            return _update_signals(kept, self._is_sound)

    def forget(self) -> None:
        """Do nothing: nothing is kept from one step to the next."""

    def state_dict(self) -> dict[str, Any]:
        """Return {}: nothing is kept from one step to the next."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing."""


class SecondMoments:
    """How well Adam's second moment v fits the gradients: RMS_t = sqrt(mean(g^2 / max(v_t, eps^2))) of a matrix.

    v_t is bias-corrected and takes in the gradient g of this step, as the update will; 1 is what a gradient like those
    before has, and much more than that an update that is too large. rms/max is the largest over all matrices whose v
    has taken in at least 1 / (1 - beta2) gradients. Nothing for optimizers without this v.

    Args:
        every: optimizer steps between two measurements.
    Source: Wortsman et al. 2023, arXiv:2304.13013, algorithm 2.
    """

    name = "second_moments"

    def __init__(self, every: int) -> None:
        self._every = every

    def before(self, moment: Moment) -> Mapping[str, float]:
        """Return the largest RMS, if it is due and known."""
        if moment.step % self._every or not keeps_second_moments(moment.optimizer):
            return {}
        return self._largest(moment)

    @torch.no_grad()
    def _largest(self, moment: Moment) -> dict[str, float]:
        found = []
        for group in moment.optimizer.param_groups:
            if "betas" not in group:
                continue
            for parameter in group["params"]:
                state = moment.optimizer.state.get(parameter, {})
                if parameter.grad is None or "exp_avg_sq" not in state or not is_matrix(parameter):
                    continue
                beta2, made = float(group["betas"][1]), int(state.get("step", group.get("k", 0)))
                if made * (1 - beta2) >= 1:
                    found.append(_rms(parameter.grad, state["exp_avg_sq"], beta2, made + 1, group["eps"]))
        largest = float(torch.stack(found).amax()) if found else math.nan
        return {RMS: largest} if math.isfinite(largest) else {}

    def after(self, moment: Moment) -> Mapping[str, float]:
        """Return {}."""
        return {}

    def forget(self) -> None:
        """Do nothing: nothing is kept from one step to the next."""

    def state_dict(self) -> dict[str, Any]:
        """Return {}: nothing is kept from one step to the next."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing."""


class GradientCosines:
    """Cosine of the angle between the gradients of two successive steps; -1 is a step straight back.

    grad_cosine = <g_t, g_{t-1}> / (||g_t|| ||g_{t-1}||) over all trained parameters, measured at `BURST` steps in a row
    each time, from the step after the due one on. Two steps between which no update was made tell nothing.

    Args:
        every: optimizer steps between the beginnings of two bursts; up to `BURST` every step tells.
    """

    name = "gradient_cosines"

    def __init__(self, every: int) -> None:
        self._every = every
        self._now: list[Tensor | None] | None = None
        self._last: list[Tensor | None] | None = None  # gradients of the step before, if its update was made

    def before(self, moment: Moment) -> Mapping[str, float]:
        """Return the cosine with the gradient of the step before, if that was kept; keep this one if it is due."""
        last, self._last, self._now = self._last, None, None
        keeps = moment.step % self._every < BURST
        if last is None and not keeps:
            return {}
        grads = [parameter.grad for group in moment.optimizer.param_groups for parameter in group["params"]]
        if keeps:
            self._now = [None if grad is None else grad.detach().clone() for grad in grads]
        cosine = math.nan if last is None else _cosine(grads, last)
        return {"grad_cosine": cosine} if math.isfinite(cosine) else {}

    def after(self, moment: Moment) -> Mapping[str, float]:
        """Remember that the update was made; return {}."""
        self._last, self._now = self._now, None
        return {}

    def forget(self) -> None:
        """Forget the gradients: the next ones are those of other weights."""
        self._last = None

    def state_dict(self) -> dict[str, Any]:
        """Return the gradients that the next step is compared with."""
        return {} if self._last is None else {"gradients": self._last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the gradients."""
        self._last = state.get("gradients")


def is_matrix(tensor: Tensor) -> bool:
    """Whether at least two dimensions of a tensor are longer than 1."""
    return sum(size > 1 for size in tensor.shape) >= 2


def keeps_second_moments(optimizer: Optimizer) -> bool:
    """Whether `exp_avg_sq` is the average of g^2: in others of that name g is scaled, rotated or a difference."""
    return isinstance(optimizer, _PLAIN_MOMENTS) or type(optimizer).__name__ in _PLAIN_MOMENTS_BY_NAME


def _moving(optimizer: Optimizer) -> Iterable[Tensor]:
    """Yield the parameters that have a gradient and a learning rate."""
    lrs = effective_lrs(optimizer)
    for group in optimizer.param_groups:
        if float(lrs[group["name"]]) != 0:
            yield from (parameter for parameter in group["params"] if parameter.grad is not None)


def _update_signals(kept: list[tuple[Tensor, Tensor]], is_sound: Tensor) -> dict[str, float]:
    """Return the signals of an update, given (parameter, copy before it); {} for one that was dropped."""
    weights = [_wide(before) for _, before in kept]
    moved = torch._foreach_sub([_wide(parameter.detach()) for parameter, _ in kept], weights)
    norms = [*torch._foreach_norm(moved), *torch._foreach_norm(weights)]
    sound, *numbers = torch.stack([is_sound, *norms]).tolist()
    if not sound:
        return {}
    steps, sizes = numbers[: len(kept)], numbers[len(kept) :]
    found = {"prev_update_norm": math.hypot(*steps)}
    matrices = [is_matrix(before) for _, before in kept]
    ratios = [s / w for s, w, chosen in zip(steps, sizes, matrices, strict=True) if chosen and w > 0]
    if ratios:
        ratios.sort()
        found["update_ratio/max"] = ratios[-1]
        found["update_ratio/median"] = ratios[len(ratios) // 2]
        found["update_ratio/min"] = ratios[0]
    return found


def _are_finite(grads: list[Tensor]) -> Tensor | None:
    """Return 1 if all gradients are finite and 0 otherwise, still on the device; None without a gradient."""
    return torch.stack(torch._foreach_norm(grads)).isfinite().all().float() if grads else None


def _wide(tensor: Tensor) -> Tensor:
    """Return a tensor in a format that keeps small differences and large sums."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _rms(grad: Tensor, average: Tensor, beta2: float, steps: int, eps: float) -> Tensor:
    """Return RMS_t, given the average before this step and the number of gradients in v_t."""
    square = _wide(grad).abs().square()
    v = _wide(average).abs().mul(beta2).add(square, alpha=1 - beta2).div(1 - beta2**steps)
    return (square / v.clamp(min=eps**2)).mean().sqrt().float()


@torch.no_grad()
def _cosine(grads: list[Tensor | None], last: list[Tensor | None]) -> float:
    """Return the cosine over what both steps have a gradient of; nan where nothing is."""
    pairs = [
        (_flat(one), _flat(other.to(one.device)))
        for one, other in zip(grads, last, strict=False)
        if one is not None and other is not None and one.shape == other.shape
    ]
    if not pairs:
        return math.nan
    products = torch.stack([torch.stack([a @ b, a @ a, b @ b]).float() for a, b in pairs]).tolist()
    # not math.fsum, which refuses inf beside -inf: gradients overflow just before a run diverges
    along, one_square, other_square = (sum(column) for column in zip(*products, strict=True))
    size = math.sqrt(one_square) * math.sqrt(other_square)
    return along / size if 0 < size < math.inf else math.nan


def _flat(tensor: Tensor) -> Tensor:
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return _wide(real).flatten()
