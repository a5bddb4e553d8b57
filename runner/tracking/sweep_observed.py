"""A sweep in the words of a learning-rate report: what its runs came to, and what they had in common."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from runner.finding.observed import Observed
from runner.records import read_non_finite, spell_non_finite
from runner.sweep_summary import PURPOSE_TAG, SEED
from runner.tracking.directory import KNOWN_RUNS, read_config, write_whole
from runner.tracking.jsonl import find_result, first_loss
from runner.tracking.sweep_file import Job, JobState, Sweep

LR_KEYS = ("optimizer.lr", "optimizer.d_coef")
_LENGTH = ("train.duration",)
_SAYS = ("tags.", "name", "quiet", "tracking", "notify.")  # keys that do not change what is trained
_CHOSEN = ("task", "optimizer", "warmup", "schedule")
_WRITTEN = ("train.duration", "train.batch_size", "train.accumulate", "train.precision", "train.clip_norm")


def write_known(directory: Path, observed: Sequence[Observed]) -> None:
    """Write earlier runs that were given to a search into its directory."""
    data = [spell_non_finite(one._asdict()) for one in observed]
    write_whole(directory / KNOWN_RUNS, json.dumps(data, indent=1, allow_nan=False) + "\n")


def find_known_runs(directory: Path) -> list[Observed] | None:
    """Return the earlier runs that were given to the search in a directory, None where none were."""
    try:
        data = json.loads((directory / KNOWN_RUNS).read_text(encoding="utf-8"))
        return [Observed(**{key: read_non_finite(value) for key, value in one.items()}) for one in data]
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def group_of(varied: Mapping[str, str], key: str, *, is_of_search: bool = False) -> str:
    """Return what else varies, as pasted on a command line.

    Args:
        varied: override key -> value.
        key: of the learning rate.
        is_of_search: whether runs of several lengths are of one curve.
    """
    aside = (key, SEED, *(_LENGTH if is_of_search else ()))
    plain = {name.lstrip("+"): value for name, value in varied.items()}
    others = {name: value for name, value in plain.items() if name not in aside and not name.startswith(_SAYS)}
    return shlex.join(f"{name}={value}" for name, value in others.items())


def lr_key(sweep: Sweep, known: Sequence[Observed] = ()) -> str | None:
    """Return the key of the learning rate that varies between runs, None where fewer than two were tried.

    Args:
        sweep: its jobs.
        known: runs that it did not make.
    """
    for key in LR_KEYS:
        if sweep.varies(key) and len({*(_rate(job, key) for job in sweep.jobs), *(one.lr for one in known)}) > 1:
            return key
    return None


def observe(sweep: Sweep, states: Sequence[JobState], root: Path, *, key: str = LR_KEYS[0]) -> list[Observed]:
    """Return what the jobs of a sweep came to.

    Args:
        sweep: its jobs.
        states: of the jobs, in order.
        root: the directory of launch, below which the runs lie.
        key: of the learning rate.
    """
    return [observe_job(job, state, root, key=key) for job, state in zip(sweep.jobs, states, strict=True)]


def observe_job(job: Job, state: JobState, root: Path, *, key: str = LR_KEYS[0]) -> Observed:
    """Return what one job came to; see `observe`."""
    run = root / state.run if state.run is not None else None
    result = find_result(run) if run is not None else None
    tags = result.tags if result is not None else {}
    purpose = job.varied.get(PURPOSE_TAG, tags.get(PURPOSE_TAG.removeprefix("tags."), ""))
    return Observed(
        lr=_rate(job, key),
        seed=job.seed,
        loss=state.final_loss,
        status=state.status,
        group=group_of(job.varied, key, is_of_search=bool(purpose)),
        first_loss=first_loss(run) if run is not None else math.nan,
        steps=state.steps,
        planned_steps=state.planned_steps,
        run=state.run or "",
        purpose=purpose,
        best_loss=state.best_val_loss,
        train_loss=state.loss,
    )


class Stand(NamedTuple):
    """What stands for the jobs of a search that has made none, as others have made all trials of its study.

    Attributes:
        job: what the trials have in common; `varied` has the keys in which they differ.
        key: of the learning rate.
        loss: what the losses are losses of.
        choices, tree: as a run has them.
    """

    job: Job
    key: str
    loss: str
    choices: Mapping[str, str]
    tree: Mapping[str, Any]

    def fixed(self) -> dict[str, str]:
        """Return what `in_common` does of a sweep with jobs."""
        found = _fixed(self.choices, self.tree)
        return {key: value for key, value in found.items() if key not in self.job.varied}


def in_common(sweep: Sweep, states: Sequence[JobState], root: Path) -> dict[str, str]:
    """Return what did not vary and the best learning rate depends on: dotted key or group -> value."""
    runs = [root / state.run for state in states if state.run is not None]
    result = next((found for run in runs if (found := find_result(run)) is not None), None)
    if result is None:
        return {}
    tree = next((page for run in runs if (page := _config(run))), {})
    return {key: value for key, value in _fixed(result.choices, tree).items() if not sweep.varies(key)}


def _fixed(choices: Mapping[str, str], tree: Mapping[str, Any]) -> dict[str, str]:
    values = {name: choices.get(name) for name in _CHOSEN} | {key: _at(tree, key) for key in _WRITTEN}
    return {key: str(value) for key, value in values.items() if value is not None}


def loss_name(states: Sequence[JobState]) -> str:
    """Return what the final losses of the jobs are losses of."""
    is_val = {state.is_val for state in states if not math.isnan(state.final_loss)}
    if len(is_val) != 1:
        return "loss"
    return "val loss" if True in is_val else "train loss"


def _rate(job: Job, key: str) -> float:
    if key == LR_KEYS[0] or key not in job.varied:
        return job.lr
    try:
        return float(job.varied[key])
    except ValueError:
        return job.lr


def _config(run: Path) -> dict[str, Any]:
    import yaml

    try:
        found = read_config(run)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _at(tree: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key, None where there is none."""
    found: Any = tree
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
