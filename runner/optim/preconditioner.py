"""What the next update of an optimizer makes of the curvature in every coordinate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from runner.stability import Update, bound_of, moving_average, nadam, nadam_momentum


class Scaling(NamedTuple):
    """The coordinates in which stability is a matter of one number.

    An update of all parameters, each with its own learning rate, momentum and preconditioner, has the growth factor -1
    if and only if 1 is an eigenvalue of D^1/2 H D^1/2 + E, with H the Hessian of the loss and the diagonals

        D = lr * gain / (2 P),   E = D * decay (coupled) or lr * decay / 2 (decoupled).

    So the largest eigenvalue of that matrix says how much of the stable range is used; it is linear in the learning
    rates. For one group it is lr * (lambda_max(P^-1 H) + decay) / bound.

    Attributes:
        parameters: trained in the next update.
        scales: D, a number or a tensor for each.
        shifts: E, likewise.
        reference: what a curvature of 1 counts in the first of the groups, lr * gain / 2, with the gain of a long run;
            lr / 2 in the first update of a preconditioner.
        firsts: which of the parameters get their first update, with a preconditioner made of one gradient.
    """

    parameters: Sequence[Tensor]
    scales: Sequence[Tensor | float]
    shifts: Sequence[Tensor | float]
    reference: float
    firsts: Sequence[bool]


def has_bound(optimizer: type) -> bool:
    """Whether it is known when a class of optimizers is stable."""
    return bound_of(f"{optimizer.__module__}.{optimizer.__name__}") is not None


def trained(optimizer: Optimizer, *, lr: str = "lr") -> list[Tensor]:
    """Return the parameters that move at all, group by group."""
    return [p for group in optimizer.param_groups if float(group[lr]) > 0 for p in group["params"] if p.requires_grad]


def scaling(optimizer: Optimizer, gradients: Sequence[Tensor], *, lr: str = "lr") -> Scaling:
    """Return the coordinates for the next update, the state of the optimizer being that before it.

    Args:
        optimizer: of a class that `has_bound`.
        gradients: of the loss, one for each of `trained(optimizer, lr=lr)`; they enter the second moments as they will
            in the update, which are nothing yet before the first one.
        lr: key of the learning rate in a group, "lr" or "initial_lr".
    """
    name = type(optimizer).__name__
    update_of = bound_of(f"{type(optimizer).__module__}.{name}")
    if update_of is None:
        raise ValueError(f"optimizer: must be one with a known bound, got {name}")
    parameters: list[Tensor] = []
    scales: list[Tensor | float] = []
    shifts: list[Tensor | float] = []
    firsts: list[bool] = []
    reference = 0.0
    left = iter(gradients)
    for group in optimizer.param_groups:
        rate, decay = float(group[lr]), float(group.get("weight_decay", 0.0))
        moving = [p for p in group["params"] if p.requires_grad] if rate > 0 else []
        update, is_decoupled = update_of(group), bool(group.get("decoupled_weight_decay"))
        for parameter in moving:
            gradient, state = next(left), optimizer.state.get(parameter, {})
            if decay and not is_decoupled:
                gradient = gradient + decay * parameter.detach()
            gain = _GAINS.get(name, _plain)(update, group, state, gradient)
            scale, is_first = rate * gain / 2, isinstance(gain, Tensor) and _step(state) == 1
            reference = reference or rate * (1.0 if is_first else update.gain) / 2
            parameters.append(parameter)
            scales.append(scale)
            shifts.append(rate * decay / 2 if is_decoupled else scale * decay)
            firsts.append(is_first)
    return Scaling(parameters, scales, shifts, reference, firsts)


Gain = Callable[[Update, Mapping[str, Any], Mapping[str, Any], Tensor], Tensor | float]
"""(update in the long run, group, state of a parameter, its gradient) -> gain / P of the next update"""


def _plain(update: Update, group: Mapping[str, Any], state: Mapping[str, Any], gradient: Tensor) -> float:
    return update.gain


def _of(update: Update, state: Mapping[str, Any]) -> float:
    """Return the gain of the next update; nothing is in the momentum of the first one."""
    return update.first_gain if _step(state) == 1 else update.gain


def _squares(group: Mapping[str, Any], state: Mapping[str, Any], gradient: Tensor, *, key: str, decay: float) -> Tensor:
    """Return the running mean of squared gradients with that of the next update in it."""
    new, held = gradient.square() * (1 - decay), state.get(key)
    return new if held is None else new + decay * held


def _adam(update: Update, group: Mapping[str, Any], state: Mapping[str, Any], gradient: Tensor) -> Tensor:
    """P = (1 - b1^t) (sqrt(v_t / (1 - b2^t)) + eps), the largest v so far with amsgrad."""
    beta1, beta2 = _betas(group)
    step = _step(state)
    squares = _squares(group, state, gradient, key="exp_avg_sq", decay=beta2)
    if group.get("amsgrad") and state:
        squares = torch.maximum(squares, state["max_exp_avg_sq"])
    root = (squares / _bias(beta2, step)).sqrt() + float(group["eps"])
    return root.reciprocal() * _of(moving_average(beta1, correction=_bias(beta1, step)), state)


def _nadam(update: Update, group: Mapping[str, Any], state: Mapping[str, Any], gradient: Tensor) -> Tensor:
    beta1, beta2 = _betas(group)
    step, decay = _step(state), float(group["momentum_decay"])
    squares = _squares(group, state, gradient, key="exp_avg_sq", decay=beta2) / _bias(beta2, step)
    root = squares.sqrt() + float(group["eps"])
    now, coming = nadam_momentum(beta1, decay, step), nadam_momentum(beta1, decay, step + 1)
    product = float(state.get("mu_product", 1.0)) * now
    shares = {"direct": (1 - now) / (1 - product), "through": coming / (1 - product * coming)}
    return root.reciprocal() * _of(nadam(beta1, **shares), state)


def _radam(update: Update, group: Mapping[str, Any], state: Mapping[str, Any], gradient: Tensor) -> Tensor | float:
    """P = (1 - b1^t) (sqrt(v_t) + eps) / (sqrt(1 - b2^t) r_t), 1 - b1^t while the variance is not rectified."""
    beta1, beta2 = _betas(group)
    step = _step(state)
    gain = _of(moving_average(beta1, correction=_bias(beta1, step)), state)
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * math.pow(beta2, step) / _bias(beta2, step)
    if length <= 5:
        return gain
    rest = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    root = _squares(group, state, gradient, key="exp_avg_sq", decay=beta2).sqrt() + float(group["eps"])
    return root.reciprocal() * (gain * math.sqrt(_bias(beta2, step) * rest))


def _adamax(update: Update, group: Mapping[str, Any], state: Mapping[str, Any], gradient: Tensor) -> Tensor:
    beta1, beta2 = _betas(group)
    step = _step(state)
    largest = gradient.abs() + float(group["eps"])
    largest = torch.maximum(largest, beta2 * state["exp_inf"]) if state else largest
    return largest.reciprocal() * _of(moving_average(beta1, correction=_bias(beta1, step)), state)


def _rmsprop(update: Update, group: Mapping[str, Any], state: Mapping[str, Any], gradient: Tensor) -> Tensor:
    alpha = float(group["alpha"])
    squares = _squares(group, state, gradient, key="square_avg", decay=alpha)
    if group["centered"]:
        mean: Tensor = gradient * (1 - alpha)
        if state:
            mean = mean + alpha * state["grad_avg"]
        squares = (squares - mean.square()).clamp(min=0)
    return (squares.sqrt() + float(group["eps"])).reciprocal() * _of(update, state)


def _adagrad(update: Update, group: Mapping[str, Any], state: Mapping[str, Any], gradient: Tensor) -> Tensor:
    slowed = 1 + (_step(state) - 1) * float(group["lr_decay"])
    squares: Tensor = gradient.square() + state["sum"]
    root = squares.sqrt() + float(group["eps"])
    return root.reciprocal() * (update.gain / slowed)


_GAINS: Mapping[str, Gain] = {
    "Adam": _adam,
    "AdamW": _adam,
    "NAdam": _nadam,
    "RAdam": _radam,
    "Adamax": _adamax,
    "RMSprop": _rmsprop,
    "Adagrad": _adagrad,
}


def _betas(group: Mapping[str, Any]) -> tuple[float, float]:
    return float(group["betas"][0]), float(group["betas"][1])


def _bias(beta: float, step: float) -> float:
    """Return what a running mean that began at 0 is divided by: 1 - beta^t."""
    return 1 - math.pow(beta, step)


def _step(state: Mapping[str, Any]) -> float:
    """Return the number of the next update, from 1."""
    return float(state.get("step", 0.0)) + 1
