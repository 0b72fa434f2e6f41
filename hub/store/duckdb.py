"""The embedded store, a DuckDB file: receives decoded batches from ingest, answers the pages' and exports' questions.

One transaction an append: ledger rows (insert, ignore conflict), samples, 1 s roll-up partials, newest values. Samples
have neither primary key nor index: a key costs 54 instead of 9 bytes a sample and two thirds of the rate; the ledger
alone tells duplicates. No value is NULL, never NaN, which DuckDB counts as a maximum. One process only: the file is
locked.
"""

from __future__ import annotations

import secrets
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import numpy as np
import pyarrow as pa

from hub.store import quarantine_table
from hub.store.base import (
    SECOND,
    DecodedBatch,
    Latest,
    Outcome,
    Overview,
    Quarantine,
    QuarantinedBatch,
    StoreHealth,
    StoreMisconfigured,
    StoreRefused,
    StoreStats,
    StoreUnavailable,
)
from hub.store.columns import Columns, columns_of

T = TypeVar("T")

PREFIX = "duckdb:///"
CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": "256MB",
    "checkpoint_threshold": "64MB",
    # Nothing may be fetched from a network behind our back.
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}
REFUSALS = (duckdb.DataError, duckdb.IntegrityError, duckdb.InvalidInputException)
"""Errors of the data itself. Any other (no space, no memory, lost file) passes, and the batches must be kept for it."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key VARCHAR PRIMARY KEY, value VARCHAR NOT NULL);
CREATE TABLE IF NOT EXISTS ledger (
    edge VARCHAR, epoch UBIGINT, seq UBIGINT, crc UINTEGER NOT NULL, kit VARCHAR NOT NULL, stream VARCHAR NOT NULL,
    row_count INTEGER NOT NULL, received_ns BIGINT NOT NULL, clock_offset_ns BIGINT NOT NULL,
    clock_uncertainty_ns BIGINT NOT NULL, PRIMARY KEY (edge, epoch, seq));
CREATE TABLE IF NOT EXISTS series (id INTEGER PRIMARY KEY, kit VARCHAR NOT NULL, channel VARCHAR NOT NULL);
CREATE TABLE IF NOT EXISTS samples (
    series INTEGER NOT NULL, t BIGINT NOT NULL, value DOUBLE, text VARCHAR, quality UINTEGER NOT NULL,
    t_server BIGINT, t_receipt BIGINT);
CREATE TABLE IF NOT EXISTS rollup_1s (
    series INTEGER NOT NULL, t BIGINT NOT NULL, n BIGINT NOT NULL, lo DOUBLE NOT NULL, hi DOUBLE NOT NULL,
    total DOUBLE NOT NULL);
CREATE TABLE IF NOT EXISTS latest (
    series INTEGER PRIMARY KEY, t BIGINT NOT NULL, value DOUBLE, text VARCHAR, quality UINTEGER NOT NULL);
"""


