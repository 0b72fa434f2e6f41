"""Beside the line: the versions of the relational side; the hub runs what is missing at its start.

A version's file name begins with its number; the newest file is the version that the tables of this hub have.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from hub.errors import DatabaseUnusable

if TYPE_CHECKING:
    from alembic.config import Config

FOLDER = Path(__file__).parent
VERSION_TABLE = "alembic_version"


def newest() -> str:
    """The number of the newest version."""
    return max(path.name.partition("_")[0] for path in (FOLDER / "versions").glob("[0-9]*.py"))


def current(connection: Connection) -> str | None:
    """The version that a database has, None for an empty one."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    number: str | None = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))  # noqa: S608 - a constant
    return number


def config() -> Config:
    """Alembic's configuration; no alembic.ini is needed, the scripts travel in the package."""
    from alembic.config import Config

    settings = Config()
    # Alembic interpolates its options: a path with a percent sign must not be taken for a placeholder.
    settings.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    settings.set_main_option("path_separator", "os")
    return settings


def upgrade(connection: Connection) -> None:
    """Runs the missing versions inside the transaction of `connection`.

    Raises DatabaseUnusable where the database was made by a later version of the hub.
    """
    found = current(connection)
    if found == newest():
        # Importing Alembic takes longer than all else that a command does, and it would find nothing to do.
        return
    from alembic.command import upgrade as alembic_upgrade
    from alembic.util.exc import CommandError

    settings = config()
    settings.attributes["connection"] = connection
    try:
        alembic_upgrade(settings, "head")
    except CommandError as error:
        raise DatabaseUnusable(
            f"{connection.engine.url.database}: expected a database of version {newest()} or earlier, found {found}"
        ) from error
