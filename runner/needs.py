"""What a mode needs beside the page: everything that a run is made of, or only the parts of its schedules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from runner.config import OptimizerNode
from runner.durations import parse
from runner.nodes import Node, leaves, nodes

ONE_GROUP = "runner.optim.groups.everything"
LEARNING_RATES = frozenset({"lr", "adamw_lr"})
_OF_SCHEDULES = ("mode", "schedule", "warmup", "schedule_of", "overlays")


def is_told(sections: Mapping[str, Any]) -> bool:
    """Whether a mode makes only schedules and the page tells all that they need: neither model, data nor torch.

    All parameters are in one group, and the training examples are known or nothing counts in epochs or examples. A mode
    that reads a curve makes nothing and needs nothing.

    Args:
        sections: those of the page that are sound, by name.
    """
    if _reads_curve(sections):
        return True
    mode, groups, task, train = (sections.get(name) for name in ("mode", "param_groups", "task", "train"))
    if (
        mode is None
        or not mode.schedules_only
        or groups is None
        or groups.target != ONE_GROUP
        or groups.arguments
        or task is None
    ):
        return False
    counted = [node for _, node in nodes_of_schedules(sections)]
    return task.examples is not None or not (
        (train is not None and _in_epochs(train.duration)) or any(map(_needs_epochs, counted))
    )


def nodes_to_bind(sections: Mapping[str, Any]) -> Iterator[tuple[str, Node]]:
    """Yield (dotted key, node) for the parts whose arguments are bound to what they name."""
    if not is_told(sections):
        yield from nodes(sections)
        return
    yield from nodes_of_schedules(sections)
    optimizer = None if _reads_curve(sections) else sections.get("optimizer")
    if optimizer is not None and not sections.get("schedule_of", {}).keys() <= written_numbers(optimizer):
        yield "optimizer", optimizer


def written_numbers(optimizer: OptimizerNode) -> set[str]:
    """Return the hyperparameters that a schedule can multiply as the page alone tells: without importing the class."""
    written = {name for name, value in optimizer.arguments.items() if isinstance(value, float)}
    return (written | members_of(optimizer.arguments.get("betas"), float)) - LEARNING_RATES


def members_of(betas: Any, *kinds: type) -> set[str]:
    """Return what a pair of betas is called one by one; nothing where it is none."""
    is_pair = isinstance(betas, list | tuple) and len(betas) >= 2 and all(type(beta) in kinds for beta in betas[:2])
    return {"beta1", "beta2", "momentum"} if is_pair else set()


def nodes_of_schedules(sections: Mapping[str, Any]) -> Iterator[tuple[str, Node]]:
    """Yield (dotted key, node) for the mode and every part of the schedules."""
    return nodes({name: section for name, section in sections.items() if name in _OF_SCHEDULES})


def _reads_curve(sections: Mapping[str, Any]) -> bool:
    mode = sections.get("mode")
    return mode is not None and bool(mode.reads_curve)


def _needs_epochs(node: Node) -> bool:
    """Whether a part, or a part of it, speaks of epochs or examples."""
    written = [getattr(node, "horizon", None), *(value for _, value in leaves(node.arguments))]
    below = (Node.model_validate(part) for part in node.parts.values())
    return any(map(_in_epochs, written)) or any(map(_needs_epochs, below))


def _in_epochs(value: Any) -> bool:
    """Whether a value is a duration in epochs or examples."""
    try:
        return isinstance(value, str) and parse(value)[1] in ("ep", "ex")
    except ValueError:
        return False
