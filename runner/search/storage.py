"""Where a study is kept: a journal file beside its sweep, or a database that several searches share."""

from __future__ import annotations

import json
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
_BEGINNING = b'{"op_code"'  # of a journal
Storage = str | Mapping[str, Any]


def is_shared(given: Storage | None) -> bool:
    """Whether other searches may use the storage at the same time: all but the journal beside a sweep."""
    return given is not None


def absolute_storage(given: Storage | None) -> Storage | None:
    """Return a storage that is found from anywhere: a path is one from the directory of launch."""
    if not isinstance(given, str):
        return given
    return absolute(given) if "://" in given else os.path.abspath(given.removeprefix("journal:"))


def open_storage(given: Storage | None, directory: Path, *, key: str) -> BaseStorage:
    """Open a storage, and make it where there is none.

    Args:
        given: a url of sqlite, PostgreSQL or MySQL, the path of a journal file, a section with a `_target_`, or None
            for the journal in the directory.
        directory: of the sweep.
        key: dotted key of `given`, for messages.
    Raises:
        ConfigError: it cannot be opened.
    """
    with quiet_optuna():
        try:
            return _opened(given, directory, key)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError([unusable(given, error, key=key, directory=directory)]) from None


def _opened(given: Storage | None, directory: Path, key: str) -> BaseStorage:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend
    from sqlalchemy.pool import NullPool

    if isinstance(given, Mapping):
        from runner.search.parts import make_part

        made: BaseStorage = make_part(key, given)
        return made
    if given is None or "://" not in given:
        path = _journal(given, directory)
        path.parent.mkdir(parents=True, exist_ok=True)
        _refuse_what_is_no_journal(path, key)
        _cut_torn_line(path)
        return JournalStorage(JournalFileBackend(str(path)))
    if given.startswith("sqlite:///"):
        database_path(given).parent.mkdir(parents=True, exist_ok=True)
        return RDBStorage(given, engine_kwargs={"connect_args": {"timeout": 60}})  # seconds to wait for other writers
    # No connection outlives its query: trials take minutes, and a server may drop or count what idles
    return RDBStorage(given, engine_kwargs={"poolclass": NullPool})


def _journal(given: str | None, directory: Path) -> Path:
    return directory / JOURNAL if given is None else Path(given.removeprefix("journal:"))


def unusable(given: Storage | None, error: Exception, *, key: str, directory: Path) -> Problem:
    """Return the problem of a storage that fails."""
    where = f"the study's {JOURNAL}" if given is None else shown(str(given))
    error = error.__cause__ if isinstance(error.__cause__, Exception) else error  # Optuna says less
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError) and not isinstance(given, Mapping):
        return _unreadable(_journal(given, directory), key)
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


def _refuse_what_is_no_journal(path: Path, key: str) -> None:
    """Refuse a file of the user's before anything is written to it."""
    if path.exists() and path.stat().st_size and not _begins_like_one(path):
        raise ConfigError(
            [Problem(key, f"must be a journal of Optuna, got {path}", "Restore it, or name another file")]
        )


def _begins_like_one(path: Path) -> bool:
    with path.open("rb") as file:
        return _BEGINNING.startswith(file.read(len(_BEGINNING)))


def _unreadable(path: Path, key: str) -> Problem:
    """Return the problem of a journal that has a line which is none of Optuna's."""
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            json.loads(line)
        except ValueError:
            rule = f"must be a journal of Optuna, got {path}, whose line {number} cannot be read"
            return Problem(key, rule, "Delete that line, or name another file")
    return Problem(key, f"must be a journal of Optuna, got {path}", "Restore it, or name another file")


def _cut_torn_line(path: Path) -> None:
    """Cut off a last line that a full disk, or a process which was killed, has left half written."""
    from optuna.storages.journal import JournalFileSymlinkLock

    if not _is_torn(path):
        return
    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()  # now nobody is about to write the rest of it
    try:
        if _is_torn(path):
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
    finally:
        lock.release()


def _is_torn(path: Path) -> bool:
    """Whether the last line of a journal has no end."""
    if not path.exists() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
