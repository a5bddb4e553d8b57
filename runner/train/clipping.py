"""How gradients are clipped: at a fixed norm, or at one that follows the training. All stays on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple, Protocol

import torch
from annotated_types import Ge, Gt, Le, Lt
from pydantic import validate_call
from torch import Tensor

from runner.durations import ClipNorm, Steps


class Clipped(NamedTuple):
    """What became of a gradient.

    Attributes:
        norm: global L2 norm before clipping, scalar.
        is_clipped: whether it was clipped, scalar; None where the host can tell by the norm.
    """

    norm: Tensor
    is_clipped: Tensor | None = None


class Clipping(Protocol):
    """Scales gradients down, in place."""

    def clip(self, parameters: Sequence[Tensor], grads: list[Tensor]) -> Clipped:
        """Clip the gradients of the parameters; return their norm before."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what a run that goes on needs."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; nothing where it is empty."""
        ...


def norm_of(grads: list[Tensor]) -> Tensor:
    """Return the global L2 norm of gradients."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
    return norm


def scale_to(grads: list[Tensor], norm: Tensor, most: float | Tensor) -> None:
    """Scale gradients of a norm down, in place, to at most another."""
    torch._foreach_mul_(grads, (norm + 1e-6).reciprocal_().mul_(most).clamp_(max=1.0))


class Fixed:
    """Clip at `train.clip_norm`, or at what a remedy sets; null clips nothing.

    The same bits as torch.nn.utils.clip_grad_norm_, which spends twice the time: it sorts its arguments by device and
    type first, and here all are on one device.

    Args:
        clip_norm: largest global L2 norm; filled in by the runner.
    """

    def __init__(self, *, clip_norm: ClipNorm = None) -> None:
        self.most = clip_norm
        self._set: float | None = None

    def set_norm(self, norm: float) -> None:
        """Clip at another norm from now on."""
        self.most = self._set = norm

    def clip(self, parameters: Sequence[Tensor], grads: list[Tensor]) -> Clipped:
        """Clip the gradients."""
        norm = norm_of(grads)
        if self.most is not None:
            scale_to(grads, norm, self.most)
        return Clipped(norm)

    def state_dict(self) -> dict[str, Any]:
        """Return the norm that a remedy has set; that of the page belongs to the page."""
        return {} if self._set is None else {"norm": self._set}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the norm that a remedy has set."""
        if "norm" in state:
            self.set_norm(state["norm"])


class Percentile:
    """Clip at a percentile of the norms of a calibration stretch at the start, in which nothing is clipped.

    Norms that are no number do not count; where none was one, the threshold is the first that is.

    Args:
        calibration: optimizer steps whose norms are collected.
        share: of them that lies below the threshold; in (0, 1).
    Source: google-research/tuning_playbook: the 90th percentile of the gradient norms.
    """

    @validate_call
    def __init__(self, *, calibration: Steps = 100, share: Annotated[float, Gt(0), Lt(1)] = 0.9) -> None:
        self.calibration = calibration
        self.share = share
        self.steps = 0
        self.norms: Tensor | None = None
        self.most: Tensor | None = None

    def clip(self, parameters: Sequence[Tensor], grads: list[Tensor]) -> Clipped:
        """Collect the norm, or clip the gradients at the threshold."""
        norm = norm_of(grads)
        finite = torch.where(torch.isfinite(norm), norm, float("nan"))
        if self.most is not None:
            self.most = torch.where(torch.isnan(self.most), finite, self.most)
            scale_to(grads, norm, self.most)
            return Clipped(norm, norm > self.most)
        if self.norms is None:
            self.norms = torch.full((self.calibration,), float("nan"), dtype=norm.dtype, device=norm.device)
        self.norms[self.steps] = finite
        self.steps += 1
        if self.steps == self.calibration:
            self.most, self.norms = torch.nanquantile(self.norms.float(), self.share).to(norm.dtype), None
        return Clipped(norm, torch.zeros_like(norm))

    def state_dict(self) -> dict[str, Any]:
        """Return the norms so far, or the threshold."""
        return {"steps": self.steps, "norms": self.norms, "most": self.most}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the norms so far, or the threshold."""
        if state:
            self.steps, self.norms, self.most = state["steps"], state["norms"], state["most"]


