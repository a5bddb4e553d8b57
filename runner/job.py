"""One job: a composed configuration is checked and its mode called."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from runner.compose import page_of, to_tree, without_effect
from runner.config import Config, Invocation
from runner.continue_run import with_saved
from runner.errors import Problem
from runner.records import RunResult
from runner.tracking.sweep_file import find_sweep
from runner.train.interrupt import raise_early

if TYPE_CHECKING:
    from runner.trials.recorded_run import Prune


def run(composed: DictConfig, *, prune: Prune | None = None) -> RunResult | None:
    """Check one composed configuration and call its mode.

    Args:
        composed: the page.
        prune: says at every evaluation of a run whether it is given up.
    """
    hydra_config = HydraConfig.get()
    overrides = tuple(text.lstrip("+") for text in hydra_config.overrides.task)
    page = page_of(sys.argv[1:])
    tree, choices = with_saved(to_tree(composed), overrides, hydra_config.runtime.choices, page=page)
    config = checked(tree)
    tree = config.model_dump(mode="json", by_alias=True)
    mode = hydra.utils.get_method(config.mode.target)
    invocation = Invocation(overrides, choices, tree, Path.cwd(), _sweep_id(hydra_config), page)
    if gc.get_freeze_count() == 0:  # once: what is frozen is never freed
        gc.freeze()
    gc.set_threshold(700, 10, 10)  # Python's own: a training may keep tensors in cycles
    raise_early()
    more = {} if prune is None else {"prune": prune}
    result: RunResult | None = mode(config, invocation, **config.mode.arguments, **more)
    return result


def checked(tree: dict[str, Any], problems: tuple[Problem, ...] = ()) -> Config:
    """Return the checked configuration, or raise ConfigError with everything wrong in it."""
    from runner.check import check
    from runner.variants import find_facts, wrong_schedules

    arguments = sys.argv[1:]
    found = (*problems, *without_effect(tree, arguments), *wrong_schedules(tree, arguments))
    return check(tree, find_facts=find_facts, problems=found)


def _sweep_id(hydra_config: Any) -> str | None:
    """Return the id that the runs of a multirun share."""
    if hydra_config.mode is not RunMode.MULTIRUN:
        return None
    sweep = find_sweep(Path(hydra_config.sweep.dir))
    return sweep.id if sweep is not None else Path(hydra_config.sweep.dir).name
