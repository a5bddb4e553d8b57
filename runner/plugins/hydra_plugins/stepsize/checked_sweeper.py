"""The sweeper that Hydra finds: `hydra/sweeper=checked`, the default. What it does is in `runner.sweeps.run`.

No `from __future__ import annotations`: Hydra executes this module before it is in sys.modules, where a dataclass
would look for what its annotations mean.
"""

import secrets
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


@dataclass
class CheckedSweeperConf(BasicSweeperConf):
    """`params` and `max_batch_size` as in Hydra's basic sweeper."""

    _target_: str = "hydra_plugins.stepsize.checked_sweeper.CheckedSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="checked", node=CheckedSweeperConf, provider="stepsize")
OmegaConf.register_new_resolver("random_id", lambda: secrets.token_hex(2), use_cache=True, replace=True)


class CheckedSweeper(BasicSweeper):
    """Runs a grid: all jobs are checked before the first one starts, and one that fails stops no other."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what a launcher needs; it is made once the number of jobs is known."""
        self.hydra_context = hydra_context
        self.config = config

    def sweep(self, arguments: list[str]) -> Any:
        """Run the grid of these overrides.

        Raises:
            ConfigError: a job is refused; nothing has started and nothing is written.
            SweepError: no job finished, or a signal ended it.
        """
        from runner.errors import RunnerError, SweepError, in_words
        from runner.sweeps.run import run_sweep  # not for --help

        assert self.hydra_context is not None
        assert self.config is not None
        try:
            run_sweep(
                [*self._parse_config(), *arguments],
                context=self.hydra_context,
                config=self.config,
                most=self.max_batch_size,
            )
        except RunnerError:
            raise
        except Exception as error:  # else it would pass for a page that does not compose, and all would run again
            raise SweepError(in_words(error), exit_code=1) from error
