"""Overrides as Hydra reads them, all that cannot be read told at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from runner.errors import Problem


class Given(NamedTuple):
    """An override.

    Attributes:
        text: of the command line.
        key: what adds or deletes left out.
        value: as given.
        override: the same for Hydra.
    """

    text: str
    key: str
    value: str
    override: Override


def read_overrides(
    texts: Iterable[str], wrong: Callable[[str, str], Problem], *, config_loader: ConfigLoader | None = None
) -> tuple[list[Given], list[Problem]]:
    """Return the overrides that can be read, and a problem for each that cannot.

    Args:
        texts: of the command line.
        wrong: key, value -> the problem of one that cannot be read.
        config_loader: Hydra's, for what it says of config groups.
    """
    parser = OverridesParser.create(config_loader=config_loader)
    found, problems = list[Given](), list[Problem]()
    for text in texts:
        key, _, value = text.lstrip("+~").partition("=")
        try:
            found.append(Given(text, key, value, parser.parse_override(text)))
        except HydraException:
            problems.append(wrong(key, value))
    return found, problems
