"""Where a study is kept: a journal file beside its sweep, or a database that several searches share."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import ConfigError, Problem
from runner.tracking.address import absolute, database_path, shown

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

JOURNAL = "study.journal"
Storage = str | Mapping[str, Any]


def is_shared(given: Storage | None) -> bool:
    """Whether other searches may use the storage at the same time: all but the journal beside a sweep."""
    return given is not None


def absolute_storage(given: Storage | None) -> Storage | None:
    """Return a storage that is found from anywhere: a path is one from the directory of launch."""
    if not isinstance(given, str):
        return given
    return absolute(given) if "://" in given else os.path.abspath(given.removeprefix("journal:"))


def open_storage(given: Storage | None, directory: Path, *, key: str, is_owner: bool = True) -> BaseStorage:
    """Open a storage, and make it where there is none.

    Args:
        given: a url of sqlite, PostgreSQL or MySQL, the path of a journal file, a section with a `_target_`, or None
            for the journal in the directory.
        directory: of the sweep.
        key: dotted key of `given`, for messages.
        is_owner: whether this process runs the sweep, and so may mend its journal.
    Raises:
        ConfigError: it cannot be opened.
    """
    with quiet_optuna():
        try:
            return _opened(given, directory, key, is_owner=is_owner)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError([unusable(given, error, key=key)]) from None


def _opened(given: Storage | None, directory: Path, key: str, *, is_owner: bool) -> BaseStorage:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend
    from sqlalchemy.pool import NullPool

    if isinstance(given, Mapping):
        from runner.search.parts import make_part

        made: BaseStorage = make_part(key, given)
        return made
    if given is None or "://" not in given:
        path = directory / JOURNAL if given is None else Path(given.removeprefix("journal:"))
        path.parent.mkdir(parents=True, exist_ok=True)
        if given is None and is_owner:
            _cut_torn_line(path)
        return JournalStorage(JournalFileBackend(str(path)))
    if given.startswith("sqlite:///"):
        database_path(given).parent.mkdir(parents=True, exist_ok=True)
        return RDBStorage(given, engine_kwargs={"connect_args": {"timeout": 60}})  # seconds to wait for other writers
    # No connection outlives its query: trials take minutes, and a server may drop or count what idles
    return RDBStorage(given, engine_kwargs={"poolclass": NullPool})


def unusable(given: Storage | None, error: Exception, *, key: str) -> Problem:
    """Return the problem of a storage that fails."""
    where = f"the study's {JOURNAL}" if given is None else shown(str(given))
    error = error.__cause__ if isinstance(error.__cause__, Exception) else error  # Optuna says less
    found = re.search(r"(FATAL: [^(\n]*|[Cc]onnection refused|timed out|unable to open database file)", str(error))
    why = found[1].strip() if found else f"{type(error).__name__}: {error}".splitlines()[0][:200]
    why = str(error.strerror) if isinstance(error, OSError) and error.strerror else shown(why)
    fix = "Mend it, or start a new search" if given is None else "Give sqlite:///study.db, or mend it"
    return Problem(key, f"must be a storage that answers, got {where} ({why})", fix)


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keep Optuna's log and its notices about new features from the terminal."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="(sqlalchemy|alembic)")
            warnings.filterwarnings(
                "ignore", message="Constraints have been set, but"
            )  # a bad value stands beside them
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _cut_torn_line(path: Path) -> None:
    """Cut off a last line that a process which was killed has left half written; nobody else writes meanwhile."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 2**20))
        tail = file.read()
        if tail and not tail.endswith(b"\n"):
            file.truncate(size - len(tail) + tail.rfind(b"\n") + 1)
