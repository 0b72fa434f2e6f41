"""The embedded store's way in: receives decoded batches within a transaction, hands on tables to DuckDB.

What readers ask for all the time (series numbers, newest values) is kept in memory as well; it changes when the
transaction is committed, never before.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

import duckdb
import pyarrow as pa

from hub.store import duckdb_copy
from hub.store.base import ClockFact, DecodedBatch, DecodedGaps, Latest, Outcome, Record
from hub.store.columns import clock_facts, columns_of
from hub.store.ledger import first_of_each, outcomes
from lab_contract.batch import Gap

# `frames` are the samples of streams: of those nothing but a float32 is known, which takes a third less room.
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
CREATE TABLE IF NOT EXISTS frames (series INTEGER NOT NULL, t BIGINT NOT NULL, value FLOAT);
CREATE VIEW IF NOT EXISTS every_sample AS
    SELECT series, t, value::DOUBLE AS value, NULL::VARCHAR AS text, 0::UINTEGER AS quality, NULL::BIGINT AS t_server,
        NULL::BIGINT AS t_receipt, rowid AS n FROM frames
    UNION ALL SELECT series, t, value, text, quality, t_server, t_receipt, rowid FROM samples;
CREATE TABLE IF NOT EXISTS rollup_1s (
    series INTEGER NOT NULL, t BIGINT NOT NULL, n BIGINT NOT NULL, lo DOUBLE NOT NULL, hi DOUBLE NOT NULL,
    total DOUBLE NOT NULL);
CREATE TABLE IF NOT EXISTS latest (
    series INTEGER PRIMARY KEY, t BIGINT NOT NULL, value DOUBLE, text VARCHAR, quality UINTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS gaps (
    kit VARCHAR NOT NULL, stream VARCHAR NOT NULL, t_from BIGINT NOT NULL, t_to BIGINT NOT NULL,
    reason VARCHAR NOT NULL, count BIGINT);
CREATE TABLE IF NOT EXISTS clock (
    kit VARCHAR NOT NULL, t BIGINT NOT NULL, offset_ns BIGINT NOT NULL, uncertainty_ns BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS results (
    kit VARCHAR, workshop VARCHAR NOT NULL, task VARCHAR, kit_model VARCHAR NOT NULL, t BIGINT, score DOUBLE NOT NULL,
    passed BOOLEAN NOT NULL, duration_s DOUBLE NOT NULL, measures VARCHAR NOT NULL, PRIMARY KEY (kit, task, t));
CREATE TABLE IF NOT EXISTS parts (part VARCHAR PRIMARY KEY);
"""
SAMPLES_FROM = "samples_from_ns"
"""Key in `meta`: samples before it have been deleted."""


