"""The embedded store's way in and out for copies: rows of each record as `hub/store/records.py` has them.

The text of a statement is put together from names of ours and series numbers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hub.store.base import DAY, Latest, Record, StoreRefused
from hub.store.duckdb_questions import of_series
from hub.store.records import SCHEMAS, TIMES

TABLES = {
    Record.SAMPLES: "every_sample",
    Record.ROLLUP: "rollup_1s",
    Record.GAPS: "gaps",
    Record.CLOCK: "clock",
    Record.RESULTS: "results",
    Record.LEDGER: "ledger",
}
BY_SERIES = {Record.SAMPLES, Record.ROLLUP}
SELECTS = {
    Record.SAMPLES: (
        "SELECT c.channel, s.t, s.value, s.text, s.quality, s.t_server, s.t_receipt "
        "FROM every_sample s JOIN series c ON c.id = s.series WHERE {mine} ORDER BY c.channel, s.t, s.n"
    ),
    Record.ROLLUP: (
        "SELECT c.channel, s.t, sum(s.n)::BIGINT AS n, min(s.lo) AS lo, max(s.hi) AS hi, sum(s.total) AS total "
        "FROM rollup_1s s JOIN series c ON c.id = s.series WHERE {mine} GROUP BY ALL ORDER BY c.channel, s.t"
    ),
    Record.GAPS: "SELECT stream, t_from, t_to, reason, count FROM gaps s WHERE {mine} ORDER BY t_from, rowid",
    Record.CLOCK: "SELECT t, offset_ns, uncertainty_ns FROM clock s WHERE {mine} ORDER BY t, rowid",
    Record.RESULTS: (
        "SELECT workshop, task, kit_model, t, score, passed, duration_s, measures "
        "FROM results s WHERE {mine} ORDER BY t, task"
    ),
    Record.LEDGER: (
        "SELECT edge, epoch, seq, crc, stream, row_count, received_ns, clock_offset_ns, clock_uncertainty_ns "
        "FROM ledger s WHERE {mine} ORDER BY edge, epoch, seq"
    ),
}
INSERTS = {
    Record.GAPS: "INSERT INTO gaps BY NAME SELECT $kit AS kit, * FROM incoming",
    Record.CLOCK: "INSERT INTO clock BY NAME SELECT $kit AS kit, * FROM incoming",
    Record.RESULTS: "INSERT INTO results BY NAME SELECT $kit AS kit, * FROM incoming ON CONFLICT DO NOTHING",
    Record.LEDGER: (
        "INSERT INTO ledger BY NAME SELECT $kit AS kit, * REPLACE (coalesce(clock_offset_ns, 0) AS clock_offset_ns, "
        "coalesce(clock_uncertainty_ns, -1) AS clock_uncertainty_ns) FROM incoming ON CONFLICT DO NOTHING"
    ),
}
BATCH_ROWS = 131_072
"""More than one row group of the engine, so that large parts go past its log."""


def days(con: duckdb.DuckDBPyConnection, record: Record, kit: str, numbers: Iterable[int]) -> dict[int, int]:
    """See TelemetryStore.days; `numbers` are those of the kit's series."""
    time = TIMES[record]
    # A second may have several partials in the roll-up, which are one row to everybody else.
    count = "count(DISTINCT (series, t))" if record is Record.ROLLUP else "count(*)"
    query = (
        f"SELECT s.{time} // {DAY} * {DAY} AS day, {count} FROM {TABLES[record]} s "  # noqa: S608
        f"WHERE {_mine(record, numbers)} GROUP BY day ORDER BY day"
    )
    return {int(day): int(n) for day, n in con.execute(query, _bound(record, kit)).fetchall()}


def copy_out(record: Record, kit: str, numbers: Iterable[int], t0: int, t1: int) -> tuple[str, dict[str, str | int]]:
    """The statement of TelemetryStore.copy_out and what is bound to it."""
    time = TIMES[record]
    mine = f"{_mine(record, numbers)} AND s.{time} >= $t0 AND s.{time} < $t1"
    return SELECTS[record].format(mine=mine), {**_bound(record, kit), "t0": t0, "t1": t1}


def copy_in(
    con: duckdb.DuckDBPyConnection,
    record: Record,
    kit: str,
    rows: pa.RecordBatchReader,
    series_of: Callable[[str], int],
    newest: dict[int, Latest],
) -> None:
    """Write rows within the caller's transaction; `newest` gets the newest sample of each series among them.

    Raises StoreRefused where they have other columns.
    """
    if rows.schema.names != SCHEMAS[record].names:
        raise StoreRefused(f"{record}: columns {rows.schema.names}, expected {SCHEMAS[record].names}")
    for incoming in _gathered(rows):
        if record not in BY_SERIES:
            con.execute(INSERTS[record], {"kit": kit})
            continue
        channels = incoming["channel"].combine_chunks().dictionary_encode()
        numbers = np.array([series_of(channel) for channel in channels.dictionary.to_pylist()], dtype=np.int32)
        series = numbers[channels.indices.to_numpy()]
        incoming = incoming.set_column(0, "series", pa.array(series))
        if record is Record.ROLLUP:
            con.execute("INSERT INTO rollup_1s BY NAME SELECT * FROM incoming")
            continue
        plain = _plain(incoming, channels.indices.to_numpy())
        streams, changes = incoming.filter(pa.array(plain)), incoming.filter(pa.array(~plain))
        if streams.num_rows:
            con.execute("INSERT INTO frames SELECT series, t, value::FLOAT FROM streams")
        if changes.num_rows:
            con.execute("INSERT INTO samples BY NAME SELECT * FROM changes")
        _find_newest(series, incoming, newest)


def _plain(rows: pa.Table, channel: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which rows belong to a channel of which all rows fit into `frames` unchanged."""
    value = rows["value"].to_numpy(zero_copy_only=False)
    same = (value.astype(np.float32).astype(np.float64) == value) | np.isnan(value)
    more = np.zeros(len(same), dtype=bool)
    for name in ("text", "t_server", "t_receipt"):
        more |= rows[name].is_valid().to_numpy()
    fits = same & ~more & (rows["quality"].to_numpy() == 0)
    return np.bincount(channel, weights=~fits)[channel] == 0


def _find_newest(series: NDArray[np.int32], rows: pa.Table, newest: dict[int, Latest]) -> None:
    t = rows["t"].to_numpy()
    order = np.lexsort((t, series))
    ends = np.flatnonzero(np.append(series[order][1:] != series[order][:-1], True))
    for place in order[ends].tolist():
        known = newest.get(int(series[place]))
        if known is None or t[place] >= known.t:
            value, text, quality = (rows[name][place].as_py() for name in ("value", "text", "quality"))
            newest[int(series[place])] = Latest(int(t[place]), value, text, quality)


def _gathered(rows: pa.RecordBatchReader) -> Iterator[pa.Table]:
    waiting: list[pa.RecordBatch] = []
    for batch in rows:
        waiting.append(batch)
        if sum(one.num_rows for one in waiting) >= BATCH_ROWS:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting)


def _mine(record: Record, numbers: Iterable[int]) -> str:
    return of_series(numbers, "s.series") if record in BY_SERIES else "s.kit = $kit"


def _bound(record: Record, kit: str) -> Mapping[str, str]:
    return {} if record in BY_SERIES else {"kit": kit}
