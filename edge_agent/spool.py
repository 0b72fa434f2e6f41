"""Third stage of the line: takes encoded batches, makes them durable, keeps them until the hub has stored them.

The guarantee of the line starts when `append` returns. The database is SQLite with WAL and `synchronous=FULL`, written
by one thread that takes whatever waits into one transaction. It holds the exclusive lock of the file, which also keeps
two agents apart. Acknowledgements ride on the next transaction: one that is lost in a crash costs a repetition, which
the hub knows by its id.

Acknowledged batches are kept for a while, so that a hub whose store was restored from a backup can ask for them again.
Where there is no room they go first, then frames, then events; gap records have room of their own. Whatever goes
unacknowledged leaves a loss in the same transaction, and losses that have settled become gap batches here, with ids of
this epoch like all others.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from edge_agent.batcher import Encoded
from edge_agent.clock import Clock
from edge_agent.clock_offset import Offset, no_offset
from edge_agent.errors import DataFolderInUse, SpoolUnavailable
from edge_agent.gaps import REASONS, Loss
from edge_agent.spool_file import Spooled, fact, is_corrupt, set_fact
from edge_agent.spool_rows import Counts, Room, Rows
from edge_agent.spool_salvage import open_file, write_known
from lab_contract.batch import GAP_STREAM, Gap, Header, Shape, encode_gaps
from lab_contract.messages import Kept

log = logging.getLogger(__name__)
T = TypeVar("T")

FILE = "spool.db"
EPOCH_RANDOM_BITS = 20
LET_GO_AFTER_S = 1.0
"""Acknowledgements wait this long for a transaction to ride on."""
GROUP_MOST = 256
"""Requests taken into one transaction."""
READ_MOST_BYTES = 2**20
"""Read back at once; memory stays bounded whatever waits."""
KEPT_MOST = 64
"""Epochs of kept batches that are told to the hub, the newest: an edge that starts over and over must not fill its
status."""
LARGEST = 2**63 - 1
"""SQLite holds no larger number; whatever a hub may say, no batch here bears one."""
KNOWN_EVERY_NS = 60 * 1_000_000_000
"""How often what the file holds is noted beside it."""
HOUR_NS = 3600 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class Appended:
    """What is durable now, in order of places, and places of former batches that had to go for it."""

    spooled: list[Spooled]
    dropped: list[int]


@dataclass(frozen=True, slots=True)
class ReadBack:
    """Batches from the spool; everything up to the place `read_to` has been read."""

    batches: list[Spooled]
    read_to: int


@dataclass(slots=True)
class _Append:
    batches: Sequence[Encoded]
    losses: Sequence[Loss]
    ends: Mapping[tuple[str, str], int]
    done: Future[Appended]


@dataclass(slots=True)
class _Call:
    work: Callable[[Rows, sqlite3.Connection], Any]
    done: Future[Any]


def new_epoch(now_ns: int, last: int, random_bits: int) -> int:
    """An epoch above `last` and unlike that of any other start: UTC in steps of a millisecond, then random bits.

    The random bits tell apart two clones of one disk that start in the same moment; below 2^63 for SQLite.
    """
    low = (1 << EPOCH_RANDOM_BITS) - 1
    by_time = (now_ns & ~low) | (random_bits & low)
    return by_time if by_time > last else ((last | low) + 1) | (random_bits & low)


class Spool:
    """The spool in `folder` of edge `edge`. `open` first; `append`, `pending` and `close` from an event loop.

    Frames and events may take `limit_bytes` less the share `reserved`. Acknowledged batches are kept `keep_hours` long,
    in no more than half of the limit. `offset` is asked for the clock offset in the header of gap batches.
    """

    def __init__(
        self,
        folder: Path,
        *,
        edge: str,
        clock: Clock,
        limit_bytes: int,
        reserved: float = 0.1,
        keep_hours: float = 0.0,
        offset: Callable[[], Offset] = no_offset,
        random_bits: Callable[[int], int] = secrets.randbits,
    ) -> None:
        self._path = folder / FILE
        self._edge = edge
        self._clock = clock
        self._room = Room(limit_bytes, int(limit_bytes * (1 - reserved)), round(keep_hours * HOUR_NS))
        self._offset = offset
        self._random_bits = random_bits
        self._requests: queue.SimpleQueue[_Append | _Call | None] = queue.SimpleQueue()
        self._acknowledged_lock = threading.Lock()
        self._stored: list[tuple[int, int]] = []
        self._aside: list[tuple[int, int]] = []
        self._noted_ns = 0
        self._group: list[_Append | _Call] = []
        """What the thread is at."""
        self._thread: threading.Thread | None = None
        self._seqs = itertools.count()
        self._dropped: list[int] = []
        """Places that nobody has been told of yet."""
        self.next_place = 1
        """Above the place of every batch so far. No place is used twice in one run, not even after a failure: the
        uplink remembers up to which place it has read."""
        self.epoch = 0
        self.store_id: str | None = None
        """The store that this edge is enrolled with; the first one that acknowledges."""
        self.counts = Counts()
        self.ends: dict[tuple[str, str], int] = {}
        """At the start: last sample of each stream and last sign of life of each connection, by kit and name."""
        self.kept: tuple[Kept, ...] = ()
        """Acknowledged batches that are still here, the newest epochs."""
        self.counters: dict[str, int] = {
            "spool_dropped": 0,
            "spool_faults": 0,
            "spool_set_aside": 0,
            "spool_salvaged": 0,
            "spool_unreadable": 0,
            "quarantined": 0,
            "foreign_acks": 0,
            "foreign_replays": 0,
            "replayed": 0,
            **{f"gaps_{reason}": 0 for reason in REASONS},
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
        return next(self._seqs)  # also taken by the writer thread

    async def append(
        self,
        batches: Sequence[Encoded],
        losses: Sequence[Loss] = (),
        ends: Mapping[tuple[str, str], int] | None = None,
    ) -> Appended:
        """Make batches of this epoch durable, with what was lost before them and how far has been read.

        Over the limit batches are dropped and counted, and gaps say so. Raises SpoolUnavailable where the disk does not
        take them; nothing of this call is in the spool then.
        """
        request = _Append(batches, losses, ends or {}, Future())
        self._requests.put(request)
        return await asyncio.wrap_future(request.done)

    async def pending(self, after: int, before: int, limit: int) -> ReadBack:
        """Unacknowledged batches with `after` < place < `before`, oldest first, those of former epochs among them.

        At most `limit`, and not many more bytes than READ_MOST_BYTES. Raises SpoolUnavailable.
        """
        return await self._call(lambda rows, _: self._read(rows, after, before, limit))

    async def replay(self, store_id: str, epoch: int, ranges: Sequence[tuple[int, int]]) -> list[int]:
        """Let acknowledged batches of `epoch` with these numbers (first, last) wait again, as far as they are kept.

        Their places, which `pending` gives again; none for a store unknown here. Raises SpoolUnavailable.
        """
        if store_id != self.store_id:
            self.counters["foreign_replays"] += 1
            return []
        if not 0 <= epoch <= LARGEST:
            return []
        ranges = [(max(first, 0), min(last, LARGEST)) for first, last in ranges if first <= LARGEST and last >= 0]
        places = await self._call(lambda rows, _: rows.replay(epoch, ranges))
        self.counters["replayed"] += len(places)
        return places

    def acknowledge(
        self, store_id: str, stored: Iterable[tuple[int, int]], quarantined: Iterable[tuple[int, int]] = ()
    ) -> bool:
        """Send the batches (epoch, seq) that the hub has stored or keeps aside no more.

        What is stored is kept for a while, what the hub keeps aside is let go. False, and nothing happens, for a store
        unknown here. The first store that acknowledges is the one this edge is enrolled with. Returns at once; the file
        follows.
        """
        if self.store_id is None:
            self.store_id = store_id
            self._requests.put(_Call(lambda _, db: set_fact(db, "store_id", store_id), Future()))
        if store_id != self.store_id:
            self.counters["foreign_acks"] += 1
            return False
        aside = list(quarantined)
        self.counters["quarantined"] += len(aside)
        fit = [key for key in stored if min(key) >= 0 and max(key) <= LARGEST]
        with self._acknowledged_lock:
            self._stored += fit
            self._aside += aside
        return True

    async def _call(self, work: Callable[[Rows, sqlite3.Connection], T]) -> T:
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
        db: sqlite3.Connection | None = None
        rows: Rows | None = None
        try:
            db, rows = self._open()
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
                if db is None:
                    db, rows = self._open()
                elif rows is None:
                    rows = self._rows(db)
                results = self._serve(db, rows, group)
            except (sqlite3.Error, OSError, DataFolderInUse) as error:
                self.counters["spool_faults"] += 1
                self.detail = str(error)
                rows = None  # it knows of what was rolled back
                if db is not None and is_corrupt(error):
                    db.close()
                    db = None  # the next group sets the file aside
                for request in heard:
                    request.done.set_exception(SpoolUnavailable(f"{self._path}: {error}"))
                continue
            for request, result in zip(group, results, strict=True):
                if request in heard:
                    request.done.set_result(result)
            if self._clock.monotonic_ns() - self._noted_ns >= KNOWN_EVERY_NS:
                self._note_beside(db)
        if db is not None:
            self._note_beside(db)
            db.close()

    def _note_beside(self, db: sqlite3.Connection) -> None:
        """For the day when the file cannot be read any more: without it nobody could say what was lost."""
        self._noted_ns = self._clock.monotonic_ns()
        try:
            write_known(self._path.parent, db)
        except (OSError, sqlite3.Error) as error:
            self.counters["spool_faults"] += 1
            self.detail = str(error)

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

    def _serve(self, db: sqlite3.Connection, rows: Rows, group: list[_Append | _Call]) -> list[Any]:
        with self._acknowledged_lock:
            stored, self._stored = self._stored, []
            aside, self._aside = self._aside, []
        now, utc = self._clock.monotonic_ns(), self._clock.time_ns()
        if not (group or stored or aside or rows.losses.due(now) or rows.is_old(utc)):
            return []
        results: list[Any] = []
        said: list[Gap] = []
        try:
            db.execute("BEGIN IMMEDIATE")
            rows.acknowledge(stored, utc)
            rows.let_go(aside)
            for request in group:
                if isinstance(request, _Append):
                    results.append(self._insert(rows, request, now))
                else:
                    results.append(request.work(rows, db))
            for kit, gaps, entries in rows.settled(now):
                rows.insert([self._gap_batch(kit, gaps)], self.epoch, self._take_places(1))
                rows.said(entries)
                said += gaps
            dropped = rows.make_room(now)
            rows.purge(utc)
            db.execute("COMMIT")
        except sqlite3.DatabaseError:
            with self._acknowledged_lock:
                self._stored += stored
                self._aside += aside
            if db.in_transaction:
                db.rollback()
            raise
        self._committed(rows, dropped, said)
        return self._without_dropped(results)

    def _committed(self, rows: Rows, dropped: list[int], said: list[Gap]) -> None:
        self.detail = ""
        self.counts = replace(rows.counts)
        newest = sorted(rows.kept.items())[-KEPT_MOST:]
        self.kept = tuple(Kept(epoch=epoch, first=first, last=last) for epoch, (first, last) in newest)
        for gap in said:
            self.counters[f"gaps_{gap.reason}"] += 1
        if dropped:
            if not self.counters["spool_dropped"]:
                log.warning("the spool is full (%d bytes): batches are dropped", self._room.all_bytes)
            self.counters["spool_dropped"] += len(dropped)
            self._dropped += dropped

    def _without_dropped(self, results: list[Any]) -> list[Any]:
        """The results of a group: the first append in it tells of everything that had to go."""
        for i, result in enumerate(results):
            if isinstance(result, Appended) and self._dropped:
                gone = set(self._dropped)
                results[i] = Appended([one for one in result.spooled if one.place not in gone], self._dropped)
        if any(isinstance(result, Appended) for result in results):
            self._dropped = []
        return results

    def _insert(self, rows: Rows, request: _Append, now_ns: int) -> Appended:
        rows.note(request.losses, now_ns)
        rows.remember(request.ends)
        place = self._take_places(len(request.batches))
        return Appended(rows.insert(request.batches, self.epoch, place), [])

    def _take_places(self, number: int) -> int:
        place = self.next_place
        self.next_place += number
        return place

    def _gap_batch(self, kit: str, gaps: list[Gap]) -> Encoded:
        offset = self._offset()
        header = Header(
            self._edge,
            self.epoch,
            self.take_seq(),
            kit,
            GAP_STREAM,
            Shape.GAP,
            clock_offset_ns=offset.ns,
            clock_uncertainty_ns=offset.uncertainty_ns,
        )
        begin, end = min(gap.t_from for gap in gaps), max(gap.t_to for gap in gaps)
        return Encoded(header.seq, encode_gaps(header, gaps), kit, GAP_STREAM, Shape.GAP, len(gaps), begin, end)

    def _read(self, rows: Rows, after: int, before: int, limit: int) -> ReadBack:
        found, read_to, rotten = rows.read(after, before, limit, READ_MOST_BYTES, self._clock.monotonic_ns())
        self.counters["spool_unreadable"] += rotten
        return ReadBack(found, read_to)

    def _open(self) -> tuple[sqlite3.Connection, Rows]:
        db = open_file(self._path, self._clock.time_ns(), self.counters)
        rows = self._rows(db)
        last_place = db.execute("SELECT coalesce(max(place), 0) FROM batches").fetchone()[0]
        self.next_place = max(self.next_place, last_place + 1)
        self.store_id = fact(db, "store_id") or self.store_id
        if not self.epoch:
            last = int(fact(db, "epoch") or 0)
            self.epoch = new_epoch(self._clock.time_ns(), last, self._random_bits(EPOCH_RANDOM_BITS))
            self.ends = {(kit, name): t for kit, name, t in db.execute("SELECT kit, name, t FROM ends")}
        set_fact(db, "epoch", str(self.epoch))
        if self.store_id is not None:
            set_fact(db, "store_id", self.store_id)
        self._note_beside(db)
        return db, rows

    def _rows(self, db: sqlite3.Connection) -> Rows:
        rows = Rows(db, self._room, self._clock.monotonic_ns())
        self._committed(rows, [], [])
        return rows
