"""Any scheduler of torch as a function of the step."""

from __future__ import annotations

import functools
import inspect
import math
from array import array
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from runner.durations import BaseLR, Steps, TotalSteps
from runner.errors import refused
from runner.schedules.shape import LONGEST_TABLE, Schedule

_ROUNDING = 1e-12
_ASKED = {"T_max": "intervals", "total_steps": "intervals", "num_training_steps": "intervals", "max_lr": "base_lr"}
"""argument of a scheduler -> what it stands for"""


def tabulated(
    *, scheduler: Callable[..., LRScheduler], total_steps: TotalSteps, base_lr: BaseLR, interval: Steps = 1
) -> Schedule:
    """Step a scheduler of torch through the whole run on an optimizer without weights, and look its values up.

    factor(t) = lr after floor(min(t, T) / interval) calls of `step()`, over the base learning rate

    A function of the step like all others: nothing to save, the learning rate scaled by remedies, groups in their
    ratios. It follows torch up to step T, the end of the run, and holds its value there. A million values
    cost 2 to 3 s of a core and 8 MB.

    Args:
        scheduler: takes `optimizer` and makes a scheduler; a class of torch.optim.lr_scheduler, or a function such as
            transformers.get_cosine_schedule_with_warmup. Parts of it that are bound and take an `optimizer` get the
            same one. It gets the length of the run, in intervals, as T_max, total_steps or num_training_steps, and the
            base learning rate as max_lr, where it asks for them and nothing is given.
        total_steps: T, steps of the run.
        base_lr: of the optimizer.
        interval: steps between two calls of `step()`; 1, or those of an epoch for a scheduler that counts epochs.
    Raises:
        ValueError: it looks at the loss, cannot be made, or fails on the way to step T.
    """
    intervals = math.ceil(total_steps / interval)
    if intervals > LONGEST_TABLE:
        rule = f"must not make more than {LONGEST_TABLE:,} values of a run of {total_steps:,} steps"
        raise refused("interval", f"{rule}, got {interval}", f"Set .interval={math.ceil(total_steps / LONGEST_TABLE)}")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=base_lr, momentum=0.9)
    horizon = {"intervals": intervals, "base_lr": base_lr}
    made = _made(_with_horizon(functools.partial(scheduler), horizon), optimizer)
    factors = _table(made, optimizer, base_lr=base_lr, updates=intervals)
    return lambda step: factors[min(step, total_steps) // interval]


def _with_horizon(part: functools.partial[Any], horizon: Mapping[str, float]) -> functools.partial[Any]:
    """Bind what a scheduler demands to know of the run and was not told."""
    parameters = inspect.signature(part).parameters
    missing = {
        name: horizon[what]
        for name, what in _ASKED.items()
        if name in parameters and parameters[name].default is inspect.Parameter.empty
    }
    if part.func is torch.optim.lr_scheduler.OneCycleLR and not {"epochs", "total_steps"} & part.keywords.keys():
        missing["total_steps"] = horizon["intervals"]
    return functools.partial(part, **missing)


def _made(part: Any, optimizer: torch.optim.Optimizer) -> Any:
    """Call what takes an optimizer, its own parts first; a bound function of the step stays as it is."""
    if isinstance(part, list):
        return [_made(item, optimizer) for item in part]
    if not isinstance(part, functools.partial):
        return part
    keywords = {name: _made(value, optimizer) for name, value in part.keywords.items()}
    if "optimizer" not in inspect.signature(part.func).parameters:
        return functools.partial(part.func, *part.args, **keywords)
    try:
        made = part.func(*part.args, **keywords | {"optimizer": optimizer})
    except Exception as error:
        rule = f"must be accepted by {_name(part.func)}, which says: {error}"
        raise refused("scheduler", rule, "Set its arguments as in +.scheduler.gamma=0.5") from error
    if isinstance(made, ReduceLROnPlateau):
        fix = "Set schedule=constant detector=[default,plateau] remedy=[reduce_lr,stop]"
        raise refused("scheduler", f"must be a function of the step, not of the loss, got {_name(part.func)}", fix)
    return made


def _table(scheduler: Any, optimizer: torch.optim.Optimizer, *, base_lr: float, updates: int) -> array[float]:
    """Return the factors after 0 .. `updates` calls of `step()`; no update sees the last."""
    if not isinstance(scheduler, LRScheduler):
        fix = "Set .scheduler._target_=torch.optim.lr_scheduler.ExponentialLR, or another one of these"
        raise refused("scheduler", f"must make a scheduler of torch, got {scheduler!r}", fix)
    optimizer.step()  # else torch warns that schedulers step after the optimizer
    group = optimizer.param_groups[0]
    factors = array("d")
    for count in range(updates + 1):
        try:
            if count:
                scheduler.step()
            factor = float(group["lr"]) / base_lr
            factor = 0.0 if -_ROUNDING < factor < 0.0 else factor
            if not 0.0 <= factor < math.inf:
                raise ValueError(f"the learning rate is {group['lr']:g}")
        except Exception as error:
            if count == updates:  # OneCycleLR has no value there, or a negative one
                factor = factors[-1]
            else:
                rule = f"must give finite learning rates >= 0 for {updates} calls of step"
                rule = f"{rule}, but {_name(type(scheduler))} says at {count}: {error}"
                raise refused("scheduler", rule, "Change its arguments, beginning with its length") from error
        factors.append(factor)
    return factors


def _name(target: Any) -> str:
    return getattr(target, "__name__", repr(target))