class Memory:
    """What is known of the file without asking it, and the writing that changes it.

    Each writing method returns its answer and what is to be called once the transaction is committed.
    """

    def __init__(self) -> None:
        self.store_id = ""
        self.samples_from: int | None = None
        self.series: dict[tuple[str, str], int] = {}
        self.latest: dict[str, dict[str, Latest]] = {}
        self.clock: dict[str, ClockFact] = {}
        self.samples = 0
        """Appended since the start."""
        self._channel_of: dict[int, tuple[str, str]] = {}

    def load(self, con: duckdb.DuckDBPyConnection) -> None:
        """Make what is missing in the file, and know what it has."""
        con.execute(SCHEMA)
        con.execute("INSERT OR IGNORE INTO meta VALUES ('store_id', $id)", {"id": secrets.token_hex(16)})
        meta = dict(con.execute("SELECT key, value FROM meta").fetchall())
        self.store_id = meta["store_id"]
        self.samples_from = int(meta[SAMPLES_FROM]) if SAMPLES_FROM in meta else None
        series = con.execute("SELECT kit, channel, id FROM series").fetchall()
        self.series = {(kit, channel): number for kit, channel, number in series}
        self._channel_of = {number: key for key, number in self.series.items()}
        latest: dict[str, dict[str, Latest]] = {}
        for number, *sample in con.execute("SELECT series, t, value, text, quality FROM latest").fetchall():
            kit, channel = self._channel_of[number]
            latest.setdefault(kit, {})[channel] = Latest(*sample)
        self.latest = latest
        self.clock = _newest_clock(con)

    def append(
        self, con: duckdb.DuckDBPyConnection, batches: Sequence[DecodedBatch]
    ) -> tuple[list[Outcome], Callable[[], None]]:
        """Write what is new of the batches: ledger, samples, roll-up, newest values, gaps, clock facts."""
        first = first_of_each(batches)
        known = self._enter_in_ledger(con, list(first.values()))
        fresh = [batch for key, batch in first.items() if key not in known]
        found = outcomes(batches, known)
        if not fresh:
            return found, nothing
        new_series: dict[tuple[str, str], int] = {}
        columns = columns_of(fresh, lambda kit, channel: self._number(kit, channel, new_series))
        if columns.count:
            self._write_series(con, new_series)
            for table, rows in (("frames", columns.frames), ("samples", columns.events), ("rollup_1s", columns.rollup)):
                if rows.num_rows:
                    _insert(con, table, rows)
            self._write_latest(con, columns.latest, new_series)
        gaps = [(batch.header.kit, gap) for batch in fresh if isinstance(batch, DecodedGaps) for gap in batch.gaps]
        if gaps:
            _insert(con, "gaps", _gap_rows(gaps))
        facts, newest = clock_facts(fresh, self.clock)
        if facts:
            _insert(con, "clock", _clock_rows(facts))

        def committed() -> None:
            self._remember(new_series, columns.latest)
            self.samples += columns.count
            self.clock = newest

        return found, committed

    def _number(self, kit: str, channel: str, new_series: dict[tuple[str, str], int]) -> int:
        key = (kit, channel)
        number = self.series.get(key)
        if number is None:
            number = new_series.setdefault(key, len(self.series) + len(new_series))
        return number

    @staticmethod
    def _write_series(con: duckdb.DuckDBPyConnection, new_series: dict[tuple[str, str], int]) -> None:
        if new_series:
            rows = [[number, kit, channel] for (kit, channel), number in new_series.items()]
            con.executemany("INSERT INTO series VALUES (?, ?, ?)", rows)

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
        self, con: duckdb.DuckDBPyConnection, rows: dict[int, Latest], new_series: dict[tuple[str, str], int]
    ) -> None:
        """Write the newest samples, and leave only those in `rows` that are newer than what is known."""
        channel_of = self._channel_of | {number: key for key, number in new_series.items()}
        for number in list(rows):
            kit, channel = channel_of[number]
            known = self.latest.get(kit, {}).get(channel)
            if known is not None and known.t > rows[number].t:
                del rows[number]
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

    def _remember(self, new_series: dict[tuple[str, str], int], latest: dict[int, Latest]) -> None:
        self.series |= new_series
        self._channel_of |= {number: key for key, number in new_series.items()}
        for number, sample in latest.items():
            kit, channel = self._channel_of[number]
            # A new mapping each time, so that a reader's copy is never half old and half new.
            self.latest[kit] = {**self.latest.get(kit, {}), channel: sample}

    def copy_in(
        self, con: duckdb.DuckDBPyConnection, record: Record, kit: str, part: str, rows: pa.RecordBatchReader
    ) -> tuple[bool, Callable[[], None]]:
        """Write what another store gave within the caller's transaction; False and what to do once committed."""
        entered = con.execute("INSERT INTO parts VALUES ($part) ON CONFLICT DO NOTHING RETURNING part", {"part": part})
        if not entered.fetchall():
            return False, nothing
        new_series: dict[tuple[str, str], int] = {}
        newest: dict[int, Latest] = {}
        duckdb_copy.copy_in(con, record, kit, rows, lambda channel: self._number(kit, channel, new_series), newest)
        self._write_series(con, new_series)
        self._write_latest(con, newest, new_series)
        clock = _newest_clock(con) if record is Record.CLOCK else self.clock

        def committed() -> None:
            self._remember(new_series, newest)
            self.clock = clock

        return True, committed


def nothing() -> None:
    """What is to be done once committed, where there is nothing."""


def _insert(con: duckdb.DuckDBPyConnection, into: str, incoming: pa.Table, verb: str = "INSERT") -> None:
    # `incoming` is read by its name; registering it as a view first would double the time of a small transaction.
    con.execute(f"{verb} INTO {into} SELECT * FROM incoming")  # noqa: S608 - the names are ours


def _newest_clock(con: duckdb.DuckDBPyConnection) -> dict[str, ClockFact]:
    rows = con.execute(
        "SELECT kit, t, offset_ns, uncertainty_ns FROM clock "
        "QUALIFY row_number() OVER (PARTITION BY kit ORDER BY t DESC, rowid DESC) = 1"
    ).fetchall()
    return {kit: ClockFact(*fact) for kit, *fact in rows}


def _gap_rows(gaps: Sequence[tuple[str, Gap]]) -> pa.Table:
    return pa.table(
        {
            "kit": pa.array([kit for kit, _ in gaps], pa.string()),
            "stream": pa.array([gap.stream for _, gap in gaps], pa.string()),
            "t_from": pa.array([gap.t_from for _, gap in gaps], pa.int64()),
            "t_to": pa.array([gap.t_to for _, gap in gaps], pa.int64()),
            "reason": pa.array([gap.reason.value for _, gap in gaps], pa.string()),
            "count": pa.array([gap.count for _, gap in gaps], pa.int64()),
        }
    )


def _clock_rows(facts: Sequence[tuple[str, ClockFact]]) -> pa.Table:
    return pa.table(
        {
            "kit": pa.array([kit for kit, _ in facts], pa.string()),
            "t": pa.array([fact.t for _, fact in facts], pa.int64()),
            "offset_ns": pa.array([fact.offset_ns for _, fact in facts], pa.int64()),
            "uncertainty_ns": pa.array([fact.uncertainty_ns for _, fact in facts], pa.int64()),
        }
    )
