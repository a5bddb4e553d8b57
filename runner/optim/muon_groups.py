"""Which parameters Muon takes."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from runner.errors import ConfigError, Problem
from runner.optim.groups import Group, Grouping, without_decay_1d
from runner.optim.muon import USES_MUON


def matrices_and_others(*, no_decay_1d: bool = False) -> Grouping:
    """Put hidden matrices into the group `matrices`, for Muon, and all other trained parameters into `others`.

    A hidden matrix is a parameter of two dimensions whose own name holds "weight" (that of a Linear, of attention, of a
    recurrent layer) and that is neither that of an Embedding or EmbeddingBag nor that of the last Linear of the model,
    the output head. A weight shared with one of those counts as theirs. So tables of positions, convolution filters,
    norms and biases are others.

    Args:
        no_decay_1d: whether what has dimension <= 1 is taken out of weight decay.
    Raises:
        ConfigError: raised by the grouping: the model has no hidden matrix.
    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon (embeddings and the output layer belong to AdamW).
    """
    return lambda model: without_decay_1d(_split(model)) if no_decay_1d else _split(model)


def _split(model: nn.Module) -> list[Group]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    hidden = {id(parameter) for parameter in _hidden_matrices(model)}
    matrices = [parameter for parameter in trained if id(parameter) in hidden]
    others = [parameter for parameter in trained if id(parameter) not in hidden]
    if not matrices:
        rule = f"must find a hidden matrix for Muon, got none among {len(trained)} parameters"
        raise ConfigError([Problem("param_groups", rule, "Set optimizer=adamw param_groups=all")])
    groups = [
        Group("matrices", matrices, hyperparameters={USES_MUON: True}),
        Group("others", others, hyperparameters={USES_MUON: False}),
    ]
    return [group for group in groups if group.parameters]


def _hidden_matrices(model: nn.Module) -> Iterator[nn.Parameter]:
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    outer = [module for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    not_hidden = {id(module.weight) for module in [*outer, *linear[-1:]]}
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "weight" in name.rpartition(".")[2] and id(parameter) not in not_hidden:
            yield parameter