class ZClip:
    """Clip norms that stand out from their running mean and deviation.

    In the first `warmup` steps norms are collected and clipped at `max_norm`. Then s = (norm - mean) / (sd + 1e-6); for
    s > z the norm becomes mean + z sd / (s / z), and never more than `max_norm`. Mean and variance follow the clipped
    norm: mean <- a mean + (1 - a) norm, then var <- a var + (1 - a) (norm - mean)^2. A norm that is no number leaves
    them.

    Args:
        z: deviations above the mean; > 0.
        decay: a, per step; in (0, 1).
        warmup: steps that set mean and variance; >= 2.
        max_norm: largest norm ever; None for none.
    Source: bluorion-com/ZClip, arXiv:2504.02507.
    """

    @validate_call
    def __init__(
        self,
        *,
        z: Annotated[float, Gt(0)] = 2.5,
        decay: Annotated[float, Gt(0), Lt(1)] = 0.97,
        warmup: Annotated[int, Ge(2)] = 25,
        max_norm: Annotated[float, Gt(0)] | None = 1.0,
    ) -> None:
        self.z = z
        self.decay = decay
        self.warmup = warmup
        self.max_norm = float("inf") if max_norm is None else max_norm
        self.norms: list[Tensor] = []
        self.mean: Tensor | None = None
        self.var: Tensor | None = None

    def clip(self, parameters: Sequence[Tensor], grads: list[Tensor]) -> Clipped:
        """Clip the gradients, and let mean and variance follow."""
        norm = norm_of(grads)
        if self.mean is None or self.var is None:
            most = torch.full_like(norm, self.max_norm)
            self.norms.append(norm.detach())
            if len(self.norms) == self.warmup:
                seen = torch.stack(self.norms)
                good = torch.isfinite(seen)
                self.mean = torch.where(good, seen, 0.0).sum() / good.sum()
                self.var = torch.where(good, (seen - self.mean) ** 2, 0.0).sum() / good.sum()
                self.norms = []
        else:
            most = self._most(norm, self.mean, self.var)
            followed, good = torch.minimum(norm, most), torch.isfinite(norm)
            mean = self.decay * self.mean + (1 - self.decay) * followed
            var = self.decay * self.var + (1 - self.decay) * (followed - mean) ** 2
            self.mean, self.var = torch.where(good, mean, self.mean), torch.where(good, var, self.var)
        scale_to(grads, norm, most)
        return Clipped(norm, norm > most)

    def _most(self, norm: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        sd = var.sqrt()
        z = (norm - mean) / (sd + 1e-6)
        lowered = mean + self.z * sd / (z / self.z)
        return torch.where(z > self.z, lowered, norm).clamp(max=self.max_norm)

    def state_dict(self) -> dict[str, Any]:
        """Return the norms so far, or mean and variance."""
        return {"norms": self.norms, "mean": self.mean, "var": self.var}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the norms so far, or mean and variance."""
        if state:
            self.norms, self.mean, self.var = list(state["norms"]), state["mean"], state["var"]


class Adaptive:
    """Clip the gradient of every unit by the norm of its weights (adaptive gradient clipping).

    g_i <- g_i min(1, share max(|w_i|, eps) / |g_i|), with i a row of a matrix, a filter of a convolution, or all of a
    vector.

    Args:
        share: of the norm of the weights; in (0, 1].
        eps: norm that small weights count as, so that fresh ones can grow; > 0.
    Source: Brock et al. 2021, arXiv:2102.06171, which leaves the last layer out.
    """

    @validate_call
    def __init__(self, *, share: Annotated[float, Gt(0), Le(1)] = 0.01, eps: Annotated[float, Gt(0)] = 1e-3) -> None:
        self.share = share
        self.eps = eps

    @torch.no_grad()
    def clip(self, parameters: Sequence[Tensor], grads: list[Tensor]) -> Clipped:
        """Clip the gradients unit by unit."""
        norm = norm_of(grads)
        any_clipped = torch.zeros((), dtype=torch.bool, device=norm.device)
        for parameter, grad in zip(parameters, grads, strict=True):
            ratio = self.share * _unit_norms(parameter).clamp(min=self.eps) / _unit_norms(grad).clamp(min=1e-6)
            grad.mul_(ratio.clamp(max=1.0))
            any_clipped |= (ratio < 1.0).any()
        return Clipped(norm, any_clipped)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: it has no memory."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing."""


def _unit_norms(tensor: Tensor) -> Tensor:
    dims = tuple(range(1, tensor.ndim)) if tensor.ndim > 1 else None
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=dims, keepdim=True)
    return norms
