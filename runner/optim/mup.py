"""Learning rates that stay right when a model is made wider: maximal update parametrisation (muP)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from runner.errors import ConfigError, Problem
from runner.optim.groups import Group, Grouping, OptimizerSettings, Settings, without_decay_1d
from runner.tasks.described import listed

Role = Literal["input", "hidden", "output", "vector"]
ADAM_LIKE = {"Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop", "Rprop", "Lion"}
SGD_LIKE = {"SGD", "ASGD"}
KEY = "param_groups.base"


class _Growth(NamedTuple):
    """How a parameter differs from that of the base model.

    Attributes:
        role: by which of its sides grew.
        fan_in: ratio of inputs, 1 where they did not grow.
        fan_out: ratio of outputs, 1 where they did not grow.
    """

    role: Role
    fan_in: float
    fan_out: float


def mup(
    *,
    optimizer_settings: OptimizerSettings,
    base: Callable[[], nn.Module] | None = None,
    like: Literal["auto", "adam", "sgd"] = "auto",
    no_decay_1d: bool = False,
) -> Grouping:
    """Scale the learning rate of every parameter by how much wider it is than in a base model.

    With m_in and m_out the ratios of fan-in and fan-out to those of the base model:
    lr_multiplier = 1 / m_in with optimizers like Adam, m_out / m_in with those like SGD. So an m times wider model has

    ======  ===============  ========  ========  =======================================
    like    input            hidden    output    vector (biases, norms)
    ======  ===============  ========  ========  =======================================
    adam    1                1 / m     1 / m     1
    sgd     m                1         1 / m     m, 1 for the biases of the output
    ======  ===============  ========  ========  =======================================

    and weight_decay / lr_multiplier, so that what an update takes off a weight stays the same. The learning rate that
    is best at the base width is then close to the best one at every width, if the initial weights and the attention
    scale follow too: input weights start with the same standard deviation at every width, hidden ones with
    1 / sqrt(fan-in), output ones with 1 / fan-in; attention divides by the head size, not by its square root. Groups
    cannot change that: `task.base_width` does it in `char_lm`. Adam's eps is left alone.

    A model declares its base by a method `base_model` that returns the same model at its base width, or None.

    Args:
        optimizer_settings: filled in.
        base: makes the same model at the base width; None takes the model's own `base_model`.
        like: how the optimizer's update scales with the gradient: not at all (adam) or in proportion (sgd).
        no_decay_1d: whether what has dimension <= 1 is taken out of weight decay.
    Raises:
        ConfigError: it is not known what the optimizer is like. The grouping raises it where there is no base model, or
            one that differs from the model in more than its widths.
    Source: Yang et al. 2022 (Tensor Programs V), arXiv:2203.03466, table 3; the multipliers and the weight decay are
        those of microsoft/mup, mup/optim.py (MuAdam, MuSGD), whose output layer has the multiplier 1 / m in its forward
        pass instead of its learning rate (table 8).
    """
    is_adam = _is_adam_like(optimizer_settings, like)

    def split(model: nn.Module) -> list[Group]:
        growths = _growths(model, _base_of(model, base))
        members: dict[tuple[Role, float], list[nn.Parameter]] = {}
        for name, growth in growths.items():
            multiplier = (1.0 if is_adam else growth.fan_out) / growth.fan_in
            members.setdefault((growth.role, multiplier), []).append(model.get_parameter(name))
        groups = [
            Group(
                _name(role, multiplier, list(members)), parameters, multiplier, _decay(optimizer_settings, multiplier)
            )
            for (role, multiplier), parameters in members.items()
        ]
        return without_decay_1d(groups) if no_decay_1d else groups

    return split


def _is_adam_like(settings: Settings, like: str) -> bool:
    if like != "auto":
        return like == "adam"
    name = settings.kind.__name__
    if name not in ADAM_LIKE | SGD_LIKE:
        rule = f"must be adam or sgd with an optimizer that is not known to be like one of them, got auto with {name}"
        raise ConfigError(
            [
                Problem(
                    "param_groups.like", rule, "Set param_groups.like=adam if its update ignores the gradient's scale"
                )
            ]
        )
    return name in ADAM_LIKE


def _base_of(model: nn.Module, base: Callable[[], nn.Module] | None) -> nn.Module:
    """Return the base model; the random numbers of the run are left alone."""
    make: Callable[[], Any] | None = base or getattr(model, "base_model", None)
    with torch.random.fork_rng(devices=[]):
        made = make() if make is not None else None
    if made is None:
        rule = f"must be given for a model that declares no base width, got null for {type(model).__name__}"
        raise ConfigError(
            [Problem(KEY, rule, "Give a section that makes the narrow model, or set task.base_width of char_lm")]
        )
    if not isinstance(made, nn.Module):
        raise ConfigError([Problem(KEY, f"must make a torch.nn.Module, got {type(made).__name__}", "Name a model")])
    return made


def _growths(model: nn.Module, base: nn.Module) -> dict[str, _Growth]:
    """Return trained parameter -> how it differs from the base model's."""
    widened, narrow = dict(model.named_parameters()), dict(base.named_parameters())
    wrong = [name for name in [*widened, *narrow] if name not in widened or name not in narrow]
    wrong += [name for name in widened if name in narrow and not _is_comparable(widened[name], narrow[name])]
    if wrong:
        rule = f"must differ from the model in its widths only, got another {listed(dict.fromkeys(wrong))}"
        raise ConfigError([Problem(KEY, rule, "Give the same model with smaller widths")])
    return {n: _growth(model, n, p, narrow[n]) for n, p in widened.items() if p.requires_grad}


