"""What range tests pick: the ramps of fastai and Lightning at their own defaults, and ours, each from one seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from runs_of_cells import full_steps, page_of

from runner.build import build
from runner.curves import ema
from runner.finding.range_rules import as_fastai, as_lightning
from runner.optim.apply import apply_schedules
from runner.range_bracket import range_bracket
from runner.range_test import constant, starting_point
from runner.tasks.closing import in_use
from runner.train.branches import train_once

_ITERATIONS = 100  # of either library
_DECAY, _BLOW_UP = 0.98, 4.0  # both stop at 4 times the best average


class Suggested(NamedTuple):
    """What one range test suggests: learning rate by name of the rule, nan without one; updates, in full runs."""

    rates: dict[str, float]
    cost: float


def fastai(cell: str, seed: int) -> Suggested:
    """Ramp as fastai's `lr_find` does of itself and ask its four rules.

    Source: fastai, callback/schedule.py.
    """
    lrs, losses = _ramp(cell, seed, 1e-7, 10.0, _is_over_in_fastai)
    updates = len(losses)
    if not math.isfinite(losses[-1]):  # it goes on to the end on a loss that is no number
        losses += [math.nan] * (_ITERATIONS - updates)
    found = as_fastai(lrs[: len(losses)], losses, planned_steps=_ITERATIONS)
    rules = ("valley", "slide", "minimum/10", "steep")
    return Suggested({f"fastai {rule}": found.get(rule, math.nan) for rule in rules}, updates / full_steps(cell))


def lightning(cell: str, seed: int) -> Suggested:
    """Ramp as Lightning's `lr_find` does of itself and ask its rule.

    Source: Lightning 2.6, tuner/lr_finder.py.
    """
    lrs, losses = _ramp(cell, seed, 1e-8, 1.0, _is_over_in_lightning)
    found = as_lightning(lrs[: len(losses)], losses)
    return Suggested({"lightning": math.nan if found is None else found}, len(losses) / full_steps(cell))


def ours(cell: str, seed: int) -> Suggested:
    """Make the three ramps of mode=range_test: the middle of its bracket, and both readings of Smith's range.

    Of Smith's range, the upper end, where a cyclic schedule has its peak, and the geometric middle; both ends are
    geometric means over the ramps. The sharpness is not measured: no rate comes from it.
    """
    test = range_bracket(page_of(cell).model_copy(update={"seed": seed}), sharpness=False)
    rules = {name: spread.middle for name, spread in test.found.rules.items()}
    low, high = rules.get("smith low", math.nan), rules.get("smith high", math.nan)
    rates = {"range test, middle": test.found.middle, "smith, upper end": high, "smith, middle": math.sqrt(low * high)}
    return Suggested(rates, test.cost)


def _is_over_in_fastai(losses: list[float]) -> bool:
    averages = ema(losses, decay=_DECAY)
    return averages[-1] > _BLOW_UP * min(averages)


def _is_over_in_lightning(losses: list[float]) -> bool:
    """Its correction counts one value too many, and it does not look before the second."""
    shrunk = [a * (1 - _DECAY ** (i + 1)) / (1 - _DECAY ** (i + 2)) for i, a in enumerate(ema(losses, decay=_DECAY))]
    return len(shrunk) > 1 and shrunk[-1] > _BLOW_UP * min(shrunk[:-1])


def _ramp(
    cell: str, seed: int, low: float, high: float, is_over: Callable[[list[float]], bool]
) -> tuple[list[float], list[float]]:
    """Return all rates low (high / low)^(i / 100) of a ramp, and the losses up to where it stopped.

    Our own `run_ramps` stops by a rule of its own, and where a ramp ends is part of what these libraries suggest.
    """
    experiment = build(page_of(cell).model_copy(update={"seed": seed}))
    copy, begin = starting_point(
        experiment.task, experiment.model, experiment.optimizer,
        plan=experiment.plan, clipping=experiment.clipping, watch=experiment.watch,
    )  # fmt: skip
    copy.model.train()
    schedules, losses = constant(copy.optimizer), list[float]()
    lrs = [low * (high / low) ** (i / _ITERATIONS) for i in range(_ITERATIONS)]
    with in_use(experiment.task):
        for i, lr in enumerate(lrs):
            apply_schedules(copy.optimizer, schedules, begin, lr_scale=lr / page_of(cell).optimizer.lr)
            losses.append(train_once(copy, experiment.task, experiment.plan, begin + i))
            if not math.isfinite(losses[-1]) or is_over(losses):
                break
    return lrs, losses
