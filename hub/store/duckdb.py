"""The embedded store, a DuckDB file: receives decoded batches from ingest, answers the pages' and exports' questions.

One transaction an append: ledger rows (insert, ignore conflict), samples, 1 s roll-up partials, newest values, gaps,
clock facts. Samples have neither primary key nor index: a key costs 54 instead of 9 bytes a sample and two thirds of
the rate; the ledger alone tells duplicates. No value is NULL, never NaN, which DuckDB counts as a maximum.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from hub.store import duckdb_copy, duckdb_questions, quarantine_table
from hub.store.base import (
    DAY,
    SECOND,
    ClockFact,
    DecodedBatch,
    ExportFormat,
    Latest,
    Outcome,
    Overview,
    Quarantine,
    QuarantinedBatch,
    Record,
    Result,
    State,
    Statistics,
    StoreFacts,
    StoreHealth,
    StoreMisconfigured,
    StoreStats,
)
from hub.store.duckdb_append import SAMPLES_FROM, Memory, nothing
from hub.store.duckdb_engine import Engine, row
from hub.store.export import write_file
from hub.store.records import RAW, SCHEMAS
from lab_contract.batch import Gap

PREFIX = "duckdb:///"
COUNTED = (
    "SELECT sum(n)::BIGINT, min(a), max(z) FROM (SELECT count(*) AS n, min(t) AS a, max(t) AS z FROM frames "
    "UNION ALL SELECT count(*), min(t), max(t) FROM samples)"
)
RAW_ROWS = 65_536
"""Of a batch of `raw`."""


class DuckdbStore:
    """A TelemetryStore in one DuckDB file."""

    def __init__(self, url: str) -> None:
        if not url.startswith(PREFIX) or len(url) == len(PREFIX):
            raise StoreMisconfigured(f"store {url!r}: expected {PREFIX}FILE")
        self._memory = Memory()
        self._quarantine_bytes = 0
        self._engine = Engine(Path(url[len(PREFIX) :]), self._opened)

    def _opened(self, con: duckdb.DuckDBPyConnection) -> None:
        self._memory.load(con)
        con.execute(quarantine_table.SCHEMA)
        self._quarantine_bytes = quarantine_table.raw_bytes(con)

    @property
    def store_id(self) -> str:
        """The random id made with the file."""
        return self._memory.store_id

    def append(self, batches: Sequence[DecodedBatch]) -> list[Outcome]:
        """See TelemetryStore.append."""
        return self._engine.transaction(lambda con: self._memory.append(con, batches))

    def channels(self, kit: str) -> list[str]:
        """See TelemetryStore.channels."""
        return sorted(channel for owner, channel in tuple(self._memory.series) if owner == kit)

    def latest(self, kit: str) -> dict[str, Latest]:
        """See TelemetryStore.latest."""
        return dict(self._memory.latest.get(kit, {}))

    def overview(
        self, kit: str, channels: Sequence[str], t0: int, t1: int, buckets: int, *, from_rollup: bool | None = None
    ) -> Overview:
        """See TelemetryStore.overview."""
        numbers = {channel: self._memory.series.get((kit, channel)) for channel in channels}
        return self._engine.ask(
            lambda con: duckdb_questions.overview(con, numbers, t0, t1, buckets, from_rollup, self._memory.samples_from)
        )

    def raw(self, kit: str, channels: Sequence[str], t0: int, t1: int) -> pa.RecordBatchReader:
        """See TelemetryStore.raw."""
        query = duckdb_questions.raw(self._numbers(kit, channels).values())
        return self._engine.stream(query, {"t0": t0, "t1": t1}, RAW, RAW_ROWS)

    def states(self, kit: str, channel: str, t0: int, t1: int) -> list[State]:
        """See TelemetryStore.states."""
        number = self._memory.series.get((kit, channel))
        if number is None:
            return []
        return self._engine.ask(lambda con: duckdb_questions.states(con, number, t0, t1))

    def statistics(self, kit: str, channels: Sequence[str], t0: int, t1: int) -> dict[str, Statistics]:
        """See TelemetryStore.statistics."""
        numbers = self._numbers(kit, channels)
        return self._engine.ask(
            lambda con: duckdb_questions.statistics(con, numbers, t0, t1, self._memory.samples_from)
        )

    def gaps(self, kit: str, t0: int, t1: int) -> list[Gap]:
        """See TelemetryStore.gaps."""
        return self._engine.ask(lambda con: duckdb_questions.gaps(con, kit, t0, t1))

    def clock(self, kit: str, t0: int, t1: int) -> list[ClockFact]:
        """See TelemetryStore.clock."""
        return self._engine.ask(lambda con: duckdb_questions.clock(con, kit, t0, t1))

    def missing(self, edge: str, epoch: int, first: int, last: int) -> list[tuple[int, int]]:
        """See TelemetryStore.missing."""
        return self._engine.ask(lambda con: duckdb_questions.missing(con, edge, epoch, first, last))

    def audit(self) -> int:
        """See TelemetryStore.audit; samples and ledger are of one transaction here."""
        return 0

    def put_results(self, results: Sequence[Result]) -> None:
        """See TelemetryStore.put_results."""
        rows = [_result_row(result) for result in results]
        if rows:
            self._engine.transaction(
                lambda con: (
                    con.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows),
                    nothing,
                )
            )

    def results(self, kit: str, t0: int, t1: int) -> list[Result]:
        """See TelemetryStore.results."""
        query = (
            "SELECT kit, workshop, task, kit_model, t, score, passed, duration_s, measures FROM results "
            "WHERE kit = $kit AND t >= $t0 AND t < $t1 ORDER BY t, task"
        )
        rows = self._engine.ask(lambda con: con.execute(query, {"kit": kit, "t0": t0, "t1": t1}).fetchall())
        return [Result(*rest, measures=json.loads(measures)) for *rest, measures in rows]

    def export(self, kit: str, channels: Sequence[str], t0: int, t1: int, kind: ExportFormat, destination: Path) -> int:
        """See TelemetryStore.export."""
        return write_file(self.raw(kit, channels, t0, t1), kind, destination)

    def apply_retention(self, before_ns: int) -> int:
        """See TelemetryStore.apply_retention. A day a transaction, so that ingest never waits for long.

        The room goes to new samples: the file stops growing, it does not shrink.
        """
        before = before_ns // SECOND * SECOND
        if before <= (self._memory.samples_from or 0):
            return 0
        deleted = sum(self._delete_from(table, before) for table in ("frames", "samples"))
        if deleted:
            self._engine.checkpoint()
        return deleted

    def _delete_from(self, table: str, before: int) -> int:
        query = (
            "SELECT min(t), list(last) FROM (SELECT min(t) AS t, arg_max(rowid, (t, rowid)) AS last "  # noqa: S608
            f"FROM {table} WHERE t < $before GROUP BY series)"
        )
        first, kept = self._engine.ask(lambda con: row(con, query, {"before": before}))
        deleted = 0
        while first is not None and first < before:
            end = min(before, (first // DAY + 1) * DAY)
            deleted += self._engine.transaction(lambda con, end=end: self._delete(con, table, end, before, kept))
            first = end
        return deleted

    def _delete(
        self, con: duckdb.DuckDBPyConnection, table: str, end: int, before: int, kept: list[int]
    ) -> tuple[int, Callable[[], None]]:
        # The mark first: from then on readers take the roll-up for what is being deleted.
        con.execute("INSERT OR REPLACE INTO meta VALUES ($key, $value)", {"key": SAMPLES_FROM, "value": str(before)})
        query = f"DELETE FROM {table} WHERE t < $end AND NOT list_contains($kept::BIGINT[], rowid)"  # noqa: S608
        (deleted,) = row(con, query, {"end": end, "kept": kept})

        def committed() -> None:
            self._memory.samples_from = before

        return int(deleted), committed

    def stats(self) -> StoreStats:
        """See TelemetryStore.stats."""

        def count(con: duckdb.DuckDBPyConnection) -> StoreStats:
            samples, first, last = row(con, COUNTED)
            (batches,) = row(con, "SELECT count(*) FROM ledger")
            return StoreStats(samples, len(self._memory.series), batches, first, last, self._bytes())

        return self._engine.ask(count)

    def _bytes(self) -> int:
        path = self._engine.path
        return sum(file.stat().st_size for file in (path, path.with_name(path.name + ".wal")) if file.exists())

    def facts(self) -> StoreFacts:
        """See TelemetryStore.facts."""
        path = self._engine.path
        (version,) = self._engine.ask(lambda con: row(con, "SELECT library_version FROM pragma_version()"))
        writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
        return StoreFacts(
            engine="DuckDB",
            version=str(version).removeprefix("v"),
            write_path=str(path),
            permissions="read and write" if writable else "read only",
            retention="by the hub, as retention_days says",
            detail=f"{self._bytes()} bytes on disk",
            samples_from_ns=self._memory.samples_from,
        )

    def kits(self) -> list[str]:
        """See TelemetryStore.kits."""
        query = "SELECT kit FROM series UNION SELECT kit FROM gaps UNION SELECT kit FROM results UNION SELECT kit "
        query += "FROM ledger ORDER BY kit"
        return [kit for (kit,) in self._engine.ask(lambda con: con.execute(query).fetchall())]

    def days(self, record: Record, kit: str) -> dict[int, int]:
        """See TelemetryStore.days."""
        numbers = self._numbers(kit, self.channels(kit)).values()
        return self._engine.ask(lambda con: duckdb_copy.days(con, record, kit, numbers))

    def copy_out(self, record: Record, kit: str, t0: int, t1: int) -> pa.RecordBatchReader:
        """See TelemetryStore.copy_out."""
        numbers = self._numbers(kit, self.channels(kit)).values()
        query, parameters = duckdb_copy.copy_out(record, kit, numbers, t0, t1)
        return self._engine.stream(query, parameters, SCHEMAS[record], duckdb_copy.BATCH_ROWS)

    def copy_in(self, record: Record, kit: str, part: str, rows: pa.RecordBatchReader) -> bool:
        """See TelemetryStore.copy_in."""
        return self._engine.transaction(lambda con: self._memory.copy_in(con, record, kit, part, rows))

    def has_part(self, part: str) -> bool:
        """See TelemetryStore.has_part."""
        query = "SELECT count(*) FROM parts WHERE part = $part"
        return self._engine.ask(lambda con: row(con, query, {"part": part})) == (1,)

    def adopt(self, store_id: str) -> None:
        """See TelemetryStore.adopt."""

        def work(con: duckdb.DuckDBPyConnection) -> tuple[None, Callable[[], None]]:
            con.execute("INSERT OR REPLACE INTO meta VALUES ('store_id', $id)", {"id": store_id})

            def committed() -> None:
                self._memory.store_id = store_id

            return None, committed

        self._engine.transaction(work)

    def quarantine(self, items: Sequence[Quarantine]) -> None:
        """See TelemetryStore.quarantine."""
        self._engine.transaction(lambda con: self._quarantine(con, items))

    def _quarantine(
        self, con: duckdb.DuckDBPyConnection, items: Sequence[Quarantine]
    ) -> tuple[None, Callable[[], None]]:
        total = quarantine_table.keep(con, items, self._quarantine_bytes)

        def committed() -> None:
            self._quarantine_bytes = total

        return None, committed

    def quarantined(self, limit: int = 100) -> list[QuarantinedBatch]:
        """See TelemetryStore.quarantined."""
        return self._engine.ask(lambda con: quarantine_table.listed(con, limit))

    def quarantine_counts(self) -> dict[str, int]:
        """See TelemetryStore.quarantine_counts."""
        return self._engine.ask(quarantine_table.counts)

    def health(self) -> StoreHealth:
        """See TelemetryStore.health."""
        engine = self._engine
        return StoreHealth(
            not engine.trouble,
            engine.trouble,
            self._memory.store_id,
            engine.commits,
            self._memory.samples,
            engine.failures,
        )

    def close(self) -> None:
        """See TelemetryStore.close."""
        self._engine.close()

    def _numbers(self, kit: str, channels: Sequence[str]) -> dict[str, int]:
        return {
            channel: self._memory.series[kit, channel] for channel in channels if (kit, channel) in self._memory.series
        }


def _result_row(result: Result) -> list[object]:
    result.check()
    return [
        result.kit,
        result.workshop,
        result.task,
        result.kit_model,
        result.t,
        result.score,
        result.passed,
        result.duration_s,
        json.dumps(dict(result.measures), ensure_ascii=False),
    ]
