"""How a sweep or a search over learning rates is made again with other ones."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from runner.commands import changed
from runner.compose import value_of
from runner.curves import number
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
    if any(sweep.varies(name) for job in sweep.jobs for name in job.varied.keys() - {key, SEED, PURPOSE_TAG, _LENGTH}):
        return f"{sweep.mode}.space"
    if any(key_of(text).startswith(f"{sweep.mode}.space") for text in sweep.overrides):
        return f"{sweep.mode}.space"
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
    if not asked.endswith(".space"):
        section = "sweep" if asked == "sweep" else "search"
        return changed(command, [f"{section}.low={low}", f"{section}.high={high}"])
    given = next((value_of(text) for text in sweep.overrides if key_of(text) == asked), None)
    if not isinstance(given, Mapping) or key not in given:
        return ""
    texts = {**given, key: f"interval({low},{high})" if asked == "search.space" else listed}
    inside = ",".join(f'{name}:"{value}"' for name, value in texts.items())
    return changed(command, [f"{asked}={{{inside}}}"])
