"""The InfluxDB store's questions: receives the server and what is asked, hands on what the seam tells.

InfluxQL, as 1.6 to 3.x all speak it; what can be added up or picked out is added up and picked out by the server.
Conditions on time are half open, identifiers and texts quoted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.csv

from hub.store.base import ClockFact, Latest, Overview, Result, State, Statistics
from hub.store.influx_client import Server
from hub.store.influx_lines import GAP_SPREAD_NS, literal
from hub.store.influx_points import Second, Stored
from hub.store.records import RAW
from hub.store.windows import buckets_of, changes, left_by_retention, whole_seconds
from lab_contract.batch import Gap, GapReason

READ_NUMBERS = pyarrow.csv.ReadOptions(column_names=["t", "channel", "value", "quality", "text"], use_threads=False)
CONVERT_NUMBERS = pyarrow.csv.ConvertOptions(
    column_types={"t": pa.int64(), "channel": pa.string(), "value": pa.float64(), "quality": pa.uint32()},
    include_columns=["t", "channel", "value", "quality"],
    null_values=["null"],
)
EARLIEST_NS, LATEST_NS = -9_223_372_036_854_775_806, 9_223_372_036_854_775_806
"""The times InfluxQL knows."""


def within(t0: int, t1: int) -> str:
    """The condition t0 <= time < t1."""
    return f"time >= {max(t0, EARLIEST_NS)} AND time < {min(t1, LATEST_NS)}"


def of(kit: str, channels: Iterable[str] | None = None) -> str:
    """The condition of a kit and, where given, its channels."""
    condition = f'"kit" = {literal(kit)}'
    if channels is not None:
        condition += " AND (" + " OR ".join(f'"channel" = {literal(channel)}' for channel in channels) + ")"
    return condition


def stored(server: Server, kit: str, channels: Sequence[str], t0: int, t1: int) -> Iterator[Stored]:
    """Points in the database."""
    query = (
        'SELECT "v", "q", "s", "ts", "tr" FROM "sample" '  # noqa: S608
        f'WHERE {of(kit, channels)} AND {within(t0, t1)} GROUP BY "channel", "twin"'
    )
    for series in server.stream(query):
        twin = int(series.tags.get("twin") or 0)
        for t, value, quality, text, t_server, t_receipt in series.rows:
            yield Stored(series.tags["channel"], t, twin, (value, quality or 0, text, t_server, t_receipt))


def newest(server: Server) -> Iterator[tuple[str, str, Latest]]:
    """The newest sample of every channel of every kit."""
    query = 'SELECT "v", "q", "s" FROM "sample" GROUP BY "kit", "channel", "twin" ORDER BY time DESC LIMIT 1'
    found: dict[tuple[str, str], tuple[int, int, Latest]] = {}
    for series in server.stream(query, patient=True):
        key = series.tags["kit"], series.tags["channel"]
        twin = int(series.tags.get("twin") or 0)
        for t, value, quality, text in series.rows:
            # Of several in one nanosecond the last one written is the newest.
            if key not in found or (t, twin) > found[key][:2]:
                found[key] = t, twin, Latest(t, _number(value), text, quality or 0)
    for (kit, channel), (_, _, latest) in found.items():
        yield kit, channel, latest


def seconds(server: Server, kit: str, channels: Sequence[str], t0: int, t1: int) -> Iterator[tuple[str, Second]]:
    """The roll-up of whole seconds, computed from the samples."""
    query = (
        'SELECT count("v"), min("v"), max("v"), sum("v") FROM "sample" '  # noqa: S608
        f'WHERE {of(kit, channels)} AND {within(t0, t1)} GROUP BY time(1s), "channel" fill(none)'
    )
    for series in server.stream(query):
        for t, n, lo, hi, total in series.rows:
            if n:
                yield series.tags["channel"], Second(t, n, float(lo), float(hi), float(total))


def overview(
    server: Server,
    kit: str,
    channels: Sequence[str],
    t0: int,
    t1: int,
    buckets: int,
    from_rollup: bool | None,
    samples_from: int | None,
) -> Overview:
    """See TelemetryStore.overview."""
    grid = buckets_of(t0, t1, buckets, from_rollup, samples_from)
    result = grid.empty(channels)
    if channels:
        measurement, lo, hi = ("rollup_1s", "lo", "hi") if grid.from_rollup else ("sample", "v", "v")
        query = (
            f'SELECT min("{lo}"), max("{hi}") FROM "{measurement}" '  # noqa: S608
            f"WHERE {of(kit, channels)} AND {within(grid.t0, grid.end)} "
            f'GROUP BY time({grid.width}ns, {grid.t0 % grid.width}ns), "channel" fill(none)'
        )
        for series in server.stream(query):
            low, high = result[series.tags["channel"]]
            for t, least, greatest in series.rows:
                place = (t - grid.t0) // grid.width
                low[place], high[place] = least, greatest
    return grid.overview(result)


def raw(server: Server, kit: str, channels: Sequence[str], t0: int, t1: int) -> pa.RecordBatchReader:
    """See TelemetryStore.raw."""
    if not channels or t0 >= t1:
        return pa.RecordBatchReader.from_batches(RAW, [])
    # The text last: see _numbers_alone.
    query = (
        'SELECT "channel", "v", "q", "s" FROM "sample" '  # noqa: S608
        f"WHERE {of(kit, channels)} AND {within(t0, t1)}"
    )
    answer = server.documents(query)
    # The first piece is asked for now, so that a server that is away is known before anything is read.
    first = next(answer, None)

    def batches() -> Iterator[pa.RecordBatch]:
        piece = first
        while piece is not None:
            yield from _raw_batches(server, piece)
            piece = next(answer, None)

    return pa.RecordBatchReader.from_batches(RAW, batches())


def _raw_batches(server: Server, document: bytes) -> list[pa.RecordBatch]:
    columns = _numbers_alone(document)
    if columns is not None:
        t, channel, value, quality = columns
        text = pa.nulls(len(t), pa.string())
        return [pa.RecordBatch.from_arrays([t, channel, value, text, quality.fill_null(0)], schema=RAW)]
    found: list[pa.RecordBatch] = []
    for series in server.series(document):
        t, channel, value, quality, text = zip(*series.rows, strict=True)
        arrays = [
            pa.array(t, pa.int64()),
            pa.array(channel, pa.string()),
            pa.array(value, pa.float64()),
            pa.array(text, pa.string()),
            pa.array(quality, pa.uint32()).fill_null(0),
        ]
        found.append(pa.RecordBatch.from_arrays(arrays, schema=RAW))
    return found


def _numbers_alone(document: bytes) -> list[pa.Array] | None:
    """Time, channel, value and quality of a document in which no row has a text; None where one may have.

    Such rows are lines of numbers and channel ids between brackets, which Arrow reads several times as fast as Python
    reads JSON. Every row ends with a null in place of its text; with a text in any of them the counts differ.
    """
    head, found, rest = document.partition(b'"values":[[')
    rows, end, tail = rest.rpartition(b"]]")
    if not found or not end or b"[[" in rows or not rows.endswith(b",null") or b"values" in tail:
        return None
    if rows.count(b"],[") != rows.count(b",null],[") or b"error" in tail or b"error" in head:
        return None
    table = pyarrow.csv.read_csv(
        pa.py_buffer(rows.replace(b"],[", b"\n")), READ_NUMBERS, convert_options=CONVERT_NUMBERS
    ).combine_chunks()
    return [table[name].combine_chunks() for name in ("t", "channel", "value", "quality")]


def states(server: Server, kit: str, channel: str, t0: int, t1: int) -> list[State]:
    """See TelemetryStore.states."""
    # The quality too: a row of which every field that is asked for is missing would not come at all.
    columns = f'SELECT "v", "s", "q", "twin" FROM "sample" WHERE {of(kit, [channel])}'  # noqa: S608
    before = rows_of(server, f"{columns} AND time < {t0} ORDER BY time DESC LIMIT 1")
    if before:
        # Of several in that nanosecond the last one written holds.
        before = rows_of(server, f"{columns} AND time = {before[0][0]}")
    rows = [*before, *rows_of(server, f"{columns} AND {within(t0, t1)}")]
    rows.sort(key=lambda row: (row[0], int(row[4] or 0)))
    held = list({t: (t, _number(value), text) for t, value, text, *_ in rows}.values())
    runs = held[:1] + [later for former, later in pairwise(held) if former[1:] != later[1:]]
    ends = [t for t, _, _ in runs[1:]] + [t1] * bool(runs)
    return [
        State(max(t, t0), end, value, text)
        for (t, value, text), end in zip(runs, ends, strict=True)
        if end > max(t, t0)
    ]


def statistics(
    server: Server, kit: str, channels: Sequence[str], t0: int, t1: int, samples_from: int | None
) -> dict[str, Statistics]:
    """See TelemetryStore.statistics: whole seconds from the roll-up, what is left at both ends from the samples."""
    t0, t1 = left_by_retention(t0, t1, samples_from)
    if not channels or t0 >= t1:
        return {}
    whole0, whole1 = whole_seconds(t0, t1)
    mine = of(kit, channels)
    rolled = 'SELECT sum("n"), min("lo"), max("hi"), sum("total") FROM "rollup_1s"'
    sampled = 'SELECT count("v"), min("v"), max("v"), sum("v") FROM "sample"'
    parts = [(rolled, whole0, whole1), (sampled, t0, min(whole0, t1)), (sampled, whole1, t1)]
    sums: dict[str, Second] = {}
    for select, a, z in parts:
        if a < z:
            for series in server.stream(f'{select} WHERE {mine} AND {within(a, z)} GROUP BY "channel"'):
                for _, n, lo, hi, total in series.rows:
                    if n:
                        part = Second(0, int(n), float(lo), float(hi), float(total))
                        known = sums.get(series.tags["channel"])
                        sums[series.tags["channel"]] = part if known is None else known.with_more(part)
    first, last = (_end(server, f"{which}", mine, t0, t1) for which in ("first", "last"))
    gone, all_gone = _deleted(server, mine, t0, t1, samples_from)
    return {
        channel: Statistics(
            one.n,
            one.lo,
            one.hi,
            one.total / one.n,
            None if channel in gone else first.get(channel),
            None if channel in all_gone else last.get(channel),
        )
        for channel, one in sums.items()
    }


def _end(server: Server, which: str, mine: str, t0: int, t1: int) -> dict[str, float]:
    query = f'SELECT {which}("v") FROM "sample" WHERE {mine} AND {within(t0, t1)} GROUP BY "channel"'  # noqa: S608
    return {series.tags["channel"]: float(series.rows[0][1]) for series in server.stream(query)}


def _deleted(server: Server, mine: str, t0: int, t1: int, samples_from: int | None) -> tuple[set[str], set[str]]:
    """Channels whose first number, and whose last number, in the window retention has deleted."""
    if samples_from is None or t0 >= samples_from:
        return set(), set()
    ends: list[set[str]] = []
    for a, z in ((t0, min(t1, samples_from)), (samples_from, t1)):
        if a >= z:
            ends.append(set())
            continue
        query = f'SELECT count("n") FROM "rollup_1s" WHERE {mine} AND {within(a, z)} GROUP BY "channel"'  # noqa: S608
        ends.append({series.tags["channel"] for series in server.stream(query) if series.rows[0][1]})
    old, young = ends
    return old, old - young


def gaps(server: Server, kit: str, t0: int, t1: int) -> list[Gap]:
    """See TelemetryStore.gaps."""
    query = (
        'SELECT "t_from", "t_to", "count", "stream", "reason" FROM "gap" '  # noqa: S608
        f'WHERE {of(kit)} AND time < {min(t1 + GAP_SPREAD_NS, LATEST_NS)} AND "t_to" >= {t0}'
    )
    found = [
        Gap(stream, t_from, t_to, GapReason(reason), count)
        for _, t_from, t_to, count, stream, reason in rows_of(server, query)
        if t_from < t1
    ]
    return sorted(found, key=lambda gap: (gap.t_from, gap.t_to, gap.stream))


def clock(server: Server, kit: str, t0: int, t1: int) -> list[ClockFact]:
    """See TelemetryStore.clock."""
    columns = f'SELECT "offset", "uncertainty" FROM "clock" WHERE {of(kit)}'  # noqa: S608
    rows = rows_of(server, f"{columns} AND time <= {t0} ORDER BY time DESC LIMIT 1")
    rows += rows_of(server, f"{columns} AND {within(t0 + 1, max(t1, t0 + 1))}")
    return changes([ClockFact(t, offset, uncertainty) for t, offset, uncertainty in rows])


def newest_clock(server: Server) -> dict[str, ClockFact]:
    """The newest clock fact of each kit."""
    query = 'SELECT "offset", "uncertainty" FROM "clock" GROUP BY "kit" ORDER BY time DESC LIMIT 1'
    return {series.tags["kit"]: ClockFact(*series.rows[0]) for series in server.stream(query)}


def results(server: Server, kit: str, t0: int, t1: int) -> list[Result]:
    """See TelemetryStore.results."""
    query = (
        'SELECT "workshop", "task", "kit_model", "score", "passed", "duration", "measures" FROM "result" '  # noqa: S608
        f"WHERE {of(kit)} AND {within(t0, t1)}"
    )
    found = [
        Result(kit, workshop or "", task or "", model or "", t, score, passed, duration, json.loads(measures))
        for t, workshop, task, model, score, passed, duration, measures in rows_of(server, query)
    ]
    return sorted(found, key=lambda result: (result.t, result.task))


def counted(server: Server, where: str, group: str) -> Iterator[tuple[Mapping[str, str], int, int]]:
    """How many samples there are under a condition: tags, time and number of each group.

    A sample has a number or a quality or both, and InfluxQL counts fields.
    """
    both = f'SELECT "v" * 0 + "q" AS "b" FROM "sample" WHERE {where}'  # noqa: S608
    queries = (
        (f'SELECT count("v"), count("q") FROM "sample" WHERE {where} GROUP BY {group} fill(none)', 1),  # noqa: S608
        (f'SELECT count("b") FROM ({both} GROUP BY *) WHERE {where} GROUP BY {group} fill(none)', -1),  # noqa: S608
    )
    for query, sign in queries:
        for series in server.stream(query, patient=True):
            for t, *counts in series.rows:
                yield series.tags, t, sign * sum(count or 0 for count in counts)


def rows_of(server: Server, query: str) -> list[list[Any]]:
    """The rows of an answer without groups."""
    return [row for series in server.stream(query) for row in series.rows]


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
