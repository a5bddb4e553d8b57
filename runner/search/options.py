"""What `hydra.sweeper` of a search may say; what hydra-optuna-sweeper has is called as it is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from annotated_types import Ge, Le
from pydantic import BeforeValidator, ValidationError

from runner.config_types import Count, Finite, Section
from runner.errors import ConfigError
from runner.search.opening import Direction

SECTION = "hydra.sweeper"


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else [value] if value is not None else []


Share = Annotated[float, Ge(0), Le(1), Finite]
Percent = Annotated[float, Ge(0), Le(100), Finite]
Listed = Annotated[list[str], BeforeValidator(_as_list)]


class SearchOptions(Section):
    """How a multirun searches.

    Attributes:
        n_trials: trials wanted in the study, over all launches; failed ones and known points do not count.
        n_jobs: trials asked for at once; None is as many as the launcher runs at once.
        metric: what a trial is judged by, such as loss or val/accuracy; several for a Pareto front.
        direction: minimize or maximize, one a metric; [] is as the task says.
        study_name: None is the name of the sweep.
        storage: None is a journal file in the directory of the sweep; else a url, a path, or a section.
        custom_search_space: dotted path of a function (page, trial) -> None that asks the trial for more.
        max_failure_rate: share of failed trials at which the search gives up; those that diverged have not failed.
        known: earlier runs, sweeps, or mlflow.
        prune_after: percent of a run before which no trial is pruned.
        sampler, pruner: sections with a `_target_`.
    """

    n_trials: Count
    n_jobs: Count | None
    metric: Listed
    direction: Annotated[list[Direction], BeforeValidator(_as_list)]
    study_name: str | None
    storage: str | dict[str, Any] | None
    custom_search_space: str | None
    max_failure_rate: Share
    known: Listed
    prune_after: Percent
    sampler: dict[str, Any]
    pruner: dict[str, Any]


def read_options(given: Mapping[str, Any]) -> SearchOptions:
    """Return the options, checked.

    Raises:
        ConfigError: with everything wrong in them.
    """
    from runner.checks.nodes import add_invalid
    from runner.wording import Findings

    try:
        return SearchOptions.model_validate(dict(given))
    except ValidationError as error:
        found = Findings()
        for item in error.errors():
            add_invalid(found, item, (SECTION, *item["loc"]), SearchOptions, dict(given))
        raise ConfigError(found.problems) from None
