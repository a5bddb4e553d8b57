"""How a sweep or a search over learning rates is made again with other ones."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from runner.commands import changed
from runner.compose import value_of
from runner.curves import number
from runner.search.space import space_of
from runner.sweep_summary import PURPOSE_TAG, SEED
from runner.tracking.sweep_file import Sweep, key_of

_LENGTH = "train.duration"
_NAMES = ("hydra.sweep.dir", "search.study_name", "hydra.sweeper.study_name")  # of what is there already


def asked_of(sweep: Sweep, key: str) -> str:
    """Return what made the runs of a sweep, as `runner.finding.report.LRReport.asked` has it.

    Args:
        sweep: its jobs.
        key: of the learning rate.
    """
    if sweep.mode not in ("sweep", "search"):
        return "multirun"
    space = f"{sweep.mode}.space"
    more = {name for job in sweep.jobs for name in job.varied} - {key, SEED, PURPOSE_TAG, _LENGTH}
    if any(map(sweep.varies, more)) or any(key_of(text).startswith(space) for text in sweep.overrides):
        is_list = "interval(" not in str(_given(sweep, space).get(key, "interval("))
        return "search.choice" if is_list and sweep.mode == "search" else space
    return "study" if sweep.mode == "search" and not sweep.varies(PURPOSE_TAG) else sweep.mode


def retry(sweep: Sweep, key: str, lrs: Sequence[float]) -> str:
    """Return the command line that makes a new sweep with other learning rates, "" where it is not known.

    Args:
        sweep: what was made.
        key: of the learning rate.
        lrs: what is to be tried, rising.
    """
    command = shlex.join(word for word in shlex.split(sweep.command) if key_of(word) not in _NAMES)
    low, high, listed = number(lrs[0]), number(lrs[-1]), ",".join(map(number, lrs))
    if (asked := asked_of(sweep, key)) == "multirun":
        typed = next((text for text in sweep.overrides if key_of(text) == key), "")
        return changed(command, [f"{key}={f'interval({low},{high})' if 'interval(' in typed else listed}"])
    if "." not in asked:
        section = "sweep" if asked == "sweep" else "search"
        return changed(command, [f"{section}.low={low}", f"{section}.high={high}"])
    space = f"{sweep.mode}.space"
    if key not in (given := _given(sweep, space)):
        return ""
    texts = {**given, key: f"interval({low},{high})" if asked == "search.space" else listed}
    return changed(command, [f"{space}={{{','.join(map(_in_quotes, space_of(texts)))}}}"])


def _given(sweep: Sweep, space: str) -> Mapping[str, Any]:
    """Return what the command line says of a space, nothing where it does not."""
    given = [value_of(text) for text in sweep.overrides if key_of(text) == space]
    return given[-1] if given and isinstance(given[-1], Mapping) else {}


def _in_quotes(override: str) -> str:
    """Return an override as an entry of a dictionary of Hydra's."""
    name, _, text = override.partition("=")
    return name + ':"' + text.replace('"', '\\"') + '"'
