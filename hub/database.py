"""Beside the line: the relational side (people, sessions, workshops, kits): opens it, migrates it, hands out units of
work. Queries are in the `repository.py` of each capability; telemetry is in the store, not here.

Types and constraints are those that PostgreSQL has too; what only SQLite needs is in `_prepare_sqlite`.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, MetaData, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Session

from hub.errors import DatabaseUnusable
from hub.migrations import upgrade

BUSY_TIMEOUT_MS = 10_000
"""How long a writer waits for another one (the command line beside a running hub)."""
NAMES = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
"""Constraints bear names so that later migrations can speak of them."""


class Table(DeclarativeBase):
    """Base of every table of the relational side."""

    metadata = MetaData(naming_convention=NAMES)


class Database:
    """One relational database. Its methods block: call them from a worker thread."""

    def __init__(self, url: URL) -> None:
        self.engine: Engine = create_engine(url)
        if self.engine.dialect.name == "sqlite":
            _prepare_sqlite(self.engine)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A unit of work that may write: committed whole at the end, rolled back whole on an error."""
        with self._writing() as connection, Session(connection, expire_on_commit=False) as session:
            yield session
            session.flush()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A unit of work that only reads; it never waits for a writer."""
        with self.engine.connect() as connection, Session(connection, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with (
            self.engine.connect().execution_options(sqlite_begin="BEGIN IMMEDIATE") as connection,
            connection.begin(),
        ):
            yield connection

    def migrate(self) -> None:
        """Brings the tables to this version's. Raises DatabaseUnusable where that cannot be done."""
        try:
            with self._writing() as connection:
                upgrade(connection)
        except DBAPIError as error:
            raise DatabaseUnusable(f"{self.engine.url.database}: {error.orig}") from error

    def close(self) -> None:
        """Closes every connection."""
        self.engine.dispose()


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: object) -> None:
        # The driver would begin a transaction only at the first write, and a reader that becomes a writer fails at
        # once instead of waiting; so `on_begin` says BEGIN itself.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))


@contextmanager
def open_database(file: Path) -> Iterator[Database]:
    """The migrated database in `file`, made where there is none. Raises DatabaseUnusable."""
    try:
        # For the owner alone: in here are names and password hashes.
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch(mode=0o600)
    except OSError as error:
        raise DatabaseUnusable(f"{file}: expected a file that can be written: {error.strerror}") from error
    database = Database(URL.create("sqlite", database=str(file)))
    try:
        database.migrate()
        yield database
    finally:
        database.close()


@contextmanager
def rehearsal(file: Path) -> Iterator[Database]:
    """A migrated copy of the database in `file` (an empty one where there is none); `file` itself is not changed.

    Raises DatabaseUnusable where the copy cannot be migrated, which is what the hub would meet at its start.
    """
    with tempfile.TemporaryDirectory(prefix="epip-hub-") as folder:
        copy = Path(folder) / "copy.sqlite"
        if file.exists():
            try:
                with (
                    closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as source,
                    closing(sqlite3.connect(copy)) as target,
                ):
                    source.backup(target)
            except sqlite3.DatabaseError as error:
                raise DatabaseUnusable(f"{file}: {error}") from error
        try:
            with open_database(copy) as database:
                yield database
        except DatabaseUnusable as error:
            raise DatabaseUnusable(str(error).replace(str(copy), str(file))) from error
