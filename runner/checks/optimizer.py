"""Rules of an optimizer that its signature does not tell."""

from __future__ import annotations

import inspect
from typing import Any, TypeGuard

from runner.config import OptimizerNode
from runner.signatures import averages_itself, has_fused, hints_of, locate, needs_closure
from runner.wording import Findings, shown

_NOT_NEGATIVE = ("momentum", "eps", "weight_decay")


def wrong_optimizer(target: Any) -> str:
    """Return the rule that an optimizer's target breaks, "" when it breaks none."""
    optimizer = locate("torch.optim.Optimizer")
    made = target if inspect.isclass(target) else hints_of(target).get("return")
    if not (inspect.isclass(made) and issubclass(made, optimizer)):
        return "must be a class of optimizers, like those of torch.optim, or a function that declares to return one"
    return "must step without a closure" if needs_closure(made) and made is not optimizer else ""


def check_optimizer(found: Findings) -> None:
    """Check the values that every class gives the same meaning, and what an optimizer cannot be combined with."""
    optimizer = found.sections.get("optimizer")
    if optimizer is None or any(problem.key == "optimizer._target_" for problem in found.problems):
        return
    _check_hyperparameters(optimizer, found)
    _check_watch_every(optimizer, found)
    _check_average(optimizer, found)


def _check_hyperparameters(optimizer: OptimizerNode, found: Findings) -> None:
    """Not all packages refuse what makes them compute nan."""
    arguments = optimizer.arguments
    betas = arguments.get("betas")
    if isinstance(betas, list) and any(_is_number(beta) and not 0 <= beta < 1 for beta in betas):
        rule = f"must be a list, each item >= 0 and < 1, got {shown(betas)}"
        found.add("optimizer.betas", rule, "Set optimizer.betas=[0.9,0.999], usual for Adam")
    for name in _NOT_NEGATIVE:
        if _is_number(value := arguments.get(name, 0)) and value < 0:
            found.add(f"optimizer.{name}", f"must be a number >= 0, got {shown(value)}", f"Set optimizer.{name}=0")


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float)


def _check_watch_every(optimizer: OptimizerNode, found: Findings) -> None:
    """Between two looks at the loss, only a fused optimizer can drop a bad update by itself."""
    train = found.sections.get("train")
    if train is None or train.watch_every == 1:
        return
    chosen = {name for name in ("foreach", "differentiable") if optimizer.arguments.get(name)}
    if not has_fused(optimizer.target) or chosen or optimizer.arguments.get("fused") is False:
        rule = f"must be 1 with an optimizer that is not fused, got {train.watch_every}"
        found.add("train.watch_every", rule, "Set train.watch_every=1, or optimizer=sgd, adam, adamw or adagrad")


def _check_average(optimizer: OptimizerNode, found: Findings) -> None:
    """An optimizer that averages its weights by itself needs something to average them with, and no second average."""
    train = found.sections.get("train")
    if not averages_itself(locate(optimizer.target)):
        return
    if train is not None and train.ema_decay is not None:
        rule = f"must be null with {optimizer.target}, which averages the weights by itself, got {train.ema_decay}"
        found.add("train.ema_decay", rule, "Set train.ema_decay=null, or another optimizer")
    betas, momentum = optimizer.arguments.get("betas"), optimizer.arguments.get("momentum")
    if isinstance(betas, list) and betas[:1] == [0]:
        rule = f"must begin with a number > 0, the share of the average where gradients are taken, got {shown(betas)}"
        found.add("optimizer.betas", rule, "Set optimizer.betas=[0.9,0.999]")
    if momentum == 0:
        rule = f"must be > 0, the share of the average where gradients are taken, got {shown(momentum)}"
        found.add("optimizer.momentum", rule, "Set optimizer.momentum=0.9")
