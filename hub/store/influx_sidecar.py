"""Beside InfluxDB, a SQLite file: the ledger of batches, newest values and what is kept aside; a server has no such.

Belongs to one database by the store's id. InfluxDB is written first, the ledger row after it, the acknowledgement
after both: a crash in between lets the batch come again, and it rewrites the very same points. So a lost sidecar costs
the ledger only: what edges still send is stored again, onto itself.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub.store import quarantine_table
from hub.store.base import Latest, Quarantine, QuarantinedBatch, StoreUnavailable

HALF = 1 << 63
"""SQLite's integers are signed: epochs and numbers of 64 bits are kept less this, in the same order."""
MARKS = 100_000
"""How many are remembered, the newest. Only what stands in the server's write-ahead log can be lost, which it writes
into its files from 25 MB on and after ten minutes without a write: fewer writes than this."""
MARK_BLOCK = 10_000
"""Numbers of marks noted at once: a note is a transaction."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ledger (
    edge TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, crc INTEGER NOT NULL, kit TEXT NOT NULL,
    stream TEXT NOT NULL, row_count INTEGER NOT NULL, received_ns INTEGER NOT NULL, clock_offset_ns INTEGER,
    clock_uncertainty_ns INTEGER, samples INTEGER NOT NULL, t_first INTEGER, t_last INTEGER, write_no INTEGER NOT NULL,
    PRIMARY KEY (edge, epoch, seq)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS ledger_by_write ON ledger (write_no);
CREATE TABLE IF NOT EXISTS mark (
    place INTEGER PRIMARY KEY AUTOINCREMENT, t INTEGER NOT NULL UNIQUE, write_no INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS mark_by_write ON mark (write_no);
CREATE TABLE IF NOT EXISTS latest (
    kit TEXT NOT NULL, channel TEXT NOT NULL, t INTEGER NOT NULL, value REAL, text TEXT, quality INTEGER NOT NULL,
    PRIMARY KEY (kit, channel)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS part (id TEXT PRIMARY KEY, samples INTEGER NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A batch's row in the ledger. `samples`: values in it; `t_first`, `t_last` their times, None where none."""

    edge: str
    epoch: int
    seq: int
    crc: int
    kit: str
    stream: str
    row_count: int
    received_ns: int
    clock_offset_ns: int | None
    clock_uncertainty_ns: int | None
    samples: int
    t_first: int | None
    t_last: int | None


@dataclass(frozen=True, slots=True)
class Held:
    """What the ledger adds up to."""

    batches: int
    samples: int
    first_ns: int | None
    last_ns: int | None


