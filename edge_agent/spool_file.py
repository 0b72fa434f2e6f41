"""Beside the spool: its file. Opens and locks it, and where it is corrupt sets it aside and saves what can be read."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

from edge_agent.errors import DataFolderInUse
from lab_contract.batch import unpack
from lab_contract.errors import BatchRejected

log = logging.getLogger(__name__)

SCHEMA = """
CREATE TABLE IF NOT EXISTS batches (
    place INTEGER PRIMARY KEY,   -- order of arrival
    epoch INTEGER NOT NULL,
    seq   INTEGER NOT NULL,
    data  BLOB NOT NULL,
    UNIQUE (epoch, seq)
);
CREATE TABLE IF NOT EXISTS unreadable (place INTEGER PRIMARY KEY, reason TEXT NOT NULL, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Spooled:
    """A durable batch; `place` orders all batches of the spool by arrival."""

    place: int
    epoch: int
    seq: int
    data: bytes


def open_file(path: Path, now_ns: int, counters: MutableMapping[str, int]) -> sqlite3.Connection:
    """The spool's database, locked for this process until it is closed.

    A corrupt file is set aside under a name with `now_ns` in it and what can be read of it is taken over; `counters`
    says so. Raises DataFolderInUse where another agent holds the file, sqlite3.Error or OSError where it cannot be had.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        return _connect(path)
    except sqlite3.DatabaseError as error:
        if not is_corrupt(error):
            raise
        why = error
    aside = path.with_name(f"spool-corrupt-{now_ns}.db")
    for suffix in ("", "-wal"):
        old = Path(f"{path}{suffix}")
        if old.exists():
            old.rename(f"{aside}{suffix}")
    counters["spool_set_aside"] += 1
    db = _connect(path)
    _salvage(aside, db, counters)
    saved = counters["spool_salvaged"]
    log.error("%s was corrupt (%s): set aside as %s, %d batches saved", path, why, aside.name, saved)
    return db


def is_corrupt(error: Exception) -> bool:
    """Whether the file is to be set aside; a full or busy disk is no reason."""
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _code(error: Exception) -> int:
    """The primary result code of SQLite, 0 for an error of another kind."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _connect(path: Path) -> sqlite3.Connection:
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
        db.executescript(SCHEMA)
    except sqlite3.DatabaseError as error:
        db.close()
        if _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise DataFolderInUse(f"{path.parent}: in use by another edge agent") from None
        raise
    return db


def _salvage(aside: Path, db: sqlite3.Connection, counters: MutableMapping[str, int]) -> None:
    """What can be read before the first bad page and behind the last one; the checksum of a batch is the judge."""
    old = sqlite3.connect(aside, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    try:
        for name in ("epoch", "store_id"):
            if (value := fact(old, name)) is not None:
                set_fact(db, name, value)
    except sqlite3.DatabaseError as error:
        log.warning("%s: epoch and store id cannot be read: %s", aside.name, error)
    insert = "INSERT INTO batches (place, epoch, seq, data) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
    for order in ("ASC", "DESC"):
        try:
            for row in old.execute(f"SELECT place, epoch, seq, data FROM batches ORDER BY place {order}"):  # noqa: S608
                if fault_of(Spooled(*row)) is None:
                    counters["spool_salvaged"] += db.execute(insert, row).rowcount
        except sqlite3.DatabaseError as error:
            log.warning("%s: not all can be read: %s", aside.name, error)
    db.execute("COMMIT")
    old.close()


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
