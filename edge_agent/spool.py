"""Third stage of the line: takes encoded batches, makes them durable, keeps them until the hub has stored them.

The guarantee of the line starts when `append` returns. The database is SQLite with WAL and `synchronous=FULL`, written
by one thread that takes whatever waits into one transaction. It holds the exclusive lock of the file, which also keeps
two agents apart. Deletions ride on the next transaction: one that is lost in a crash costs a repetition, which the hub
knows by its id.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from edge_agent.clock import Clock
from edge_agent.errors import DataFolderInUse, SpoolUnavailable
from lab_contract.batch import unpack
from lab_contract.errors import BatchRejected

log = logging.getLogger(__name__)
T = TypeVar("T")

FILE = "spool.db"
EPOCH_RANDOM_BITS = 20
LET_GO_AFTER_S = 1.0
"""Deletions wait this long for a transaction to ride on."""
GROUP_MOST = 256
"""Requests taken into one transaction."""
CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
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


@dataclass(slots=True)
class _Append:
    batches: Sequence[tuple[int, bytes]]
    done: Future[list[Spooled]]


@dataclass(slots=True)
class _Call:
    work: Callable[[sqlite3.Connection], Any]
    done: Future[Any]


def new_epoch(now_ns: int, last: int, random_bits: int) -> int:
    """An epoch above `last` and unlike that of any other start: UTC in steps of a millisecond, then random bits.

    The random bits tell apart two clones of one disk that start in the same moment; below 2^63 for SQLite.
    """
    low = (1 << EPOCH_RANDOM_BITS) - 1
    by_time = (now_ns & ~low) | (random_bits & low)
    return by_time if by_time > last else ((last | low) + 1) | (random_bits & low)


class Spool:
    """The spool in `folder`. `open` first; `append`, `pending` and `close` from an event loop."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock,
        limit_bytes: int,
        random_bits: Callable[[int], int] = secrets.randbits,
    ) -> None:
        self._path = folder / FILE
        self._clock = clock
        self._limit_bytes = limit_bytes
        self._random_bits = random_bits
        self._requests: queue.SimpleQueue[_Append | _Call | None] = queue.SimpleQueue()
        self._let_go_lock = threading.Lock()
        self._let_go: list[tuple[int, int]] = []
        self._thread: threading.Thread | None = None
        self._next_seq = 0
        self.next_place = 1
        """Above the place of every batch so far. No place is used twice in one run, not even after a failure: the
        uplink remembers up to which place it has read."""
        self.epoch = 0
        self.store_id: str | None = None
        """The store that this edge is enrolled with; the first one that acknowledges."""
        self.batches = 0
        self.bytes = 0
        self.counters: dict[str, int] = {
            "spool_dropped": 0,
            "spool_faults": 0,
            "spool_set_aside": 0,
            "spool_salvaged": 0,
            "spool_unreadable": 0,
            "quarantined": 0,
            "foreign_acks": 0,
        }
        self.detail = ""
        """What is wrong with the spool, empty while nothing is."""

    async def open(self) -> None:
        """Open or make the file and start this run's epoch.

        A corrupt file is set aside and what can be read of it is taken over. Raises DataFolderInUse where another
        agent holds it, SpoolUnavailable where the folder cannot be written.
        """
        opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(opened,), name="spool", daemon=True)
        self._thread.start()
        await asyncio.wrap_future(opened)

    async def close(self) -> None:
        """Finish what waits and close the file. Safe to call again."""
        if self._thread is not None:
            self._requests.put(None)
            await asyncio.to_thread(self._thread.join)
            self._thread = None

    def take_seq(self) -> int:
        """The number of the next batch of this epoch. Numbers of batches that are never appended are left out."""
        seq = self._next_seq
        self._next_seq += 1
        return seq

    async def append(self, batches: Sequence[tuple[int, bytes]]) -> list[Spooled]:
        """Make (seq, bytes) of this epoch durable; returns them when they are.

        Over the limit the oldest batches are dropped and counted. Raises SpoolUnavailable where the disk does not take
        them; none of them is in the spool then.
        """
        request = _Append(batches, Future())
        self._requests.put(request)
        return await asyncio.wrap_future(request.done)

    async def pending(self, after: int, before: int, limit: int) -> list[Spooled]:
        """Up to `limit` batches with `after` < place < `before`, oldest first, those of former epochs among them.

        Fewer than `limit` mean that there are no more. Raises SpoolUnavailable.
        """
        return await self._call(lambda db: self._read(db, after, before, limit))

    def acknowledge(self, store_id: str, epoch: int, stored: Iterable[int], quarantined: Iterable[int] = ()) -> bool:
        """Let go of what the hub has stored or keeps aside. False, and nothing is let go, for a store unknown here.

        The first store that acknowledges is the one this edge is enrolled with. Returns at once; deletion follows.
        """
        if self.store_id is None:
            self.store_id = store_id
            self._requests.put(_Call(lambda db: _set_fact(db, "store_id", store_id), Future()))
        if store_id != self.store_id:
            self.counters["foreign_acks"] += 1
            return False
        aside = list(quarantined)
        self.counters["quarantined"] += len(aside)
        with self._let_go_lock:
            self._let_go += [(epoch, seq) for seq in (*stored, *aside)]
        return True

    async def _call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        request = _Call(work, Future())
        self._requests.put(request)
        return await asyncio.wrap_future(request.done)

    # From here on: the writer thread.

    def _run(self, opened: Future[None]) -> None:
        try:
            db: sqlite3.Connection | None = self._open()
        except DataFolderInUse as error:
            opened.set_exception(error)
            return
        except (sqlite3.Error, OSError) as error:
            opened.set_exception(SpoolUnavailable(f"{self._path}: {error}"))
            return
        opened.set_result(None)
        ended = False
        while not ended:
            group, ended = self._next_group()
            # A request whose caller was cancelled is done all the same: its batches must not be lost.
            heard = [request for request in group if request.done.set_running_or_notify_cancel()]
            try:
                db = db or self._open()
                results = self._serve(db, group)
            except (sqlite3.Error, OSError, DataFolderInUse) as error:
                self.counters["spool_faults"] += 1
                self.detail = str(error)
                if db is not None and _code(error) in CORRUPT:
                    db.close()
                    db = None  # the next group sets the file aside
                for request in heard:
                    request.done.set_exception(SpoolUnavailable(f"{self._path}: {error}"))
                continue
            for request, result in zip(group, results, strict=True):
                if request in heard:
                    request.done.set_result(result)
        if db is not None:
            db.close()

    def _next_group(self) -> tuple[list[_Append | _Call], bool]:
        """Whatever waits, at least one request or a second's silence; True at the end."""
        group: list[_Append | _Call] = []
        try:
            request = self._requests.get(timeout=LET_GO_AFTER_S)
            while request is not None:
                group.append(request)
                if len(group) == GROUP_MOST:
                    return group, False
                request = self._requests.get_nowait()
        except queue.Empty:
            return group, False
        return group, True

    def _serve(self, db: sqlite3.Connection, group: list[_Append | _Call]) -> list[Any]:
        with self._let_go_lock:
            let_go, self._let_go = self._let_go, []
        if not group and not let_go:
            return []
        batches, size = self.batches, self.bytes
        results: list[Any] = []
        dropped = 0
        try:
            db.execute("BEGIN IMMEDIATE")
            for key in let_go:
                self._delete(db, "epoch = ? AND seq = ?", key)
            for request in group:
                if isinstance(request, _Append):
                    dropped += self._make_room(db, sum(len(data) for _, data in request.batches))
                    results.append(self._insert(db, request.batches))
                else:
                    results.append(request.work(db))
            db.execute("COMMIT")
        except sqlite3.DatabaseError:
            self.batches, self.bytes = batches, size
            with self._let_go_lock:
                self._let_go += let_go
            if db.in_transaction:
                db.rollback()
            raise
        self.detail = ""
        if dropped:
            if not self.counters["spool_dropped"]:
                log.warning("the spool is full (%d bytes): the oldest batches are dropped", self._limit_bytes)
            self.counters["spool_dropped"] += dropped
        return results

    def _insert(self, db: sqlite3.Connection, batches: Sequence[tuple[int, bytes]]) -> list[Spooled]:
        spooled = [Spooled(self.next_place + i, self.epoch, seq, data) for i, (seq, data) in enumerate(batches)]
        db.executemany(
            "INSERT INTO batches (place, epoch, seq, data) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (epoch, seq) DO NOTHING",  # a commit that failed after all may have been whole
            [(one.place, one.epoch, one.seq, one.data) for one in spooled],
        )
        self.next_place += len(spooled)
        self.batches += len(spooled)
        self.bytes += sum(len(one.data) for one in spooled)
        return spooled

    def _delete(self, db: sqlite3.Connection, where: str, key: tuple[int, ...]) -> int:
        rows = db.execute(f"DELETE FROM batches WHERE {where} RETURNING length(data)", key).fetchall()  # noqa: S608
        self.batches -= len(rows)
        self.bytes -= sum(row[0] for row in rows)
        return len(rows)

    def _make_room(self, db: sqlite3.Connection, size: int) -> int:
        dropped = 0
        while self.batches and self.bytes + size > self._limit_bytes:
            dropped += self._delete(db, "place = (SELECT min(place) FROM batches)", ())
        return dropped

    def _read(self, db: sqlite3.Connection, after: int, before: int, limit: int) -> list[Spooled]:
        rows = db.execute(
            "SELECT place, epoch, seq, data FROM batches WHERE place > ? AND place < ? ORDER BY place LIMIT ?",
            (after, before, limit),
        ).fetchall()
        found = [Spooled(*row) for row in rows]
        whole = [one for one in found if self._is_whole(db, one)]
        # Fewer than `limit` mean that there are no more: the place of the bad ones is taken by others.
        return whole if len(whole) == len(found) else self._read(db, after, before, limit)

    def _is_whole(self, db: sqlite3.Connection, one: Spooled) -> bool:
        """Bytes that rotted on the disk would be sent for ever: no hub can acknowledge an id that it cannot trust."""
        reason = _fault_of(one)
        if reason is None:
            return True
        db.execute("INSERT INTO unreadable (reason, data) VALUES (?, ?)", (reason, one.data))
        self._delete(db, "place = ?", (one.place,))
        self.counters["spool_unreadable"] += 1
        return False

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            db = self._connect(self._path)
        except sqlite3.DatabaseError as error:
            if _code(error) not in CORRUPT:
                raise
            db = self._start_over(str(error))
        self.batches, self.bytes, last_place = db.execute(
            "SELECT count(*), coalesce(sum(length(data)), 0), coalesce(max(place), 0) FROM batches"
        ).fetchone()
        self.next_place = max(self.next_place, last_place + 1)
        self.store_id = _fact(db, "store_id") or self.store_id
        if not self.epoch:
            last = int(_fact(db, "epoch") or 0)
            self.epoch = new_epoch(self._clock.time_ns(), last, self._random_bits(EPOCH_RANDOM_BITS))
        _set_fact(db, "epoch", str(self.epoch))
        if self.store_id is not None:
            _set_fact(db, "store_id", self.store_id)
        return db

    def _connect(self, path: Path) -> sqlite3.Connection:
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

    def _start_over(self, why: str) -> sqlite3.Connection:
        """Set the corrupt file aside, under a name that says when, and take over what can still be read of it."""
        aside = self._path.with_name(f"spool-corrupt-{self._clock.time_ns()}.db")
        for suffix in ("", "-wal"):
            old = Path(f"{self._path}{suffix}")
            if old.exists():
                old.rename(f"{aside}{suffix}")
        self.counters["spool_set_aside"] += 1
        db = self._connect(self._path)
        self._salvage(aside, db)
        log.error(
            "%s was corrupt (%s): set aside as %s, %d batches salvaged",
            self._path, why, aside.name, self.counters["spool_salvaged"],
        )  # fmt: skip
        return db

    def _salvage(self, aside: Path, db: sqlite3.Connection) -> None:
        """What can be read before the first bad page and behind the last one; the checksum of a batch is the judge."""
        old = sqlite3.connect(aside, isolation_level=None)
        db.execute("BEGIN IMMEDIATE")
        try:
            for name in ("epoch", "store_id"):
                if (value := _fact(old, name)) is not None:
                    _set_fact(db, name, value)
        except sqlite3.DatabaseError:
            log.warning("%s: epoch and store id cannot be read", aside.name)
        for order in ("ASC", "DESC"):
            try:
                for row in old.execute(f"SELECT place, epoch, seq, data FROM batches ORDER BY place {order}"):  # noqa: S608
                    self._salvage_one(db, row)
            except sqlite3.DatabaseError as error:
                log.warning("%s: not all can be read: %s", aside.name, error)
        db.execute("COMMIT")
        old.close()

    def _salvage_one(self, db: sqlite3.Connection, row: tuple[Any, ...]) -> None:
        if _fault_of(Spooled(*row)) is not None:
            self.counters["spool_unreadable"] += 1
            return
        insert = "INSERT INTO batches (place, epoch, seq, data) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
        self.counters["spool_salvaged"] += db.execute(insert, row).rowcount


def _code(error: Exception) -> int:
    """The primary result code of SQLite, 0 for an error of another kind."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _fault_of(one: Spooled) -> str | None:
    """Why these bytes are not the batch that was spooled; None where they are."""
    try:
        header = unpack(one.data).header
    except (BatchRejected, TypeError) as error:
        return str(error)
    return None if header.id[1:] == (one.epoch, one.seq) else f"holds batch {header.id[1:]}"


def _fact(db: sqlite3.Connection, name: str) -> str | None:
    row = db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def _set_fact(db: sqlite3.Connection, name: str, value: str) -> None:
    db.execute("INSERT INTO facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, value))