def _is_comparable(value: Tensor, base: Tensor) -> bool:
    grown = sum(new != old for new, old in zip(value.shape, base.shape, strict=False))
    return value.ndim == base.ndim and grown <= 2


def _growth(model: nn.Module, name: str, value: Tensor, base: Tensor) -> _Growth:
    """Return role and ratios; what belongs to no matrix multiplication and grew on one side counts as input."""
    ratios = [new / old for new, old in zip(value.shape, base.shape, strict=True)]
    grown = [ratio for ratio in ratios if ratio != 1.0]
    if value.ndim <= 1:
        return _Growth("vector", 1.0, ratios[0] if ratios else 1.0)
    owner = model.get_submodule(name.rpartition(".")[0])
    if len(grown) == 2:
        fan_out, fan_in = reversed(grown) if _is_transposed(owner) else grown
        return _Growth("hidden", fan_in, fan_out)
    out_side = 1 if _is_transposed(owner) else 0
    if len(grown) == 1 and _multiplies(owner) and ratios[out_side] == 1.0:
        return _Growth("output", grown[0], 1.0)
    return _Growth("input", 1.0, grown[0] if grown else 1.0)


def _multiplies(owner: nn.Module) -> bool:
    """Whether the matrix of a module is multiplied with activations, not looked up."""
    return not isinstance(owner, nn.Embedding | nn.EmbeddingBag) and hasattr(owner, "weight")


def _is_transposed(owner: nn.Module) -> bool:
    """Whether a weight is (in, out, ...): in transposed convolutions and in transformers' Conv1D."""
    return getattr(owner, "transposed", False) is True or type(owner).__name__ == "Conv1D"


def _name(role: Role, multiplier: float, keys: list[tuple[Role, float]]) -> str:
    """Return the role, with its multiplier where the role has several."""
    return role if sum(other == role for other, _ in keys) == 1 else f"{role}_x{multiplier:g}"


def _decay(settings: Settings, multiplier: float) -> dict[str, float]:
    parameter = inspect.signature(settings.kind).parameters.get("weight_decay")
    default = 0.0 if parameter is None or parameter.default is parameter.empty else parameter.default
    decay = settings.arguments.get("weight_decay", default)
    return {"weight_decay": decay / multiplier} if decay and multiplier != 1.0 else {}
