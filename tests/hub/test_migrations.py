"""A hub of this version opens the database of any earlier one, and its migrations make what its tables say."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from hub.accounts.models import SessionRow
from hub.database import Database, Table, open_database, rehearsal
from hub.errors import DatabaseUnusable
from hub.migrations import config, current, newest


def test_the_migrations_make_exactly_the_tables_of_this_version(database: Database) -> None:
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []


def test_versions_form_one_line_whose_end_is_the_newest_file() -> None:
    scripts = ScriptDirectory.from_config(config())
    assert scripts.get_heads() == [newest()]


def test_migrating_again_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "folder with % and ?" / "hub.sqlite"
    with open_database(file) as database, database.engine.connect() as connection:
        assert current(connection) == newest()
    with open_database(file):
        pass
    assert [path.name for path in file.parent.iterdir()] == ["hub.sqlite"]


def test_a_database_of_a_later_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "hub.sqlite"
    with open_database(file) as database, database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    refusal = rf"expected a database of version {newest()} or earlier, found 9999"
    with pytest.raises(DatabaseUnusable, match=refusal), open_database(file):
        pass
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]


def test_a_rehearsal_leaves_the_database_alone(tmp_path: Path) -> None:
    file = tmp_path / "hub.sqlite"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE old (x)")
    before = file.read_bytes()
    with rehearsal(file) as database, database.engine.connect() as connection:
        assert current(connection) == newest()
    assert file.read_bytes() == before


def test_writing_is_durable_and_rows_that_refer_to_nothing_are_refused(database: Database) -> None:
    with database.engine.connect() as connection:
        pragmas = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "foreign_keys": 1, "synchronous": 2, "busy_timeout": 10_000}
    with pytest.raises(IntegrityError), database.transaction() as session:
        session.add(SessionRow(person_id=99, token_hash="x", created_ns=1, seen_ns=1, address="", agent=""))


def test_a_unit_of_work_that_fails_leaves_nothing(database: Database) -> None:
    def fail() -> None:
        with database.transaction() as session:
            session.execute(text("CREATE TABLE left_over (x)"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with database.reading() as session:
        assert session.execute(text("SELECT count(*) FROM sqlite_master WHERE name = 'left_over'")).scalar() == 0
