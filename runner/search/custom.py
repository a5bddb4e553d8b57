"""A search space that a function of the user's makes, define-by-run: it asks a trial for whatever it wants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.errors import ConfigError, Problem, with_place
from runner.signatures import locate

if TYPE_CHECKING:
    from optuna import Trial

    from runner.search.opening import Extend


def extend_by(path: str | None, page: Any, *, key: str) -> Extend | None:
    """Return what asks a trial for more than the space has, None where nothing does.

    Args:
        path: dotted path of a function (page, trial) -> None, as for hydra-optuna-sweeper.
        page: is handed to it: the page without what varies.
        key: dotted key of `path`, for messages.
    Raises:
        ConfigError: there is no such function.
    """
    if path is None:
        return None
    try:
        function = locate(path)
    except (LookupError, TypeError) as error:
        rule = f"must be the dotted path of a function (page, trial), but {error.args[0]}, got {path!r}"
        raise ConfigError([Problem(key, rule, "Give one that can be imported from here")]) from None
    if not callable(function):
        raise ConfigError([Problem(key, f"must be a function (page, trial), got {path!r}", "Give one")])

    def extend(trial: Trial) -> None:
        try:
            function(page, trial)
        except Exception as error:
            raise ConfigError(
                [Problem(key, f"must ask the trial and return, but raised {with_place(error)}")]
            ) from error

    return extend
