"""The InfluxDB store's way in and out for copies: rows of each record as `hub/store/records.py` has them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from hub.store.base import DAY, Record, Result, StoreRefused
from hub.store.influx_client import Server
from hub.store.influx_lines import (
    LINES,
    clock_line,
    gap_line,
    result_line,
    rollup_line,
    sample_bodies,
)
from hub.store.influx_points import Book
from hub.store.influx_questions import counted, gaps, of, results, rows_of, within
from hub.store.influx_sidecar import Entry, Sidecar
from hub.store.records import SCHEMAS
from lab_contract.batch import Gap, GapReason

COUNTED = {
    Record.ROLLUP: ("rollup_1s", "n"),
    Record.CLOCK: ("clock", "offset"),
    Record.RESULTS: ("result", "score"),
}
EVER = (-(1 << 62), 1 << 62)


def kits(server: Server) -> list[str]:
    """Kits of which there is a point."""
    return [kit for _, kit in rows_of(server, 'SHOW TAG VALUES WITH KEY = "kit"')]


def days(server: Server, sidecar: Sidecar, record: Record, kit: str) -> dict[int, int]:
    """See TelemetryStore.days."""
    found: dict[int, int] = {}
    if record is Record.LEDGER:
        return sidecar.ledger_days(kit, DAY)
    if record is Record.GAPS:
        # A gap's point may stand in the next day.
        for gap in gaps(server, kit, *EVER):
            day = gap.t_from // DAY * DAY
            found[day] = found.get(day, 0) + 1
        return found
    bounds = f"{of(kit)} AND time >= 0 AND time < now() + 3650d"
    if record is Record.SAMPLES:
        for _, t, n in counted(server, bounds, "time(1d)"):
            found[t] = found.get(t, 0) + n
    else:
        measurement, name = COUNTED[record]
        query = f'SELECT count("{name}") FROM "{measurement}" WHERE {bounds} GROUP BY time(1d) fill(none)'  # noqa: S608
        for t, n in rows_of(server, query):
            found[t] = found.get(t, 0) + n
    return {t: n for t, n in sorted(found.items()) if n}


def copy_out(server: Server, sidecar: Sidecar, record: Record, kit: str, t0: int, t1: int) -> pa.RecordBatchReader:
    """See TelemetryStore.copy_out."""
    schema = SCHEMAS[record]
    if record in (Record.SAMPLES, Record.ROLLUP):
        return pa.RecordBatchReader.from_batches(schema, _by_channel(server, record, kit, t0, t1))
    rows: list[tuple[Any, ...]]
    match record:
        case Record.GAPS:
            rows = [
                (gap.stream, gap.t_from, gap.t_to, gap.reason.value, gap.count)
                for gap in gaps(server, kit, *EVER)
                if t0 <= gap.t_from < t1
            ]
        case Record.CLOCK:
            query = f'SELECT "offset", "uncertainty" FROM "clock" WHERE {of(kit)} AND {within(t0, t1)}'  # noqa: S608
            rows = [tuple(row) for row in rows_of(server, query)]
        case Record.RESULTS:
            rows = [
                (
                    one.workshop,
                    one.task,
                    one.kit_model,
                    one.t,
                    one.score,
                    one.passed,
                    one.duration_s,
                    json.dumps(dict(one.measures), ensure_ascii=False),
                )
                for one in results(server, kit, t0, t1)
            ]
        case _:
            rows = sidecar.ledger_rows(kit, t0, t1)
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(schema)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.RecordBatchReader.from_batches(schema, [pa.RecordBatch.from_arrays(arrays, schema=schema)])


def _by_channel(server: Server, record: Record, kit: str, t0: int, t1: int) -> Iterator[pa.RecordBatch]:
    names = '"v", "s", "q", "ts", "tr"' if record is Record.SAMPLES else '"n", "lo", "hi", "total"'
    measurement = "sample" if record is Record.SAMPLES else "rollup_1s"
    query = f'SELECT {names} FROM "{measurement}" WHERE {of(kit)} AND {within(t0, t1)} GROUP BY "channel"'  # noqa: S608
    schema = SCHEMAS[record]
    for series in server.stream(query):
        columns = [[series.tags["channel"]] * len(series.rows), *zip(*series.rows, strict=True)]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        if record is Record.SAMPLES:
            arrays[4] = arrays[4].fill_null(0)
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def copy_in(
    server: Server,
    sidecar: Sidecar,
    book: Book,
    record: Record,
    kit: str,
    part: str,
    rows: pa.RecordBatchReader,
    write_no: int,
) -> None:
    """Write rows and note the part as taken. A part that was cut off is written again, onto itself.

    Raises StoreRefused where they have other columns.
    """
    if rows.schema.names != SCHEMAS[record].names:
        raise StoreRefused(f"{record}: columns {rows.schema.names}, expected {SCHEMAS[record].names}")
    if record is Record.LEDGER:
        entries = [_entry(kit, row) for batch in rows for row in batch.to_pylist()]
        sidecar.take_part(part, 0, entries, write_no)
        return
    count = 0
    last = None
    for batch in rows:
        if record is Record.SAMPLES:
            table, twins, last = _samples(batch, book, kit, last)
            server.write_all(sample_bodies(table, book.series, twins))
            count += batch.num_rows
        else:
            lines = [MADE[record](kit, row) for row in batch.to_pylist() if not _there(server, record, kit, row)]
            server.write_all("".join(lines[i : i + LINES]).encode() for i in range(0, len(lines), LINES))
    sidecar.take_part(part, count)


Last = tuple[int, int, int] | None
"""Series, time and twin of the last row of the piece before."""


def _samples(batch: pa.RecordBatch, book: Book, kit: str, last: Last) -> tuple[pa.Table, np.ndarray, Last]:
    """Rows in order of channel and time, so that samples of one nanosecond stand one after the other."""
    channels = batch.column("channel").dictionary_encode()
    numbers = np.array([book.number(kit, channel) for channel in channels.dictionary.to_pylist()], dtype=np.int32)
    series = numbers[channels.indices.to_numpy()]
    t = batch.column("t").to_numpy()
    twins = np.zeros(len(t), dtype=np.int64)
    for row in np.flatnonzero(np.append(False, (series[1:] == series[:-1]) & (t[1:] == t[:-1]))).tolist():
        twins[row] = twins[row - 1] + 1
    if last is not None and len(t):
        row = 0
        while row < len(t) and (int(series[row]), int(t[row])) == last[:2]:
            twins[row] += last[2] + 1
            row += 1
    if len(t):
        last = int(series[-1]), int(t[-1]), int(twins[-1])
    table = pa.Table.from_batches([batch]).set_column(0, "series", pa.array(series))
    return table, twins, last


def _there(server: Server, record: Record, kit: str, row: dict[str, Any]) -> bool:
    """Whether the store has a result of its own in this one's place."""
    if record is not Record.RESULTS:
        return False
    return any(one.task == row["task"] for one in results(server, kit, row["t"], row["t"] + 1))


def _result(kit: str, row: dict[str, Any]) -> str:
    measures = json.loads(row["measures"])
    return result_line(Result(kit=kit, **{**row, "measures": measures}))


def _gap(kit: str, row: dict[str, Any]) -> str:
    return gap_line(kit, Gap(**{**row, "reason": GapReason(row["reason"])}))


MADE: dict[Record, Callable[[str, dict[str, Any]], str]] = {
    Record.ROLLUP: lambda kit, row: rollup_line(kit, **row),
    Record.GAPS: _gap,
    Record.CLOCK: lambda kit, row: clock_line(kit, **row),
    Record.RESULTS: _result,
}


def _entry(kit: str, row: dict[str, Any]) -> Entry:
    # Samples are counted where they are copied.
    return Entry(kit=kit, samples=0, t_first=None, t_last=None, **row)
