"""What a search is, and its study opened: made where there is none, and refused where it is about something else."""

from __future__ import annotations

import os
import shlex
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.commands import PROGRAM
from runner.config_search import Direction
from runner.errors import ConfigError, Problem, SweepError
from runner.search.fingerprint import differences
from runner.search.space import Space
from runner.search.storage import Storage, is_shared, open_storage, quiet_optuna, unusable
from runner.tracking.lock import is_locked

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy
    from optuna import Trial

FINGERPRINT = "fingerprint"
_SEARCH = "search "
Extend = Callable[["Trial"], None]


@dataclass(frozen=True)
class Plan:
    """What is searched, and how.

    Attributes:
        space: dotted key -> what it may be.
        extend: asks a trial for further values; None where the space is all.
        fingerprint: what the study is about (`runner.search.fingerprint`).
        metrics: what a trial is judged by, such as "val/loss".
        directions: minimize or maximize, one for every metric.
        sampler: section with its `_target_`.
        storage: where the study is kept; None for a journal beside the sweep.
        name: of the study.
        section: dotted key of the section that says all this, for messages.
    """

    space: Space
    extend: Extend | None
    fingerprint: Mapping[str, Any]
    metrics: Sequence[str]
    directions: Sequence[Direction]
    sampler: Mapping[str, Any]
    storage: Storage | None
    name: str
    section: str

    def about(self, place: str) -> dict[str, Any]:
        """Return what `write_judge` takes of its study, without a pruner."""
        return {"storage": self.storage, "name": self.name, "place": place, "metric": self.metrics[0]}

    def named(self, name: str) -> Plan:
        """Return it with another name of the study."""
        return replace(self, name=name)

    @property
    def loss(self) -> str:
        """What a trial is judged by, in words."""
        return self.metrics[0].replace("/", " ")

    @property
    def sampler_key(self) -> str:
        """Dotted key of the sampler, for messages: beside the section search, or inside that of Hydra's sweeper."""
        return f"{self.section}.sampler" if "." in self.section else "sampler"

    @property
    def pruner_key(self) -> str:
        """Dotted key of the pruner, for messages."""
        return f"{self.section}.pruner" if "." in self.section else "pruner"

    @property
    def storage_key(self) -> str:
        """Dotted key of the storage, for messages."""
        return f"{self.section}.storage"


def open_study(plan: Plan, directory: Path) -> OptunaStudy:
    """Open the study of a plan, without its sampler.

    Args:
        directory: of the sweep.
    Raises:
        ConfigError: the storage cannot be opened, or has a study of this name that is about something else.
    """
    import optuna

    storage = open_storage(plan.storage, directory, key=plan.storage_key)
    try:
        study = optuna.create_study(
            storage=storage, study_name=plan.name, directions=list(plan.directions), load_if_exists=True
        )
        there = study.user_attrs.get(FINGERPRINT)
        if there is None and not study.get_trials(deepcopy=False):
            study.set_user_attr(FINGERPRINT, dict(plan.fingerprint))
            return study
    except Exception as error:  # whatever a storage raises
        raise ConfigError([unusable(plan.storage, error, key=plan.storage_key, directory=directory)]) from None
    key = f"{plan.section}.study_name"
    if there is None:
        rule = f"must be a study of this program, got {plan.name!r}, whose trials another one has made"
        raise ConfigError([Problem(key, rule, "Choose another name")])
    if found := differences(there, plan.fingerprint):
        rule = f"must be a study of the same task and space, got {plan.name!r}: {'; '.join(found)}"
        raise ConfigError([Problem(key, rule, "Choose another name, or take the change back")])
    return study


def check_study(plan: Plan) -> None:
    """Refuse a study that others have made of something else, before anything of the sweep is written.

    Raises:
        ConfigError: so it is, or the storage cannot be opened.
    """
    if is_shared(plan.storage):
        with quiet_optuna():
            open_study(plan, Path())


def enter(study: OptunaStudy, place: str) -> int:
    """Sign a study as a search that shares it; return how many had signed before, so that no two draw alike.

    Args:
        study: opened.
        place: of the search; one that goes on keeps its number.
    """
    if f"{_SEARCH}{place}" not in study.user_attrs:
        study.set_user_attr(f"{_SEARCH}{place}", time.time_ns())
    signed = {name: when for name, when in study.user_attrs.items() if name.startswith(_SEARCH)}
    return sorted(signed, key=lambda name: (signed[name], name)).index(f"{_SEARCH}{place}")


def is_gone(place: str) -> bool:
    """Whether the sweep of a place has no process any more, as far as this machine can tell."""
    host, _, directory = place.partition(":")
    return host == socket.gethostname() and not (os.path.isdir(directory) and is_locked(Path(directory)))


@contextmanager
def answering(plan: Plan, directory: Path) -> Iterator[None]:
    """Turn the failure of a storage into words; the runs are on disk, and are told when the search goes on.

    Args:
        plan: of the study.
        directory: of the sweep.
    """
    try:
        yield
    except (ConfigError, SweepError):
        raise
    except Exception as error:
        problem = unusable(plan.storage, error, key=plan.storage_key, directory=directory)
        go_on = shlex.join([*PROGRAM, f"resume.sweep={os.path.relpath(directory)}"])
        raise SweepError(f"{problem} The runs are kept, go on with: {go_on}", exit_code=1) from error
