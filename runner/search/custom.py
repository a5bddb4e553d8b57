"""A search space that a function of the user's makes, define-by-run: it asks a trial for whatever it wants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from runner.errors import ConfigError, Problem, with_place
from runner.signatures import locate

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from optuna import Trial

    from runner.search.opening import Extend


def extend_by(path: str | None, page: DictConfig, fixed: Iterable[str], *, key: str) -> Extend | None:
    """Return what asks a trial for more than the space has, None where nothing does.

    Args:
        path: dotted path of a function (page, trial) -> None, as for hydra-optuna-sweeper.
        page: is handed to it: the page without what varies.
        fixed: overrides of the command line that do not vary: attributes of the trial, and not to be asked for.
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

    parts = (text.lstrip("+").partition("=") for text in fixed if not text.startswith("~"))
    values = {name: value for name, _, value in parts}

    def extend(trial: Trial) -> None:
        for name, value in values.items():
            trial.set_user_attr(name, value)
        try:
            function(page, trial)
        except Exception as error:
            raise ConfigError(
                [Problem(key, f"must ask the trial and return, but raised {with_place(error)}")]
            ) from error
        if twice := sorted(values.keys() & {name.lstrip("+") for name in trial.params}):
            rule = f"must leave what the command line sets, but asked for {', '.join(twice)}"
            raise ConfigError([Problem(key, rule, f"Leave {twice[0]} out of one of them")])

    return extend
