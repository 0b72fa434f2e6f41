"""Beside the spool: opens its file; a corrupt one is set aside, what can be read is saved, what cannot is said.

Three ways lead to a batch: the tables up to the first bad page, the tables from the end down to the last one, and where
both left something out, the bytes of the file themselves, in which each batch begins with its magic and ends in a
checksum. A second, small file tells what the first one held, in case that it can tell nothing any more.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_agent.gaps import Loss
from edge_agent.spool_file import (
    About,
    Priority,
    Spooled,
    about,
    connect,
    fact,
    fault_of,
    insert_loss,
    insert_waiting,
    is_corrupt,
    set_fact,
    streams_of,
)
from lab_contract.batch import EVENT_STREAM, GAP_STREAM, HEADER, HEADER_BYTES, MAGIC, MAX_BYTES, GapReason, unpack
from lab_contract.errors import BatchRejected

log = logging.getLogger(__name__)

KNOWN = "spool-known.json"
PAGE = 4096
"""SQLite's own default since 3.12; the layout of cells and overflow pages is https://www.sqlite.org/fileformat2.html,
section 1.6."""
MOST_LOCAL = PAGE - 35
LEAST_LOCAL = (PAGE - 12) * 32 // 255 - 23
PREFIXES = range(8, 40)
"""Bytes that may stand in a record before the batch: lengths and types, epoch, number."""
HOLE = 2.5
"""Frames of one stream that are further apart than this many of its samples have something missing between them."""


@dataclass
class Known:
    """What is remembered beside the file. `streams`: from when to when something waits or is to be said."""

    epoch: int = 0
    store_id: str | None = None
    streams: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    ends: dict[tuple[str, str], int] = field(default_factory=dict)


def write_known(folder: Path, db: sqlite3.Connection) -> None:
    """Remember what the file holds now. Raises OSError, sqlite3.Error."""
    waiting = db.execute(
        "SELECT kit, stream, min(t_first), max(t_last) FROM "
        "(SELECT kit, stream, t_first, t_last FROM waiting UNION ALL SELECT kit, stream, t_from, t_to FROM losses) "
        "GROUP BY kit, stream"
    )
    text = json.dumps(
        {
            "epoch": int(fact(db, "epoch") or 0),
            "store_id": fact(db, "store_id"),
            "streams": waiting.fetchall(),
            "ends": db.execute("SELECT kit, name, t FROM ends").fetchall(),
        }
    )
    new = folder / f"{KNOWN}.new"
    with new.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    new.replace(folder / KNOWN)


def read_known(folder: Path) -> Known:
    """What was remembered; nothing where it cannot be read either."""
    try:
        told = json.loads((folder / KNOWN).read_text("utf-8"))
        return Known(
            int(told["epoch"]),
            told["store_id"],
            {(kit, stream): (int(first), int(last)) for kit, stream, first, last in told["streams"]},
            {(kit, name): int(t) for kit, name, t in told["ends"]},
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s cannot be read: %s", folder / KNOWN, error)
        return Known()


def open_file(path: Path, now_ns: int, counters: MutableMapping[str, int]) -> sqlite3.Connection:
    """The spool's database, locked for this process until it is closed.

    A corrupt file is set aside under a name with `now_ns` in it and what can be read of it is taken over; `counters`
    says so. Raises DataFolderInUse where another agent holds the file, sqlite3.Error or OSError where it cannot be had.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        return connect(path)
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
    db = connect(path)
    db.execute("BEGIN IMMEDIATE")
    saved = _Salvage(aside, db, read_known(path.parent)).run(now_ns)
    db.execute("COMMIT")
    counters["spool_salvaged"] += saved
    log.error("%s was corrupt (%s): set aside as %s, %d batches saved", path, why, aside.name, saved)
    return db


