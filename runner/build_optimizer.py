"""The node of an optimizer and parameter groups -> the optimizer."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch.optim import Optimizer

from runner.assemble import refusals
from runner.config import OptimizerNode
from runner.errors import ConfigError, Problem
from runner.optim.groups import Group
from runner.optim.readout import estimates
from runner.signatures import locate, needs_closure, parameters_of
from runner.tasks.described import listed

_FAST_DEVICES = ("cpu", "cuda", "mps")


def build_optimizer(node: OptimizerNode, groups: Sequence[Group], device: torch.device) -> Optimizer:
    """Make the optimizer over the groups: fused where a class has it, else foreach, unless the YAML says otherwise.

    Raises:
        ConfigError: the class refuses its arguments, or cannot be trained with here.
    """
    target, arguments = locate(node.target), node.arguments
    if node.target.startswith("heavyball."):
        _set_up_heavyball(device)
    # a function may hand its arguments on to a class that has no such form
    if inspect.isclass(target) and not {"fused", "foreach"} & arguments.keys() and device.type in _FAST_DEVICES:
        faster = next((name for name in ("fused", "foreach") if name in parameters_of(target)), None)
        arguments |= {faster: True} if faster else {}
    try:
        optimizer: Optimizer = target([group.as_dict(node.lr) for group in groups], **arguments)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(refusals("optimizer", node, error)) from error
    if problems := list(_misuse(optimizer, groups)):
        raise ConfigError(problems)
    return optimizer


def _set_up_heavyball(device: torch.device) -> None:
    """Keep it from tuning kernels for minutes on a CPU, and from warning of schedules, which `multi_tensor` takes."""
    if device.type == "cpu":
        importlib.import_module("heavyball.utils").compile_mode = None  # type: ignore[attr-defined]
    warnings.filterwarnings("ignore", message="Learning rate changed between steps")


def _misuse(optimizer: Optimizer, groups: Sequence[Group]) -> Iterator[Problem]:
    """Yield what only the finished optimizer tells, and what its first step would fail with."""
    name = type(optimizer).__name__
    if needs_closure(type(optimizer)):
        yield Problem("optimizer", f"must step without a closure, got {name}", "Choose another optimizer")
        return
    if not estimates(optimizer.param_groups[0]):
        return
    rates = sorted({group["initial_lr"] for group in optimizer.param_groups})
    if len(rates) > 1:
        got = ", ".join(f"{rate:g}" for rate in rates)
        rule = f"must give all groups one learning rate with {name}, which estimates one for all, got {got}"
        yield Problem("param_groups", rule, "Set param_groups=all, or another optimizer")
    own = [group.name for group in groups if group.schedule is not None]
    if len({group.schedule for group in groups}) > 1:
        rule = f"must give all groups one schedule with {name}, which estimates one rate for all, got another"
        yield Problem("param_groups", f"{rule} for {listed(own)}", "Remove it, or set another optimizer")
