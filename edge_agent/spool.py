"""Third stage of the line: takes encoded batches, makes them durable, keeps them until the hub has stored them.

The guarantee of the line starts when `append` returns. The database is SQLite with WAL and `synchronous=FULL`, written
by one thread that takes whatever waits into one transaction. It holds the exclusive lock of the file, which also keeps
two agents apart. Deletions ride on the next transaction: one that is lost in a crash costs a repetition, which the hub
knows by its id.
"""

from __future__ import annotations

import asyncio
import itertools
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
from edge_agent.spool_file import Spooled, fact, fault_of, is_corrupt, open_file, set_fact

log = logging.getLogger(__name__)
T = TypeVar("T")

FILE = "spool.db"
EPOCH_RANDOM_BITS = 20
LET_GO_AFTER_S = 1.0
"""Deletions wait this long for a transaction to ride on."""
GROUP_MOST = 256
"""Requests taken into one transaction."""
CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


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
        self._group: list[_Append | _Call] = []
        """What the thread is at."""
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
        self._thread = threading.Thread(target=self._guarded, args=(opened,), name="spool", daemon=True)
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

    def acknowledge(
        self, store_id: str, stored: Iterable[tuple[int, int]], quarantined: Iterable[tuple[int, int]] = ()
    ) -> bool:
        """Let go of the batches (epoch, seq) that the hub has stored or keeps aside.

        False, and nothing is let go, for a store unknown here.

        The first store that acknowledges is the one this edge is enrolled with. Returns at once; deletion follows.
        """
        if self.store_id is None:
            self.store_id = store_id
            self._requests.put(_Call(lambda db: set_fact(db, "store_id", store_id), Future()))
        if store_id != self.store_id:
            self.counters["foreign_acks"] += 1
            return False
        aside = list(quarantined)
        self.counters["quarantined"] += len(aside)
        with self._let_go_lock:
            self._let_go += [*stored, *aside]
        return True

    async def _call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        request = _Call(work, Future())
        self._requests.put(request)
        return await asyncio.wrap_future(request.done)

    # From here on: the writer thread.

    def _guarded(self, opened: Future[None]) -> None:
        try:
            self._run(opened)
        except Exception as error:
            # A fault of ours. Whoever asks from now on is told, so that the agent ends instead of hanging.
            log.exception("the spool has ended")
            if not opened.done():
                opened.set_exception(error)
            for request in itertools.chain(self._group, iter(self._requests.get, None)):
                if not request.done.done():
                    request.done.set_exception(error)

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
            self._group = group
            # A request whose caller was cancelled is done all the same: its batches must not be lost.
            heard = [request for request in group if request.done.set_running_or_notify_cancel()]
            try:
                db = db or self._open()
                results = self._serve(db, group)
            except (sqlite3.Error, OSError, DataFolderInUse) as error:
                self.counters["spool_faults"] += 1
                self.detail = str(error)
                if db is not None and is_corrupt(error):
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
                    results.append(self._insert(db, request.batches))
                    dropped += self._make_room(db)
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

    def _make_room(self, db: sqlite3.Connection) -> int:
        dropped = 0
        while self.batches > 1 and self.bytes > self._limit_bytes:
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
        reason = fault_of(one)
        if reason is None:
            return True
        db.execute("INSERT INTO unreadable (reason, data) VALUES (?, ?)", (reason, one.data))
        self._delete(db, "place = ?", (one.place,))
        self.counters["spool_unreadable"] += 1
        return False

    def _open(self) -> sqlite3.Connection:
        db = open_file(self._path, self._clock.time_ns(), self.counters)
        self.batches, self.bytes, last_place = db.execute(
            "SELECT count(*), coalesce(sum(length(data)), 0), coalesce(max(place), 0) FROM batches"
        ).fetchone()
        self.next_place = max(self.next_place, last_place + 1)
        self.store_id = fact(db, "store_id") or self.store_id
        if not self.epoch:
            last = int(fact(db, "epoch") or 0)
            self.epoch = new_epoch(self._clock.time_ns(), last, self._random_bits(EPOCH_RANDOM_BITS))
        set_fact(db, "epoch", str(self.epoch))
        if self.store_id is not None:
            set_fact(db, "store_id", self.store_id)
        return db
