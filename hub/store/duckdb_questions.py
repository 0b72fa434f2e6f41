"""The embedded store's questions about telemetry: receives a cursor and series numbers, hands on what the seam tells.

Series numbers are written into the statements, not bound: only constants let the engine skip row groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import duckdb

from hub.store.base import SECOND, ClockFact, Overview, State, Statistics
from hub.store.duckdb_engine import row
from hub.store.windows import buckets_of, changes, left_by_retention, whole_seconds
from lab_contract.batch import Gap, GapReason


def overview(
    con: duckdb.DuckDBPyConnection,
    channels: Mapping[str, int | None],
    t0: int,
    t1: int,
    buckets: int,
    from_rollup: bool | None,
    samples_from: int | None,
) -> Overview:
    """See TelemetryStore.overview; `channels` with their series numbers, None where there is no sample."""
    grid = buckets_of(t0, t1, buckets, from_rollup, samples_from)
    result = grid.empty(channels)
    numbers = {channel: number for channel, number in channels.items() if number is not None}
    if numbers:
        table, lo, hi = ("rollup_1s", "lo", "hi") if grid.from_rollup else ("every_sample", "value", "value")
        query = (
            f"SELECT series, (t - $t0) // $width AS bucket, min({lo}), max({hi}) FROM {table} "  # noqa: S608
            f"WHERE {of_series(numbers.values())} AND t >= $t0 AND t < $end AND {lo} IS NOT NULL GROUP BY ALL"
        )
        found = con.execute(query, {"t0": grid.t0, "end": grid.end, "width": grid.width}).fetchnumpy()
        series, bucket, low, high = found.values()
        for channel, number in numbers.items():
            mine = series == number
            result[channel][0][bucket[mine]] = low[mine]
            result[channel][1][bucket[mine]] = high[mine]
    return grid.overview(result)


def raw(numbers: Iterable[int]) -> str:
    """The statement of TelemetryStore.raw, with t0 and t1 to be bound."""
    return (
        "SELECT s.t, c.channel, s.value, s.text, s.quality FROM every_sample s JOIN series c ON c.id = s.series "  # noqa: S608
        f"WHERE {of_series(numbers, 's.series')} AND s.t >= $t0 AND s.t < $t1 ORDER BY s.t, s.series"
    )


def states(con: duckdb.DuckDBPyConnection, number: int, t0: int, t1: int) -> list[State]:
    """See TelemetryStore.states."""
    # Of two changes at one instant the one that was stored later holds; n grows as rows are stored.
    query = f"""
        WITH before AS (SELECT t, n, value, text FROM every_sample
                        WHERE series = {int(number)} AND t < $t0 ORDER BY t DESC, n DESC LIMIT 1),
        within AS (SELECT t, n, value, text FROM every_sample
                   WHERE series = {int(number)} AND t >= $t0 AND t < $t1),
        held AS (SELECT * FROM (SELECT * FROM before UNION ALL SELECT * FROM within)
                 QUALIFY t IS DISTINCT FROM lead(t) OVER (ORDER BY t, n))
        SELECT t, value, text FROM held
        QUALIFY row_number() OVER (ORDER BY t) = 1 OR value IS DISTINCT FROM lag(value) OVER (ORDER BY t)
            OR text IS DISTINCT FROM lag(text) OVER (ORDER BY t)
        ORDER BY t"""  # noqa: S608
    rows = con.execute(query, {"t0": t0, "t1": t1}).fetchall()
    starts = [max(t, t0) for t, _, _ in rows]
    ends = [*starts[1:], t1]
    return [
        State(start, end, value, text)
        for (_, value, text), start, end in zip(rows, starts, ends[: len(rows)], strict=True)
    ]


def statistics(
    con: duckdb.DuckDBPyConnection, numbers: Mapping[str, int], t0: int, t1: int, samples_from: int | None
) -> dict[str, Statistics]:
    """See TelemetryStore.statistics: whole seconds from the roll-up, what is left at both ends from the samples."""
    t0, t1 = left_by_retention(t0, t1, samples_from)
    if not numbers or t0 >= t1:
        return {}
    whole0, whole1 = whole_seconds(t0, t1)
    mine = of_series(numbers.values())
    query = f"""
        SELECT series, sum(n)::BIGINT, min(lo), max(hi), sum(total), min(a), max(z) FROM (
            SELECT series, n, lo, hi, total, t AS a, t + {SECOND - 1} AS z FROM rollup_1s
            WHERE {mine} AND t >= $whole0 AND t < $whole1
            UNION ALL
            SELECT series, 1, value, value, value, t, t FROM every_sample
            WHERE {mine} AND t >= $t0 AND t < least($whole0, $t1) AND value IS NOT NULL
            UNION ALL
            SELECT series, 1, value, value, value, t, t FROM every_sample
            WHERE {mine} AND t >= greatest($whole1, $whole0) AND t < $t1 AND value IS NOT NULL)
        GROUP BY series"""  # noqa: S608
    bounds = {"t0": t0, "t1": t1, "whole0": whole0, "whole1": whole1}
    found = {series: rest for series, *rest in con.execute(query, bounds).fetchall()}
    if not found:
        return {}
    # The roll-up knows the second of the first and the last number; which they were, the samples of that second tell.
    spots = " OR ".join(
        f"(series = {series} AND (t BETWEEN {max(t0, a)} AND {min(t1 - 1, a + SECOND - 1)} "
        f"OR t BETWEEN {max(t0, z - SECOND + 1)} AND {min(t1 - 1, z)}))"
        for series, (*_, a, z) in found.items()
    )
    query = (
        "SELECT series, arg_min(value, (t, n)), arg_max(value, (t, n)) FROM every_sample "  # noqa: S608
        f"WHERE ({spots}) AND value IS NOT NULL GROUP BY series"
    )
    ends = {series: (first, last) for series, first, last in con.execute(query).fetchall()}
    result: dict[str, Statistics] = {}
    for channel, number in numbers.items():
        if number in found:
            n, lo, hi, total, a, z = found[number]
            first, last = ends.get(number, (None, None))
            gone = samples_from is not None and a < samples_from
            all_gone = samples_from is not None and z < samples_from
            result[channel] = Statistics(n, lo, hi, total / n, None if gone else first, None if all_gone else last)
    return result


def gaps(con: duckdb.DuckDBPyConnection, kit: str, t0: int, t1: int) -> list[Gap]:
    """See TelemetryStore.gaps."""
    query = (
        "SELECT stream, t_from, t_to, reason, count FROM gaps "
        "WHERE kit = $kit AND t_from < $t1 AND t_to >= $t0 ORDER BY t_from, t_to, stream"
    )
    rows = con.execute(query, {"kit": kit, "t0": t0, "t1": t1}).fetchall()
    return [Gap(stream, t_from, t_to, GapReason(reason), count) for stream, t_from, t_to, reason, count in rows]


def clock(con: duckdb.DuckDBPyConnection, kit: str, t0: int, t1: int) -> list[ClockFact]:
    """See TelemetryStore.clock."""
    (since,) = row(con, "SELECT max(t) FROM clock WHERE kit = $kit AND t <= $t0", {"kit": kit, "t0": t0})
    rows = con.execute(
        "SELECT t, offset_ns, uncertainty_ns FROM clock WHERE kit = $kit AND t >= $since AND t < $t1 ORDER BY t, rowid",
        {"kit": kit, "since": t0 if since is None else since, "t1": max(t1, t0 + 1)},
    ).fetchall()
    return changes(list({t: ClockFact(t, offset, uncertainty) for t, offset, uncertainty in rows}.values()))


def missing(con: duckdb.DuckDBPyConnection, edge: str, epoch: int, first: int, last: int) -> list[tuple[int, int]]:
    """See TelemetryStore.missing."""
    if first > last:
        return []
    # The numbers just outside the range count as there, so that its ends are like any other hole.
    query = """
        WITH there AS (SELECT seq::HUGEINT AS seq FROM ledger
                       WHERE edge = $edge AND epoch = $epoch AND seq BETWEEN $first AND $last
                       UNION ALL VALUES ($first::HUGEINT - 1), ($last::HUGEINT + 1))
        SELECT seq + 1, after - 1 FROM (SELECT seq, lead(seq) OVER (ORDER BY seq) AS after FROM there)
        WHERE after > seq + 1 ORDER BY seq"""
    rows = con.execute(query, {"edge": edge, "epoch": epoch, "first": first, "last": last}).fetchall()
    return [(int(a), int(z)) for a, z in rows]


def of_series(numbers: Iterable[int], column: str = "series") -> str:
    """The condition that a row is of one of these series.

    By bounds where they follow one another, as those of one kit mostly do: the engine skips row groups by bounds, and
    answers a list of several by a join that costs three times the scan.
    """
    found = sorted({int(number) for number in numbers})
    if not found:
        return "false"
    bounds = f"{column} BETWEEN {found[0]} AND {found[-1]}"
    if found[-1] - found[0] == len(found) - 1:
        return bounds
    return f"{bounds} AND {column} IN ({', '.join(map(str, found))})"
