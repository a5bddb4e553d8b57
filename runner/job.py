"""One job: a composed configuration is checked and its mode called. Importable: workers of a sweep call it too."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from runner.compose import page_of, to_tree, with_saved
from runner.config import Config, Invocation
from runner.errors import Problem, in_words
from runner.records import RunResult
from runner.sweeps.signals import interruptible
from runner.tracking.lock import is_locked
from runner.tracking.sweep_file import STOP, find_sweep


@dataclass(frozen=True)
class Ended:
    """What a job of a sweep came to, as it travels between processes.

    Attributes:
        result: what its mode returned.
        error: why it failed, as a person reads it; "" when it did not.
    """

    result: RunResult | None = None
    error: str = ""


def run(composed: DictConfig) -> RunResult | None:
    """Check one composed configuration and call its mode."""
    hydra_config = HydraConfig.get()
    overrides = tuple(text.lstrip("+") for text in hydra_config.overrides.task)
    tree, choices = with_saved(to_tree(composed), overrides, hydra_config.runtime.choices)
    config = checked(tree)
    tree = config.model_dump(mode="json", by_alias=True)
    mode = hydra.utils.get_method(config.mode.target)
    invocation = Invocation(overrides, choices, tree, Path.cwd(), _sweep_id(hydra_config), page_of(sys.argv[1:]))
    result: RunResult | None = mode(config, invocation, **config.mode.arguments)
    return result


def run_in_sweep(composed: DictConfig) -> Ended:
    """Run one job of a sweep, maybe in a process of its own; print nothing but warnings, raise nothing.

    After SIGINT or SIGTERM it ends as soon as its run is saved, and no further job of the sweep starts.
    """
    directory = Path(HydraConfig.get().sweep.dir)
    stop = directory / STOP
    is_orphan = find_sweep(directory) is not None and not is_locked(directory)  # the parent was killed
    if stop.exists() or is_orphan:
        return Ended()  # the disk says that it has not begun
    try:
        with interruptible(stop), contextlib.redirect_stdout(io.StringIO()):
            result = run(composed)
            if result is not None and result.signal is not None:
                stop.write_text(str(result.signal), encoding="utf-8")
            return Ended(result)
    except KeyboardInterrupt:
        if not stop.exists():
            stop.write_text(str(int(SIGINT)), encoding="utf-8")
        return Ended()
    except Exception as error:
        return Ended(error=in_words(error))


def checked(tree: dict[str, Any], problems: tuple[Problem, ...] = ()) -> Config:
    """Return the checked configuration, or raise ConfigError with everything wrong in it."""
    from runner.check import check

    def find_facts(*arguments: Any) -> Any:
        from runner.build import find_facts  # imports torch

        return find_facts(*arguments)

    return check(tree, find_facts=find_facts, problems=problems)


def _sweep_id(hydra_config: Any) -> str | None:
    """Return the id that the runs of a multirun share."""
    if hydra_config.mode is not RunMode.MULTIRUN:
        return None
    sweep = find_sweep(Path(hydra_config.sweep.dir))
    return sweep.id if sweep is not None else Path(hydra_config.sweep.dir).name
