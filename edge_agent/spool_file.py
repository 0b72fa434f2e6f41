"""Beside the spool: its file, opened and locked, and brought up from an older version."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from edge_agent.batch_times import times_of
from edge_agent.errors import DataFolderInUse
from edge_agent.gaps import Loss
from lab_contract.batch import GapReason, Header, Shape, unpack
from lab_contract.errors import BatchRejected

# `batches` is as the first version of the file had it; all that is asked often stands in narrow tables beside it, so
# that neither an acknowledgement nor the search for room touches the bytes of a batch.
SCHEMA = """
CREATE TABLE IF NOT EXISTS batches (
    place INTEGER PRIMARY KEY,   -- order of arrival
    epoch INTEGER NOT NULL,
    seq   INTEGER NOT NULL,
    data  BLOB NOT NULL,
    UNIQUE (epoch, seq)
);
CREATE TABLE IF NOT EXISTS waiting (     -- batches that the hub has not acknowledged
    place    INTEGER PRIMARY KEY,
    priority INTEGER NOT NULL,
    kit      TEXT NOT NULL,
    stream   TEXT NOT NULL,
    rows     INTEGER NOT NULL,
    t_first  INTEGER NOT NULL,
    t_last   INTEGER NOT NULL,
    size     INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS waiting_by_priority ON waiting (priority, place);
CREATE TABLE IF NOT EXISTS kept (        -- batches that it has acknowledged, in case that it asks for them again
    place    INTEGER PRIMARY KEY,
    priority INTEGER NOT NULL,
    kit      TEXT NOT NULL,
    stream   TEXT NOT NULL,
    rows     INTEGER NOT NULL,
    t_first  INTEGER NOT NULL,
    t_last   INTEGER NOT NULL,
    size     INTEGER NOT NULL,
    acknowledged_ns INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS losses (      -- what was lost and has not been said yet
    id     INTEGER PRIMARY KEY,
    kit    TEXT NOT NULL,
    stream TEXT NOT NULL,
    t_from INTEGER NOT NULL,
    t_to   INTEGER NOT NULL,
    reason TEXT NOT NULL,
    count  INTEGER
);
CREATE TABLE IF NOT EXISTS ends (        -- last sample of each stream, last sign of life of each connection
    kit  TEXT NOT NULL,
    name TEXT NOT NULL,
    t    INTEGER NOT NULL,
    PRIMARY KEY (kit, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS unreadable (place INTEGER PRIMARY KEY, reason TEXT NOT NULL, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
VERSION = 2
"""In the file's `user_version`; the first version, which had `batches` alone, left it 0."""


class Priority(IntEnum):
    """What goes first where there is no room: the least. Gap records, and later results, alarms and audit, are last."""

    FRAME = 0
    EVENT = 1
    RECORD = 2


PRIORITIES = {Shape.FRAME: Priority.FRAME, Shape.EVENT: Priority.EVENT, Shape.GAP: Priority.RECORD}


@dataclass(frozen=True, slots=True)
class Spooled:
    """A durable batch; `place` orders all batches of the spool by arrival."""

    place: int
    epoch: int
    seq: int
    data: bytes


@dataclass(frozen=True, slots=True)
class About:
    """What the spool knows of a batch without reading it; `t_first` and `t_last` are UTC ns."""

    priority: int
    kit: str
    stream: str
    rows: int
    t_first: int
    t_last: int
    size: int

    def lost(self, reason: GapReason, ends: Iterable[tuple[str, str]]) -> list[Loss]:
        """The losses where this batch is gone.

        Of a gap record nobody can tell any more which streams it was about: it may have been every one in `ends`.
        """
        if self.priority < Priority.RECORD:
            return [Loss(self.kit, self.stream, self.t_first, self.t_last, reason, self.rows)] if self.kit else []
        return [Loss(self.kit, one, self.t_first, self.t_last, reason) for one in streams_of(self.kit, ends)]


def streams_of(kit: str, ends: Iterable[tuple[str, str]]) -> set[str]:
    """The streams of a kit of which the spool remembers an end."""
    return {name.partition("/")[0] for owner, name in ends if owner == kit}


def is_corrupt(error: Exception) -> bool:
    """Whether the file is to be set aside; a full or busy disk is no reason."""
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _code(error: Exception) -> int:
    """The primary result code of SQLite, 0 for an error of another kind."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def connect(path: Path) -> sqlite3.Connection:
    """The file, locked for this process until it is closed, made where there is none and brought up to this version.

    Raises DataFolderInUse where another agent holds it, sqlite3.Error where it cannot be had or is corrupt.
    """
    db = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        # The lock is taken with the first transaction and kept: the second agent fails here.
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN IMMEDIATE")
        db.execute("COMMIT")
        fault = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if fault != "ok":
            error = sqlite3.DatabaseError(fault)
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error
        _bring_up(db)
    except sqlite3.DatabaseError as error:
        db.close()
        if _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise DataFolderInUse(f"{path.parent}: in use by another edge agent") from None
        raise
    return db


def _bring_up(db: sqlite3.Connection) -> None:
    """Make the tables; batches of a file of the first version all wait."""
    found = db.execute("PRAGMA user_version").fetchone()[0]
    db.execute("BEGIN IMMEDIATE")
    try:
        for statement in SCHEMA.split(";\n"):
            db.execute(statement)
        if found < VERSION:
            rows = db.execute("SELECT place, data FROM batches WHERE place NOT IN (SELECT place FROM waiting)")
            for place, data in rows:
                insert_waiting(db, place, about(data))
            db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")
    except sqlite3.DatabaseError:
        if db.in_transaction:
            db.rollback()
        raise


def insert_waiting(db: sqlite3.Connection, place: int, one: About) -> None:
    """A batch that waits for the hub's acknowledgement."""
    db.execute(
        "INSERT INTO waiting VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (place, one.priority, one.kit, one.stream, one.rows, one.t_first, one.t_last, one.size),
    )


def about(data: bytes) -> About:
    """What is known of these bytes; a batch that has rotted is without rows and times, and is found out when read."""
    try:
        batch = unpack(data)
    except (BatchRejected, TypeError):
        return About(Priority.FRAME, "", "", 0, 0, 0, len(data))
    return _about(batch.header, *times_of(batch), len(data))


def _about(header: Header, t_first: int, t_last: int, size: int) -> About:
    return About(PRIORITIES[header.shape], header.kit, header.stream, header.rows, t_first, t_last, size)


def insert_loss(db: sqlite3.Connection, id_: int | None, loss: Loss) -> None:
    """A loss that is to be said; one that has grown takes the place of itself."""
    db.execute(
        "INSERT OR REPLACE INTO losses VALUES (?, ?, ?, ?, ?, ?, ?)",
        (id_, loss.kit, loss.stream, loss.t_from, loss.t_to, loss.reason.value, loss.count),
    )


def fault_of(one: Spooled) -> str | None:
    """Why these bytes are not the batch that was spooled; None where they are."""
    try:
        header = unpack(one.data).header
    except (BatchRejected, TypeError) as error:
        return str(error)
    return None if header.id[1:] == (one.epoch, one.seq) else f"holds batch {header.id[1:]}"


def fact(db: sqlite3.Connection, name: str) -> str | None:
    """Something the spool remembers: `epoch`, the latest one, and `store_id`."""
    row = db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def set_fact(db: sqlite3.Connection, name: str, value: str) -> None:
    """Remember it."""
    db.execute("INSERT INTO facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, value))
