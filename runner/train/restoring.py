"""Give a training back what it was: detectors, optimizer, clipping."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

from runner.optim.readout import estimate, estimates
from runner.records import Alarm
from runner.train.clipping import Clipping, Fixed
from runner.train.plan import TrainPlan
from runner.train.saved import other_groups
from runner.train.state import Earlier, TrainState
from runner.train.step import to_device

if TYPE_CHECKING:
    from runner.train.act import Run


def go_back(earlier: Earlier, alarm: Alarm, state: TrainState, run: Run) -> None:
    """Go on from weights that have been put back, with an empty optimizer state; step, generators and fp16 scale stay.

    A step size that the optimizer estimates by itself goes back to that of those weights: from its first value it
    would have to grow again by as much as it did over the whole run.

    What clipping follows goes back too; a norm that a remedy has set stays, as the learning rate does.

    Detectors go back with the weights, but for one that has only warned: it has started over by itself, and would
    lose its cooldown. One that wants the run stopped goes on ringing until it is set back.
    """
    after, state.watch = state.watch, run.watch.restore(earlier.detectors)
    if alarm.severity != "stop":
        state.watch = {**state.watch, alarm.detector: after[alarm.detector]}
    state.updates_kept, state.lost_steps, state.is_fresh = earlier.updates_kept, 0, True
    clip_as(earlier.clipping, run.clipping, run.plan)
    empty(run.optimizer, run.pristine, earlier.groups)
    forget_update(state, run)


def forget_update(state: TrainState, run: Run) -> None:
    """Forget what was measured of the latest update: it is not one of the weights that there are now."""
    state.carried = {}
    for meter in run.meters:
        meter.forget()


def load_optimizer_state(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Load momenta and counters, but keep the hyperparameters that the optimizer has now.

    A key of a group that is no argument of the class (schedule-free keeps its step there) is state, and loaded. State
    keeps its number format, where torch would round all of it to that of the parameter.

    Raises:
        ValueError: the groups are others, so that momenta would reach the wrong parameters.
    """
    if difference := other_groups(saved, optimizer):
        raise ValueError(f"its parameter groups are others: {difference}")
    arguments = {*inspect.signature(type(optimizer)).parameters, "name", "frozen_steps"} - {"params"}
    groups = [
        {k: v for k, v in group.items() if k in arguments or k.startswith("initial_")}
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(saved)
    for group, configured in zip(optimizer.param_groups, groups, strict=True):
        group.update(configured)
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, parameter in zip(numbers, parameters, strict=True):
        if number in saved["state"]:
            optimizer.state[parameter] = _as_saved(optimizer.state[parameter], saved["state"][number])


def empty(optimizer: Optimizer, pristine: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> None:
    """Empty the state of an optimizer; the step sizes that it estimates become those of earlier groups."""
    then = {group["name"]: dict(estimate(group)) for group in groups}  # of another optimizer, where a run went on
    load_optimizer_state(optimizer, deepcopy(dict(pristine)))
    for group in optimizer.param_groups:
        group.update(then.get(group["name"], {}) if estimates(group) else {})


def clip_as(then: Mapping[str, Any], clipping: Clipping, plan: TrainPlan) -> None:
    """Let clipping follow the norms that it followed then; one that has been set stays."""
    if not isinstance(clipping, Fixed):
        clipping.load_state_dict(to_device(then, plan.device))


def _as_saved(loaded: Any, saved: Any) -> Any:
    """Return loaded state with the number formats of the saved one, where a class has not given it another form."""
    if isinstance(loaded, torch.Tensor) and isinstance(saved, torch.Tensor):
        return loaded if loaded.dtype == saved.dtype else saved.to(loaded.device, copy=True)
    if isinstance(loaded, dict) and isinstance(saved, dict):
        return {key: _as_saved(value, saved.get(key, value)) for key, value in loaded.items()}
    if isinstance(loaded, list | tuple) and isinstance(saved, list | tuple) and len(loaded) == len(saved):
        return type(loaded)(_as_saved(one, other) for one, other in zip(loaded, saved, strict=True))
    return loaded
