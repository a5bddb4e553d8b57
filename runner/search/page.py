"""What a page says of the task, for comparing it with that of another run or study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.continue_run import ASIDE
from runner.sweep_summary import SEED
from runner.tracking.mapping import flat

_NOT_OF_THE_TASK = ASIDE | {"name", "tags", "search", "sampler", "pruner", "sweep"}
_NOT_OF_THE_TASK_KEYS = ("train.max_seconds", "train.threads", "train.device", "train.checkpoint_every")


def page_of_task(tree: Mapping[str, Any]) -> dict[str, str]:
    """Return a page as dotted keys and short texts, without what says nothing of what is trained.

    Args:
        tree: a checked configuration, or one that was saved.
    """
    found = flat({key: value for key, value in tree.items() if key not in _NOT_OF_THE_TASK})
    return without_aside(found)


def without_aside(params: Mapping[str, str]) -> dict[str, str]:
    """Return dotted keys and texts, as MLflow has them, without those that say nothing of what is trained."""
    aside = _NOT_OF_THE_TASK | {"lr"}  # what a run has made of its learning rate
    kept = {key: value for key, value in params.items() if key.partition(".")[0] not in aside}
    return {key: value for key, value in kept.items() if key not in _NOT_OF_THE_TASK_KEYS}


def differing(params: Mapping[str, str], page: Mapping[str, str]) -> list[str]:
    """Return the dotted keys in which the page of a run differs from one of today; the seed may.

    Args:
        params: of the run, dotted keys and short texts.
        page: as `page_of_task` returns it.
    """
    theirs = without_aside(params)
    return [key for key, text in sorted(theirs.items()) if key != SEED and page.get(key) != text]
