"""What `hydra.sweeper` of a search may say; what hydra-optuna-sweeper has is called as it is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from runner.config_search import Searching
from runner.config_types import Count
from runner.errors import ConfigError

SECTION = "hydra.sweeper"


class SearchOptions(Searching):
    """How a multirun searches.

    Attributes:
        n_jobs: trials asked for at once; None is as many as the launcher runs at once.
        sampler, pruner: sections with a `_target_`.
    """

    n_jobs: Count | None
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