class Sidecar:
    """The file. Any thread may call; raises StoreUnavailable where SQLite cannot, nothing is changed then."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        with _errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._con = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=1.0)
            try:
                # The second hub on this folder would end the first one's broker: let it stop here.
                self._con.execute("PRAGMA locking_mode = EXCLUSIVE")
                self._con.execute("PRAGMA journal_mode = WAL")
                self._con.execute("PRAGMA synchronous = FULL")
                self._con.executescript(f"BEGIN;{SCHEMA}{quarantine_table.SCHEMA}COMMIT;")
                self._quarantine_bytes = quarantine_table.raw_bytes(self._con)
            except BaseException:
                self._con.close()
                raise
        self._mark_next = self._mark_noted = int(self.get("mark") or 0)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction, rolled back where the block raises."""
        with self._lock, _errors(self.path):
            self._con.execute("BEGIN IMMEDIATE")
            try:
                yield self._con
                self._con.execute("COMMIT")
            except BaseException:
                if self._con.in_transaction:
                    self._con.execute("ROLLBACK")
                raise

    def _ask(self, query: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        with self._lock, _errors(self.path):
            return self._con.execute(query, parameters).fetchall()

    def get(self, key: str) -> str | None:
        """A remembered word."""
        found = self._ask("SELECT value FROM meta WHERE key = ?", (key,))
        return found[0][0] if found else None

    def put(self, key: str, value: str) -> None:
        """Remember a word."""
        with self.transaction() as con:
            con.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def known(self, ids: Iterable[tuple[str, int, int]]) -> dict[tuple[str, int, int], int]:
        """The checksums of those batches that have a row."""
        found: dict[tuple[str, int, int], int] = {}
        with self._lock, _errors(self.path):
            for edge, epoch, seq in ids:
                row = self._con.execute(
                    "SELECT crc FROM ledger WHERE edge = ? AND epoch = ? AND seq = ?", (edge, epoch - HALF, seq - HALF)
                ).fetchone()
                if row is not None:
                    found[edge, epoch, seq] = row[0]
        return found

    def enter(
        self,
        entries: Sequence[Entry],
        latest: Mapping[tuple[str, str], Latest],
        write_no: int,
        marks: Sequence[int] = (),
    ) -> None:
        """Write the batches' rows, the newest values by (kit, channel) and the times of the write's marks; durable when
        it returns.
        """
        with self.transaction() as con:
            _enter(con, entries, write_no)
            _mark(con, [(t, write_no) for t in marks])
            con.executemany(
                "INSERT OR REPLACE INTO latest VALUES (?, ?, ?, ?, ?, ?)",
                [(*key, one.t, one.value, one.text, one.quality) for key, one in latest.items()],
            )
            con.execute("INSERT OR REPLACE INTO meta VALUES ('write', ?)", (str(write_no),))

    def latest(self) -> dict[tuple[str, str], Latest]:
        """The newest value of each (kit, channel)."""
        rows = self._ask("SELECT kit, channel, t, value, text, quality FROM latest")
        return {(kit, channel): Latest(*one) for kit, channel, *one in rows}

    def mark_number(self) -> int:
        """A number for a mark, never given twice: the mark of a write that failed may be in the database, and would
        vouch for another write that took its place. A block is noted before it is used, so that this outlasts a crash.
        """
        with self._lock:
            if self._mark_next == self._mark_noted:
                self.put("mark", str(self._mark_noted + MARK_BLOCK))
                self._mark_noted += MARK_BLOCK
            self._mark_next += 1
            return self._mark_next - 1

    def marks(self, t0: int, t1: int) -> dict[int, int]:
        """The marks that the database should have in a window: the number of the write by time."""
        return dict(self._ask("SELECT t, write_no FROM mark WHERE t >= ? AND t < ?", (t0, t1)))

    def marks_by_hour(self, hour_ns: int) -> dict[int, int]:
        """How many marks the database should have in each hour, by its first ns."""
        return dict(self._ask("SELECT t / ? * ? AS hour, count(*) FROM mark GROUP BY hour", (hour_ns, hour_ns)))

    def take_marks(self, times: Iterable[int]) -> None:
        """Marks that the database has of a write that was cut off: they belong to no row."""
        with self.transaction() as con:
            _mark(con, [(t, 0) for t in times])

    def drop_marks(self, before: int) -> None:
        """Expect no marks before this time any more."""
        with self.transaction() as con:
            con.execute("DELETE FROM mark WHERE t < ?", (before,))

    def forget_after(self, write_no: int) -> int:
        """Take out the rows of later writes, which the database does not have; how many."""
        with self.transaction() as con:
            count: int = con.execute("DELETE FROM ledger WHERE write_no > ?", (write_no,)).rowcount
            con.execute("DELETE FROM mark WHERE write_no > ?", (write_no,))
            # They may be of what is not there any more; the database is asked for what is.
            con.execute("DELETE FROM latest")
            con.execute("INSERT OR REPLACE INTO meta VALUES ('write', ?)", (str(write_no),))
        return count

    def forget_writes(self, numbers: Iterable[int]) -> int:
        """Take out the rows of these writes, of which the database has lost a part; how many."""
        count = 0
        with self.transaction() as con:
            for number in numbers:
                count += con.execute("DELETE FROM ledger WHERE write_no = ?", (number,)).rowcount
                con.execute("DELETE FROM mark WHERE write_no = ?", (number,))
            con.execute("DELETE FROM latest")
        return count

    def missing(self, edge: str, epoch: int, first: int, last: int) -> list[tuple[int, int]]:
        """See TelemetryStore.missing."""
        rows = self._ask(
            "SELECT seq FROM ledger WHERE edge = ? AND epoch = ? AND seq BETWEEN ? AND ? ORDER BY seq",
            (edge, epoch - HALF, first - HALF, last - HALF),
        )
        ranges: list[tuple[int, int]] = []
        expected = first
        for (seq,) in rows:
            if seq + HALF > expected:
                ranges.append((expected, seq + HALF - 1))
            expected = seq + HALF + 1
        if expected <= last:
            ranges.append((expected, last))
        return ranges

    def held(self) -> Held:
        """The ledger added up, with what was copied in and less what retention has deleted."""
        rows = self._ask("SELECT count(*), coalesce(sum(samples), 0), min(t_first), max(t_last) FROM ledger")
        batches, samples, first, last = rows[0]
        ((copied,),) = self._ask("SELECT coalesce(sum(samples), 0) FROM part")
        return Held(batches, samples + copied + int(self.get("other_samples") or 0), first, last)

    def kits(self) -> list[str]:
        """Kits with a batch in the ledger."""
        return [kit for (kit,) in self._ask("SELECT DISTINCT kit FROM ledger")]

    def ledger_days(self, kit: str, day_ns: int) -> dict[int, int]:
        """How many rows the kit has per day of `day_ns`, by when they were received."""
        query = "SELECT received_ns / ? * ?, count(*) FROM ledger WHERE kit = ? GROUP BY 1 ORDER BY 1"
        return dict(self._ask(query, (day_ns, day_ns, kit)))

    def ledger_rows(self, kit: str, t0: int, t1: int) -> list[tuple[Any, ...]]:
        """Rows received in the window: edge, epoch, seq, crc, stream, row_count, received_ns, clock."""
        rows = self._ask(
            "SELECT edge, epoch, seq, crc, stream, row_count, received_ns, clock_offset_ns, clock_uncertainty_ns "
            "FROM ledger WHERE kit = ? AND received_ns >= ? AND received_ns < ? ORDER BY received_ns",
            (kit, t0, t1),
        )
        return [(edge, epoch + HALF, seq + HALF, *rest) for edge, epoch, seq, *rest in rows]

    def has_part(self, part: str) -> bool:
        """Whether a copied part was taken."""
        return bool(self._ask("SELECT 1 FROM part WHERE id = ?", (part,)))

    def take_part(self, part: str, samples: int, entries: Sequence[Entry] = (), write_no: int = 0) -> None:
        """Note a copied part as taken, with the ledger rows in it."""
        with self.transaction() as con:
            con.execute("INSERT INTO part VALUES (?, ?)", (part, samples))
            _enter(con, entries, write_no)

    def keep(self, items: Sequence[Quarantine]) -> None:
        """Keep bytes aside."""
        with self.transaction() as con:
            total = quarantine_table.keep(con, items, self._quarantine_bytes)
        self._quarantine_bytes = total

    def kept(self, limit: int) -> list[QuarantinedBatch]:
        """What is kept aside, newest first."""
        with self._lock, _errors(self.path):
            return quarantine_table.listed(self._con, limit)

    def kept_counts(self) -> dict[str, int]:
        """How many batches came per reason."""
        with self._lock, _errors(self.path):
            return quarantine_table.counts(self._con)

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        with self._lock, _errors(self.path):
            self._con.close()

    def set_aside(self, name: str) -> Path:
        """Close the file and give it another name; where it is now."""
        self.close()
        aside = self.path.with_name(name)
        with _errors(self.path):
            # The log beside the file went with the close.
            self.path.replace(aside)
        return aside


def _mark(con: sqlite3.Connection, marks: Sequence[tuple[int, int]]) -> None:
    con.executemany("INSERT OR REPLACE INTO mark (t, write_no) VALUES (?, ?)", marks)
    con.execute("DELETE FROM mark WHERE place <= (SELECT max(place) FROM mark) - ?", (MARKS,))


def _enter(con: sqlite3.Connection, entries: Sequence[Entry], write_no: int) -> None:
    con.executemany(
        "INSERT OR IGNORE INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                one.edge,
                one.epoch - HALF,
                one.seq - HALF,
                one.crc,
                one.kit,
                one.stream,
                one.row_count,
                one.received_ns,
                one.clock_offset_ns,
                one.clock_uncertainty_ns,
                one.samples,
                one.t_first,
                one.t_last,
                write_no,
            )
            for one in entries
        ],
    )


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreUnavailable(f"{path}: {error}") from error
