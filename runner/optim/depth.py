"""Groups by depth: learning rates that fall towards the input, layers that are unfrozen one after the other."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt, Le
from torch import nn

from runner.durations import Steps, TotalSteps
from runner.errors import ConfigError, Problem
from runner.optim.groups import Group, Grouping, without_decay_1d

STEM, HEAD = "stem", "head"


def layers(
    *,
    total_steps: TotalSteps,
    rate: Annotated[float, Gt(0), Le(1)] = 0.75,
    unfreeze_every: Steps | None = None,
    no_decay_1d: bool = False,
) -> Grouping:
    """Make a group of every layer, from the head to the input; see `by_depth`.

    lr_multiplier = rate ** (layers above it); frozen_steps = unfreeze_every * (layers above it)

    Args:
        total_steps: T, filled in.
        rate: factor on the learning rate from a layer to the one below.
        unfreeze_every: optimizer steps from the unfreezing of a layer to that of the one below, the head is trained
            from step 0; None trains all from step 0.
        no_decay_1d: whether what has dimension <= 1 is taken out of weight decay.
    Raises:
        ConfigError: raised by the grouping: the last layer would be unfrozen after the run.
    Source: layer-wise decay: Clark et al. 2020 (ELECTRA), arXiv:2003.10555, and Bao et al. 2022 (BEiT),
        arXiv:2106.08254; gradual unfreezing and discriminative fine-tuning: Howard & Ruder 2018 (ULMFiT),
        arXiv:1801.06146.
    """

    def split(model: nn.Module) -> list[Group]:
        found = list(reversed(by_depth(model).items()))
        every = unfreeze_every or 0
        if (last := every * (len(found) - 1)) >= total_steps:
            rule = (
                f"must unfreeze all {len(found)} layers within the run of {total_steps} steps, got the last at {last}"
            )
            longest = (total_steps - 1) // (len(found) - 1)
            fix = f"Set param_groups.unfreeze_every={longest}" if longest else "Set a longer train.duration"
            raise ConfigError([Problem("param_groups.unfreeze_every", rule, f"{fix} or less" if longest else fix)])
        groups = [
            Group(label, parameters, lr_multiplier=rate**above, frozen_steps=every * above)
            for above, (label, parameters) in enumerate(found)
        ]
        return without_decay_1d(groups) if no_decay_1d else groups

    return split


def by_depth(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Return layer -> its trained parameters, from the input to the head, in the order in which the model has them.

    The items of the outermost `nn.Sequential` or `nn.ModuleList` with at least two of them are layers ("blocks.3").
    What comes before the first is one layer, the "stem" (embeddings), what comes behind the last is the "head". A model
    without such a list has a layer for each module ("fc1"). A layer with nothing but vectors (a norm) belongs to the
    one before it. A tied weight belongs where it comes first.
    """
    found: dict[str, list[nn.Parameter]] = {}
    places = {name: _place(model, name) for name, p in model.named_parameters() if p.requires_grad}
    indexed = [number for number, (_, is_item) in enumerate(places.values()) if is_item]
    last_label = ""
    for number, (name, (place, is_item)) in enumerate(places.items()):
        if indexed and not is_item:
            place = STEM if number < indexed[0] else HEAD if number > indexed[-1] else last_label
        found.setdefault(place, []).append(model.get_parameter(name))
        last_label = place
    return _without_vectors_alone(found)


def _without_vectors_alone(found: dict[str, list[nn.Parameter]]) -> dict[str, list[nn.Parameter]]:
    joined: dict[str, list[nn.Parameter]] = {}
    for label, parameters in found.items():
        if joined and all(parameter.ndim <= 1 for parameter in parameters):
            joined[list(joined)[-1]] += parameters
        else:
            joined[label] = parameters
    return joined


def _place(model: nn.Module, name: str) -> tuple[str, bool]:
    """Return the path of the layer that a parameter lies in, and whether it is an item of a list."""
    parts = name.split(".")
    for depth in range(len(parts) - 1):
        container = model.get_submodule(".".join(parts[:depth]))
        if isinstance(container, nn.Sequential | nn.ModuleList):
            items = [item for item in container if next(item.parameters(), None) is not None]
            if len(items) > 1:
                return ".".join(parts[: depth + 1]), True
    return ".".join(parts[:-1]) or name, False
