"""Muon for hidden matrices and AdamW for all else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor
from torch.optim import AdamW, Muon, Optimizer

from runner.errors import ConfigError, Problem
from runner.optim.groups import Group

USES_MUON = "use_muon"
_FUSED_DEVICES = {"cpu", "cuda", "mps"}

Share = Annotated[float, Ge(0), Lt(1)]
Positive = Annotated[float, Gt(0)]


class MuonAdamW(Optimizer):
    """Groups with `use_muon` go through torch.optim.Muon, the others through torch.optim.AdamW.

    Muon: buffer <- momentum * buffer + (1 - momentum) * gradient; weights <- weights - lr * r * orthogonalised(buffer),
    for a matrix of A rows and B columns with r = sqrt(max(1, A / B)) ("original") or 0.2 * sqrt(max(A, B))
    ("match_rms_adamw", an update as large as AdamW's usual ones). The two need learning rates about 10 times apart.

    Args:
        params: groups as of torch.optim; those of Muon carry `use_muon: True` and hold matrices only.
        lr: learning rate of Muon, unitless.
        adamw_lr: that of AdamW, for groups without one of their own.
        momentum: share of the buffer that an update keeps.
        nesterov: whether the gradient is mixed into the buffer once more before the update.
        ns_steps: Newton-Schulz iterations of the orthogonalisation.
        adjust_lr_fn: r.
        betas: decay per update of AdamW's moments.
        eps: added to AdamW's denominator, in units of the gradient.
        weight_decay: decoupled decay of both: weights shrink by lr * weight_decay per update.
    Raises:
        ConfigError: no group uses Muon.
        ValueError: a parameter of Muon is no matrix.
    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; match_rms_adamw: Liu et al. 2025, arXiv:2502.16982.
    """

    group_keys = frozenset({USES_MUON})
    """what a group may say beside the arguments"""

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: Positive = 0.02,
        *,
        adamw_lr: Positive,
        momentum: Share = 0.95,
        nesterov: bool = True,
        ns_steps: Annotated[int, Ge(1), Lt(100)] = 5,
        adjust_lr_fn: Literal["original", "match_rms_adamw"] = "original",
        betas: tuple[Share, Share] = (0.9, 0.95),
        eps: Positive = 1e-8,
        weight_decay: Annotated[float, Ge(0)] = 0.01,
    ) -> None:
        groups = list(params)
        if not any(group.get(USES_MUON) for group in groups):
            names = ", ".join(str(group.get("name")) for group in groups)
            rule = f"must mark a group with {USES_MUON} for this optimizer, got {names}"
            raise ConfigError(
                [Problem("param_groups", rule, f"Set param_groups=muon, or {USES_MUON}: true in a group")]
            )
        super().__init__(groups, {USES_MUON: False})
        decay = {"weight_decay": weight_decay}
        shape = {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps, "adjust_lr_fn": adjust_lr_fn}
        self._share(muon={"lr": lr, **shape, **decay}, adamw={"lr": adamw_lr, "betas": betas, "eps": eps, **decay})

    def _share(self, *, muon: dict[str, Any], adamw: dict[str, Any]) -> None:
        """Make the two optimizers over the groups and the state of this one: a change of either is seen by both."""
        matrices = [group for group in self.param_groups if group[USES_MUON]]
        others = [group for group in self.param_groups if not group[USES_MUON]]
        devices = {parameter.device.type for group in others for parameter in group["params"]}
        self._parts: list[Optimizer] = [Muon(matrices, **muon)]
        if others:
            self._parts.append(AdamW(others, **adamw, fused=True if devices <= _FUSED_DEVICES else None))
        for part in self._parts:
            part.state = self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take in a loaded state or that of a copy; every group then has all its hyperparameters."""
        super().__setstate__(state)
        self._share(muon={}, adamw={})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one update of both; return what the closure does."""
        loss: Tensor | None = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss


def with_adamw_lr(groups: Sequence[Group], lr: float, adamw_lr: float | None) -> list[Group]:
    """Return the groups, those without Muon on the scale of `adamw_lr` instead of `lr`.

    Args:
        groups: with the multipliers on `optimizer.lr` that were declared.
        lr: `optimizer.lr`.
        adamw_lr: `optimizer.adamw_lr`; None where the optimizer has one learning rate.
    """
    if adamw_lr is None:
        return list(groups)
    return [
        group
        if group.hyperparameters.get(USES_MUON)
        else replace(group, lr_multiplier=group.lr_multiplier * adamw_lr / lr)
        for group in groups
    ]