class _Salvage:
    """One corrupt file and the new one, inside a transaction of the caller."""

    def __init__(self, aside: Path, db: sqlite3.Connection, known: Known) -> None:
        self._aside = aside
        self._db = db
        self._known = known
        self._whole = True
        """Whether the tables that tell what waited could be read to the end."""
        self._saved: list[About] = []
        self._ends: dict[tuple[str, str], int] = {}

    def run(self, now_ns: int) -> int:
        """Take over what can be read, say what cannot; how many batches were saved."""
        old = sqlite3.connect(self._aside, isolation_level=None)
        try:
            self._facts(old)
            missing = self._batches(old)
        finally:
            old.close()
        by_tables = len(self._saved)
        if missing or not self._whole:
            self._carve()
        if self._whole:
            gone = Counter(missing) - Counter(self._saved[by_tables:])
            losses = joined(loss for one in gone.elements() for loss in one.lost(GapReason.UNREADABLE, self._ends))
        else:
            losses = self._holes(now_ns)
        for loss in losses:
            insert_loss(self._db, None, loss)
        return len(self._saved)

    def _facts(self, old: sqlite3.Connection) -> None:
        found = dict(self._both_ways(old, "name, value", "facts", "name"))
        epochs = [self._known.epoch, *(int(value) for name, value in found.items() if name == "epoch")]
        set_fact(self._db, "epoch", str(max(epochs)))
        if store_id := found.get("store_id") or self._known.store_id:
            set_fact(self._db, "store_id", store_id)
        ends = self._known.ends | {(k, n): t for k, n, t in self._both_ways(old, "kit, name, t", "ends", "kit")}
        self._db.executemany("INSERT INTO ends VALUES (?, ?, ?)", [(kit, name, t) for (kit, name), t in ends.items()])
        self._ends = ends
        for row in self._both_ways(old, "*", "losses", "id"):
            self._db.execute("INSERT INTO losses VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", row)

    def _batches(self, old: sqlite3.Connection) -> list[About]:
        """Save what the tables give; what waited and is not among it."""
        waited = {row[0]: About(*row[1:]) for row in self._both_ways(old, "*", "waiting", "place")}
        acknowledged = {row[0]: row for row in self._both_ways(old, "*", "kept", "place")}
        places: set[int] = set()
        for place, epoch, seq, data in self._both_ways(old, "place, epoch, seq, data", "batches", "place"):
            if place in places or fault_of(Spooled(place, epoch, seq, data)) is not None:
                continue
            if not self._insert(place, epoch, seq, data):
                continue
            places.add(place)
            if place in acknowledged:
                self._db.execute("INSERT INTO kept VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", acknowledged[place])
                self._saved.append(About(*acknowledged[place][1:-1]))
            else:
                # Also where nobody can tell: sent once too often is stored once all the same.
                self._waits(place, waited.get(place) or about(data))
        return [one for place, one in waited.items() if place not in places]

    def _insert(self, place: int, epoch: int, seq: int, data: bytes) -> bool:
        row = (place, epoch, seq, data)
        return self._db.execute("INSERT INTO batches VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", row).rowcount > 0

    def _waits(self, place: int, one: About) -> None:
        insert_waiting(self._db, place, one)
        self._saved.append(one)

    def _carve(self) -> None:
        """Batches that no table leads to any more, behind all others; some of them were acknowledged long ago."""
        place = self._db.execute("SELECT coalesce(max(place), 0) FROM batches").fetchone()[0]
        for suffix in ("", "-wal"):
            file = Path(f"{self._aside}{suffix}")
            if not file.exists() or not file.stat().st_size:
                continue
            for data in carved(file):
                header = unpack(data).header
                fits = max(header.epoch, header.seq) < 2**63
                if fits and self._insert(place + 1, header.epoch, header.seq, data):
                    place += 1
                    self._waits(place, about(data))

    def _holes(self, now_ns: int) -> list[Loss]:
        """What may be missing where nobody can tell what waited: whatever of the stretch in question was not saved."""
        known = self._known.streams
        kits = {kit for kit, _ in (*known, *self._ends)} | {one.kit for one in self._saved}
        spans: dict[tuple[str, str], list[About]] = {
            (kit, stream): [] for kit in kits for stream in streams_of(kit, (*self._ends, *known)) - {GAP_STREAM}
        }
        for one in self._saved:
            if one.priority < Priority.RECORD and one.kit:
                spans.setdefault((one.kit, one.stream), []).append(one)
        losses: list[Loss] = []
        for (kit, stream), saved in spans.items():
            # What a gap record was about that is gone may have been any stream.
            waits = [known[key] for key in ((kit, stream), (kit, GAP_STREAM)) if key in known]
            if not waits and not saved:
                continue
            begin = min([*(t for t, _ in waits), *(one.t_first for one in saved)])
            end = max([now_ns, *(t for _, t in waits), *(t for (k, _), t in self._ends.items() if k == kit)])
            if stream == EVENT_STREAM:
                saved = []  # changes come whenever they like: no distance tells that one is missing
            for one in sorted(saved, key=lambda one: one.t_first):
                if one.t_first - begin > HOLE * (one.t_last - one.t_first) / max(1, one.rows - 1):
                    losses.append(Loss(kit, stream, begin, one.t_first, GapReason.UNREADABLE))
                begin = max(begin, one.t_last)
            losses.append(Loss(kit, stream, begin, end, GapReason.UNREADABLE))
        return losses

    def _both_ways(self, old: sqlite3.Connection, columns: str, table: str, key: str) -> Iterator[tuple[Any, ...]]:
        """The rows of a table up to the first bad page and from the end down to the last one; some come twice."""
        for order in ("ASC", "DESC"):
            try:
                yield from old.execute(f"SELECT {columns} FROM {table} ORDER BY {key} {order}")  # noqa: S608
            except sqlite3.DatabaseError as error:
                if table in ("waiting", "losses"):
                    self._whole = False
                if order == "ASC":
                    log.warning("%s: not all of %s can be read: %s", self._aside.name, table, error)


