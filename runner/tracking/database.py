"""One process at a time in the database of MLflow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from runner.tracking.address import database_path

_ADVISORY_LOCK = 7_310_585


@contextlib.contextmanager
def alone_in_database(uri: str) -> Iterator[None]:
    """Keep others out while a database may get its tables or an experiment; MLflow does that unsafely.

    A PostgreSQL server that does not answer fails here at once, where MLflow would try for minutes.
    """
    if uri.startswith("sqlite"):
        from filelock import FileLock

        database = database_path(uri)
        database.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{database}.lock"):
            yield
    elif uri.startswith("postgresql"):
        import sqlalchemy

        engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({_ADVISORY_LOCK})"))
            yield
    else:
        yield
