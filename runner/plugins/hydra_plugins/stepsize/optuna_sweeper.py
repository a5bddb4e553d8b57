"""The sweeper `hydra/sweeper=optuna`. What it does is in `runner.sweeps.search`, its keys in `runner.search.options`.

No `from __future__ import annotations`: Hydra executes this module before it is in sys.modules, where a dataclass
would look for what its annotations mean.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import MISSING, DictConfig, OmegaConf

from runner.nodes import option_names


@dataclass
class OptunaSweeperConf:
    """The names are those of hydra-optuna-sweeper where it had them; types and ranges are checked by the runner."""

    defaults: list[Any] = field(default_factory=lambda: [{"sampler": "tpe"}, {"pruner": "none"}])
    _target_: str = "hydra_plugins.stepsize.optuna_sweeper.OptunaSweeper"
    _recursive_: bool = False  # sampler and pruner are made once they are checked
    sampler: Any = MISSING
    pruner: Any = MISSING
    params: Any = None
    n_trials: Any = 20
    n_jobs: Any = None
    metric: Any = None
    direction: Any = None
    study_name: Any = None
    storage: Any = None
    custom_search_space: Any = None
    max_failure_rate: Any = 0.5
    known: Any = None
    prune_after: Any = 25


_STORE = ConfigStore.instance()
_STORE.store(group="hydra/sweeper", name="optuna", node=OptunaSweeperConf, provider="stepsize")
for _group in ("sampler", "pruner"):
    for _name in set(option_names(_group)) - {"lr"}:  # the search of mode=search that is not Optuna's
        _STORE.store(
            group=f"hydra/sweeper/{_group}",
            name=_name,
            node={"defaults": [{f"/{_group}@_here_": _name}]},
            provider="stepsize",
        )


class OptunaSweeper(Sweeper):
    """Asks an Optuna study for points in rounds; a trial that fails or diverges stops no other."""

    def __init__(self, params: Any, **options: Any) -> None:
        self.params = params or {}
        self.options = {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for key, value in options.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what a launcher needs; it is made once the number of jobs is known."""
        self.hydra_context = hydra_context
        self.config = config

    def sweep(self, arguments: list[str]) -> Any:
        """Search with these overrides.

        Raises:
            ConfigError: something is refused; nothing has started and nothing is written.
            SweepError: no trial finished, too many failed, or a signal ended it.
        """
        from runner.errors import ConfigError, Problem, RunnerError, SweepError, in_words
        from runner.search.options import read_options
        from runner.sweeps.search import run_search  # not for --help
        from runner.tracking.mapping import dotted  # on the command line `params.optimizer.lr` makes sections

        assert self.hydra_context is not None
        assert self.config is not None
        if not isinstance(self.params, Mapping):
            fix = "Set 'hydra.sweeper.params={optimizer.lr:\"interval(1e-5,1)\"}'"
            rule = f"must be a section of dotted keys, got {self.params!r}"
            raise ConfigError([Problem("hydra.sweeper.params", rule, fix)])
        of_page = [f"{key}={_written(value)}" for key, value in dotted(self.params)]
        try:
            options = read_options(self.options)
            run_search([*of_page, *arguments], context=self.hydra_context, config=self.config, options=options)
        except RunnerError:
            raise
        except Exception as error:  # else it would pass for a page that does not compose, and all would run again
            raise SweepError(in_words(error), exit_code=1) from error


def _written(value: Any) -> str:
    return ",".join(map(str, value)) if OmegaConf.is_list(value) or isinstance(value, list) else str(value)