class DuckdbStore:
    """A TelemetryStore in one DuckDB file. `append` and `quarantine` from one thread at a time, questions from any."""

    def __init__(self, url: str) -> None:
        if not url.startswith(PREFIX) or len(url) == len(PREFIX):
            raise StoreMisconfigured(f"store {url!r}: expected {PREFIX}FILE")
        self._path = Path(url[len(PREFIX) :])
        self._lock = threading.Lock()
        self._local = threading.local()
        self._generation = 0
        self._root: duckdb.DuckDBPyConnection | None = None
        self._writer: duckdb.DuckDBPyConnection | None = None
        self._cursors: weakref.WeakSet[duckdb.DuckDBPyConnection] = weakref.WeakSet()
        self._closed = False
        self._series: dict[tuple[str, str], int] = {}
        self._latest: dict[str, dict[str, Latest]] = {}
        self._channel_of: dict[int, tuple[str, str]] = {}
        self._store_id = ""
        self._quarantine_bytes = 0
        self._commits = self._samples = self._failures = 0
        self._trouble = ""
        self._write_connection()

    @property
    def store_id(self) -> str:
        """The random id made with the file."""
        return self._store_id

    def append(self, batches: Sequence[DecodedBatch]) -> list[Outcome]:
        """See TelemetryStore.append."""
        return self._transaction(lambda con: self._append(con, batches))

    def _append(
        self, con: duckdb.DuckDBPyConnection, batches: Sequence[DecodedBatch]
    ) -> tuple[list[Outcome], Callable[[], None]]:
        first: dict[tuple[str, int, int], DecodedBatch] = {}
        for batch in batches:
            first.setdefault(batch.header.id, batch)
        known = self._enter_in_ledger(con, list(first.values()))
        fresh = [batch for key, batch in first.items() if key not in known]
        outcomes: list[Outcome] = []
        stored = set(known)
        for batch in batches:
            key = batch.header.id
            if key not in stored:
                stored.add(key)
                outcomes.append(Outcome.STORED)
            else:
                same = known.get(key, first[key].header.crc) == batch.header.crc
                outcomes.append(Outcome.DUPLICATE if same else Outcome.CONFLICT)
        if not fresh:
            return outcomes, lambda: None
        new_series: dict[tuple[str, str], int] = {}

        def series_of(kit: str, channel: str) -> int:
            key = (kit, channel)
            number = self._series.get(key)
            if number is None:
                number = new_series.setdefault(key, len(self._series) + len(new_series))
            return number

        columns = columns_of(fresh, series_of)
        if new_series:
            rows = [[number, kit, channel] for (kit, channel), number in new_series.items()]
            con.executemany("INSERT INTO series VALUES (?, ?, ?)", rows)
        _insert(con, "samples", columns.samples)
        _insert(con, "rollup_1s", columns.rollup)
        self._write_latest(con, columns, new_series)

        def committed() -> None:
            self._remember(new_series, columns)

        return outcomes, committed

    def _enter_in_ledger(
        self, con: duckdb.DuckDBPyConnection, batches: list[DecodedBatch]
    ) -> dict[tuple[str, int, int], int]:
        """Write ledger rows; the crc of each id that was there before."""
        headers = [batch.header for batch in batches]
        # Named in the statements: the engine reads Arrow tables of the calling function by their names.
        incoming = pa.table(  # noqa: F841
            {
                "edge": pa.array([h.edge for h in headers], pa.string()),
                "epoch": pa.array([h.epoch for h in headers], pa.uint64()),
                "seq": pa.array([h.seq for h in headers], pa.uint64()),
                "crc": pa.array([h.crc for h in headers], pa.uint32()),
                "kit": pa.array([h.kit for h in headers], pa.string()),
                "stream": pa.array([h.stream for h in headers], pa.string()),
                "row_count": pa.array([h.rows for h in headers], pa.int32()),
                "received_ns": pa.array([b.received_ns for b in batches], pa.int64()),
                "clock_offset_ns": pa.array([h.clock_offset_ns for h in headers], pa.int64()),
                "clock_uncertainty_ns": pa.array([h.clock_uncertainty_ns for h in headers], pa.int64()),
            }
        )
        entered = con.execute(
            "INSERT INTO ledger SELECT * FROM incoming ON CONFLICT DO NOTHING RETURNING edge, epoch, seq"
        ).fetchall()
        if len(entered) == len(batches):
            return {}
        was_there = con.execute(
            "SELECT l.edge, l.epoch, l.seq, l.crc FROM ledger l JOIN incoming USING (edge, epoch, seq)"
        ).fetchall()
        new = set(entered)
        return {(edge, epoch, seq): crc for edge, epoch, seq, crc in was_there if (edge, epoch, seq) not in new}

    def _write_latest(
        self, con: duckdb.DuckDBPyConnection, columns: Columns, new_series: dict[tuple[str, str], int]
    ) -> None:
        channel_of = self._channel_of | {number: key for key, number in new_series.items()}
        for number in list(columns.latest):
            kit, channel = channel_of[number]
            known = self._latest.get(kit, {}).get(channel)
            if known is not None and known.t > columns.latest[number].t:
                del columns.latest[number]
        rows = columns.latest
        if rows:
            table = pa.table(
                {
                    "series": pa.array(rows.keys(), pa.int32()),
                    "t": pa.array([sample.t for sample in rows.values()], pa.int64()),
                    "value": pa.array([sample.value for sample in rows.values()], pa.float64()),
                    "text": pa.array([sample.text for sample in rows.values()], pa.string()),
                    "quality": pa.array([sample.quality for sample in rows.values()], pa.uint32()),
                }
            )
            _insert(con, "latest", table, "INSERT OR REPLACE")

    def _remember(self, new_series: dict[tuple[str, str], int], columns: Columns) -> None:
        self._series |= new_series
        self._channel_of |= {number: key for key, number in new_series.items()}
        for number, sample in columns.latest.items():
            kit, channel = self._channel_of[number]
            # A new mapping each time, so that a reader's copy is never half old and half new.
            self._latest[kit] = {**self._latest.get(kit, {}), channel: sample}
        self._samples += columns.samples.num_rows

    def channels(self, kit: str) -> list[str]:
        """See TelemetryStore.channels."""
        return sorted(channel for owner, channel in tuple(self._series) if owner == kit)

    def latest(self, kit: str) -> dict[str, Latest]:
        """See TelemetryStore.latest."""
        return dict(self._latest.get(kit, {}))

    def overview(self, kit: str, channels: Sequence[str], t0: int, t1: int, buckets: int) -> Overview:
        """See TelemetryStore.overview."""
        if t0 >= t1 or buckets <= 0:
            raise ValueError(f"expected t0 < t1 and buckets > 0, found {t0}, {t1}, {buckets}")
        width = -(-(t1 - t0) // buckets)
        from_rollup = width >= SECOND
        if from_rollup:
            width = -(-width // SECOND) * SECOND
            t0 = t0 // SECOND * SECOND
        count = -(-(t1 - t0) // width)
        end = t0 + count * width
        numbers = {channel: self._series[kit, channel] for channel in channels if (kit, channel) in self._series}
        result = {channel: (np.full(count, np.nan), np.full(count, np.nan)) for channel in channels}
        if numbers:
            table, lo, hi = ("rollup_1s", "lo", "hi") if from_rollup else ("samples", "value", "value")
            query = (
                f"SELECT series, (t - $t0) // $width AS bucket, min({lo}), max({hi}) FROM {table} "  # noqa: S608
                f"WHERE series IN {_numbers(numbers.values())} AND t >= $t0 AND t < $end "
                f"AND {lo} IS NOT NULL GROUP BY ALL"
            )
            found = self._ask(lambda con: con.execute(query, {"t0": t0, "end": end, "width": width}).fetchnumpy())
            series, bucket, low, high = found.values()
            for channel, number in numbers.items():
                mine = series == number
                result[channel][0][bucket[mine]] = low[mine]
                result[channel][1][bucket[mine]] = high[mine]
        return Overview(t0 + np.arange(count, dtype=np.int64) * width, width, result, from_rollup)

    def raw(self, kit: str, channels: Sequence[str], t0: int, t1: int) -> pa.RecordBatchReader:
        """See TelemetryStore.raw."""
        numbers = [self._series[kit, channel] for channel in channels if (kit, channel) in self._series]
        query = (
            "SELECT s.t, c.channel, s.value, s.text, s.quality FROM samples s JOIN series c ON c.id = s.series "  # noqa: S608
            f"WHERE s.series IN {_numbers(numbers)} AND s.t >= $t0 AND s.t < $t1 ORDER BY s.t, s.series"
        )
        with self._engine_errors():
            # A cursor of its own: the thread's cursor may be asked something else while this reader is read.
            cursor, _ = self._new_cursor()
            return cursor.sql(query, params={"t0": t0, "t1": t1}).to_arrow_reader(65_536)

    def stats(self) -> StoreStats:
        """See TelemetryStore.stats."""

        def count(con: duckdb.DuckDBPyConnection) -> StoreStats:
            samples, first, last = _row(con, "SELECT count(*), min(t), max(t) FROM samples")
            (batches,) = _row(con, "SELECT count(*) FROM ledger")
            files = (self._path, self._path.with_name(self._path.name + ".wal"))
            size = sum(file.stat().st_size for file in files if file.exists())
            return StoreStats(samples, len(self._series), batches, first, last, size)

        return self._ask(count)

    def quarantine(self, items: Sequence[Quarantine]) -> None:
        """See TelemetryStore.quarantine."""
        self._transaction(lambda con: self._quarantine(con, items))

    def _quarantine(
        self, con: duckdb.DuckDBPyConnection, items: Sequence[Quarantine]
    ) -> tuple[None, Callable[[], None]]:
        total = quarantine_table.keep(con, items, self._quarantine_bytes)

        def committed() -> None:
            self._quarantine_bytes = total

        return None, committed

    def quarantined(self, limit: int = 100) -> list[QuarantinedBatch]:
        """See TelemetryStore.quarantined."""
        return self._ask(lambda con: quarantine_table.listed(con, limit))

    def quarantine_counts(self) -> dict[str, int]:
        """See TelemetryStore.quarantine_counts."""
        return self._ask(quarantine_table.counts)

    def health(self) -> StoreHealth:
        """See TelemetryStore.health."""
        return StoreHealth(
            not self._trouble, self._trouble, self._store_id, self._commits, self._samples, self._failures
        )

    def close(self) -> None:
        """See TelemetryStore.close."""
        with self._lock:
            self._closed = True
            self._let_go()

    def _transaction(self, work: Callable[[duckdb.DuckDBPyConnection], tuple[T, Callable[[], None]]]) -> T:
        """Run `work` in a transaction, and what it returns second once that is committed."""
        try:
            con = self._write_connection()
            con.begin()
            result, committed = work(con)
            con.commit()
        except duckdb.Error as error:
            self._failures += 1
            self._roll_back()
            if isinstance(error, REFUSALS):
                raise StoreRefused(str(error)) from error
            self._trouble = _first_line(error)
            raise StoreUnavailable(self._trouble) from error
        except BaseException:
            self._roll_back()
            raise
        committed()
        self._commits += 1
        self._trouble = ""
        return result

    def _roll_back(self) -> None:
        writer = self._writer
        if writer is None:
            return
        try:
            writer.rollback()
        except duckdb.Error:
            # A fatal error (a full disk among them) invalidates the whole database object: only opening it anew helps,
            # and every connection must have been closed before.
            with self._lock:
                self._let_go()

    def _let_go(self) -> None:
        self._generation += 1
        # Readers' cursors too: while one is open the engine would give the same broken database again.
        for connection in (*self._cursors, self._writer, self._root):
            if connection is not None:
                connection.close()
        self._cursors.clear()
        self._writer = self._root = None

    def _write_connection(self) -> duckdb.DuckDBPyConnection:
        with self._lock:
            if self._closed:
                raise StoreUnavailable("the store is closed")
            if self._writer is None:
                with self._engine_errors():
                    self._open()
            writer = self._writer
        if writer is None:
            raise StoreUnavailable("the store is not open")
        return writer

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        root = duckdb.connect(self._path, config=CONFIG)
        root.execute(SCHEMA)
        root.execute("INSERT OR IGNORE INTO meta VALUES ('store_id', $id)", {"id": secrets.token_hex(16)})
        (self._store_id,) = _row(root, "SELECT value FROM meta WHERE key = 'store_id'")
        root.execute(quarantine_table.SCHEMA)
        self._quarantine_bytes = quarantine_table.raw_bytes(root)
        series = root.execute("SELECT kit, channel, id FROM series").fetchall()
        self._series = {(kit, channel): number for kit, channel, number in series}
        self._channel_of = {number: key for key, number in self._series.items()}
        latest: dict[str, dict[str, Latest]] = {}
        for number, *sample in root.execute("SELECT series, t, value, text, quality FROM latest").fetchall():
            kit, channel = self._channel_of[number]
            latest.setdefault(kit, {})[channel] = Latest(*sample)
        self._latest = latest
        self._root, self._writer = root, root.cursor()

    def _connection(self) -> duckdb.DuckDBPyConnection:
        """The calling thread's own cursor: one shared by threads would mix their answers."""
        if getattr(self._local, "generation", None) != self._generation:
            self._local.cursor, self._local.generation = self._new_cursor()
        cursor: duckdb.DuckDBPyConnection = self._local.cursor
        return cursor

    def _new_cursor(self) -> tuple[duckdb.DuckDBPyConnection, int]:
        with self._lock:
            if self._root is None:
                raise StoreUnavailable(self._trouble or "the store is closed")
            cursor = self._root.cursor()
            self._cursors.add(cursor)
            return cursor, self._generation

    def _ask(self, question: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        with self._engine_errors():
            return question(self._connection())

    @contextmanager
    def _engine_errors(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            raise StoreUnavailable(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _numbers(series: Iterable[int]) -> str:
    # Written out, not bound: only constants let the engine skip row groups. -1 is no series.
    return "(" + ", ".join(str(number) for number in (-1, *series)) + ")"


def _insert(con: duckdb.DuckDBPyConnection, into: str, incoming: pa.Table, verb: str = "INSERT") -> None:
    # `incoming` is read by its name; registering it as a view first would double the time of a small transaction.
    con.execute(f"{verb} INTO {into} SELECT * FROM incoming")  # noqa: S608 - the names are ours


def _row(con: duckdb.DuckDBPyConnection, query: str, parameters: dict[str, Any] | None = None) -> tuple[Any, ...]:
    row = con.execute(query, parameters or {}).fetchone()
    if row is None:
        raise StoreUnavailable(f"no answer to {query!r}")
    return tuple(row)