def joined(losses: Iterable[Loss]) -> list[Loss]:
    """Losses of whole batches, those of one stream that touch as one."""
    by_stream: dict[tuple[str, str], list[Loss]] = {}
    for loss in sorted(losses, key=lambda loss: loss.t_from):
        before = by_stream.setdefault((loss.kit, loss.stream), [])
        if before and before[-1].touches(loss):
            before[-1] = before[-1].joined(loss)
        elif loss.kit:
            before.append(loss)
    return [loss for before in by_stream.values() for loss in before]


def carved(file: Path) -> Iterator[bytes]:
    """Every whole batch in the bytes of a spool file, deleted ones that are not overwritten yet among them."""
    with file.open("rb") as source, mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as view:
        at = view.find(MAGIC)
        while at >= 0:
            if (data := _batch_at(view, at)) is not None:
                yield data
            at = view.find(MAGIC, at + len(MAGIC))


def _batch_at(view: mmap.mmap, at: int) -> bytes | None:
    if at + HEADER_BYTES > len(view):
        return None
    size = HEADER_BYTES + HEADER.unpack_from(view, at)[6]
    if size > MAX_BYTES:
        return None
    for data in (view[at : at + size], *_over_pages(view, at, size)):
        with suppress(BatchRejected):
            unpack(data)
            return data
    return None


def _over_pages(view: mmap.mmap, at: int, size: int) -> Iterator[bytes]:
    """The bytes of a batch that goes on in a chain of other pages, for each length that its record may have."""
    for prefix in PREFIXES:
        record = prefix + size
        if record <= MOST_LOCAL:
            continue
        local = LEAST_LOCAL + (record - LEAST_LOCAL) % (PAGE - 4)
        here = (local if local <= MOST_LOCAL else LEAST_LOCAL) - prefix
        parts = [view[at : at + here]]
        left = size - here
        page = int.from_bytes(view[at + here : at + here + 4], "big")
        while left > 0 and 0 < page <= len(view) // PAGE:
            begin = (page - 1) * PAGE
            parts.append(view[begin + 4 : begin + 4 + min(left, PAGE - 4)])
            left -= len(parts[-1])
            page = int.from_bytes(view[begin : begin + 4], "big")
        if left == 0:
            yield b"".join(parts)
