"""Which sampler searches a space where none is named."""

from __future__ import annotations

import sys

from runner.compose import compose_leniently, overrides_of, page_of
from runner.config_search import FULL_RUNS
from runner.errors import ConfigError
from runner.tracking.sweep_file import key_of

_SPACES = ("space", "custom_search_space")
_SAMPLER = "sampler=tpe"


def with_sampler(arguments: list[str]) -> list[str]:
    """Return a command line whose sampler is TPE where mode=search has a space and no sampler was named.

    The default searches a learning rate only. That another one does is part of the command line from here on, and so
    of all that is printed, written, and gone on with. Said on standard error.
    """
    keys = [key_of(text) for text in overrides_of(arguments)]
    may_be = page_of(arguments) or ("mode" in keys and any(key.partition(".")[0] == "search" for key in keys))
    if "sampler" in keys or not may_be:
        return arguments
    try:
        tree, _, _ = compose_leniently(arguments)
    except ConfigError:  # which is said where the page is checked
        return arguments
    mode, sampler, search = (tree.get(name) or {} for name in ("mode", "sampler", "search"))
    given = next((name for name in _SPACES if search.get(name)), None)
    if given is None or not mode.get("searches") or sampler.get("_target_") != FULL_RUNS:
        return arguments
    reason = "sampler=lr searches the learning rate alone, between search.low and search.high"
    print(f"search.{given}: searched with {_SAMPLER}, as {reason}", file=sys.stderr)
    return [*arguments, _SAMPLER]
