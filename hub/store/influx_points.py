"""Between decoded batches and InfluxDB: which sample is which point, and which seconds of the roll-up change.

InfluxDB has no transactions and no two points of one series and time, so that everything written must be the same when
it is written again:

* a sample is known by channel and time. Where a channel has several in one nanosecond, the further ones get a `twin`
  number. A batch that comes again after a crash claims the points that already say the same; so of two batches, samples
  alike in time, value, text, quality and both other times are one point, which `collapsed` counts with those rewritten;
* a second of the roll-up is one point with all that is known of the second. It is added up in memory as long as
  nothing older than what was added can have been in the database, and is else computed anew from the samples.

`reached` is the newest time of a channel that may be in the database: later samples cannot meet others there, so
nothing is asked. It moves before anything is written, as a failed write may have written a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hub.store.base import SECOND, DecodedBatch
from hub.store.columns import Columns, columns_of
from hub.store.influx_lines import rollup_line

NEVER = -(1 << 62)
Ask = Callable[[str, Sequence[str], int, int], Iterator["Stored"]]
"""Points in the database: kit, channels, from, to (half open, UTC ns)."""
Content = tuple[Any, ...]
"""What a point says: value, quality, text, server's and receipt time."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A point as the database has it."""

    channel: str
    t: int
    twin: int
    content: Content


@dataclass(frozen=True, slots=True)
class Second:
    """What is known of one channel's second that begins at `t`: `n` numbers, their least, greatest and sum."""

    t: int
    n: int
    lo: float
    hi: float
    total: float

    def with_more(self, other: Second) -> Second:
        """Both together."""
        return Second(
            self.t, self.n + other.n, min(self.lo, other.lo), max(self.hi, other.hi), self.total + other.total
        )


@dataclass(slots=True)
class Points:
    """What one append writes: `samples` with a twin number each (None: all 0), roll-up seconds that are known already
    by series number, and those to be computed from the samples once they are written.
    """

    samples: pa.Table
    twins: NDArray[np.int64] | None
    columns: Columns
    known: dict[int, dict[int, Second]] = field(default_factory=dict)
    unknown: dict[int, set[int]] = field(default_factory=dict)
    collapsed: int = 0


@dataclass(frozen=True, slots=True)
class _Run:
    """From when to when the rows of one series are."""

    series: int
    low: int
    high: int


class Book:
    """What is known of the series without asking the database."""

    def __init__(self, collapsed: int = 0) -> None:
        self.series: list[tuple[str, str]] = []
        """(kit, channel) by number."""
        self._numbers: dict[tuple[str, str], int] = {}
        self._reached: list[int] = []
        self._open: dict[int, Second] = {}
        self.collapsed = collapsed

    def number(self, kit: str, channel: str) -> int:
        """The series number, given where there was none."""
        key = (kit, channel)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.series)
            self.series.append(key)
            self._reached.append(NEVER)
        return number

    def reach(self, number: int, t: int) -> None:
        """There may be a sample at `t` in the database."""
        self._reached[number] = max(self._reached[number], t)

    def points(self, batches: Sequence[DecodedBatch], ask: Ask) -> Points:
        """What the batches become. Asks only for what may meet a sample that is there; changes nothing."""
        columns = columns_of(batches, self.number)
        samples = columns.samples
        if not samples.num_rows:
            return Points(samples, None, columns)
        series, t = samples["series"].to_numpy(), samples["t"].to_numpy()
        late = [run for run in _runs(series, t) if run.low <= self._reached[run.series]]
        found = list(self._stored(late, ask))
        points = Points(samples, None, columns)
        meet = _meeting(found, series, t)
        repeated = _repeated(series, t)
        if meet or repeated:
            self._give_twins(points, batches, meet, repeated)
        self._sort_seconds(points, {run.series for run in late}, found)
        return points

    def _stored(self, late: list[_Run], ask: Ask) -> Iterator[tuple[int, Stored]]:
        """What the database has in the late runs, in whole seconds, so that it also tells which seconds are empty."""
        windows: dict[tuple[str, int, int], list[str]] = {}
        for run in late:
            kit, channel = self.series[run.series]
            low = run.low // SECOND * SECOND
            high = (min(run.high, self._reached[run.series]) // SECOND + 1) * SECOND
            windows.setdefault((kit, low, high), []).append(channel)
        for (kit, low, high), channels in windows.items():
            for one in ask(kit, channels, low, high):
                yield self._numbers[kit, one.channel], one

    def _give_twins(
        self,
        points: Points,
        batches: Sequence[DecodedBatch],
        meet: list[tuple[int, Stored]],
        repeated: set[tuple[int, int]],
    ) -> None:
        """Batch by batch, as a batch that comes again comes by itself or among others."""
        there: dict[tuple[int, int], list[tuple[int, Content]]] = {key: [] for key in repeated}
        for number, one in meet:
            there.setdefault((number, one.t), []).append((one.twin, one.content))
        times = np.array([t for _, t in there], dtype=np.int64)
        tables: list[pa.Table] = []
        twins: list[NDArray[np.int64]] = []
        for batch in batches:
            table = columns_of([batch], self.number).samples
            if not table.num_rows:
                continue
            of_batch = np.zeros(table.num_rows, dtype=np.int64)
            claimed: set[tuple[int, int, int]] = set()
            series, t = table["series"].to_numpy(), table["t"].to_numpy()
            for row in np.flatnonzero(np.isin(t, times)).tolist():
                key = (int(series[row]), int(t[row]))
                if key in there:
                    of_batch[row] = self._twin(points, key, there[key], _content(table, row), claimed)
            tables.append(table)
            twins.append(of_batch)
        points.samples, points.twins = pa.concat_tables(tables), np.concatenate(twins)

    @staticmethod
    def _twin(
        points: Points,
        key: tuple[int, int],
        there: list[tuple[int, Content]],
        content: Content,
        claimed: set[tuple[int, int, int]],
    ) -> int:
        for twin, other in there:
            if other == content and (*key, twin) not in claimed:
                claimed.add((*key, twin))
                points.collapsed += 1
                points.unknown.setdefault(key[0], set()).add(key[1] // SECOND * SECOND)
                return twin
        twin = max((twin for twin, _ in there), default=-1) + 1
        claimed.add((*key, twin))
        there.append((twin, content))
        return twin

    def _sort_seconds(self, points: Points, late: set[int], found: list[tuple[int, Stored]]) -> None:
        occupied = {(number, one.t // SECOND * SECOND) for number, one in found}
        added: dict[tuple[int, int], Second] = {}
        columns = (points.columns.rollup[name].to_pylist() for name in ("series", "t", "n", "lo", "hi", "total"))
        for number, *rest in zip(*columns, strict=True):
            second = Second(*rest)
            known = added.get((number, second.t))
            added[number, second.t] = second if known is None else known.with_more(second)
        for (number, t), second in added.items():
            if t in points.unknown.get(number, ()):
                continue
            begun = self._open.get(number)
            empty = t > self._reached[number] or (number in late and (number, t) not in occupied)
            if begun is not None and begun.t == t:
                second = begun.with_more(second)
            elif not empty:
                points.unknown.setdefault(number, set()).add(t)
                continue
            points.known.setdefault(number, {})[t] = second

    def begin(self, points: Points) -> None:
        """From now on any part of these points may be in the database."""
        if points.samples.num_rows:
            for run in _runs(points.samples["series"].to_numpy(), points.samples["t"].to_numpy()):
                self.reach(run.series, run.high)
                self._open.pop(run.series, None)

    def complete(self, points: Points, computed: dict[int, dict[int, Second]]) -> None:
        """All of them are."""
        for number in points.known.keys() | computed.keys():
            seconds = points.known.get(number, {}) | computed.get(number, {})
            newest = max(seconds)
            if newest // SECOND == self._reached[number] // SECOND:
                self._open[number] = seconds[newest]
        self.collapsed += points.collapsed

    def rollup_lines(self, seconds: dict[int, dict[int, Second]]) -> Iterator[str]:
        """Lines of the roll-up."""
        for number, of_series in seconds.items():
            kit, channel = self.series[number]
            for one in of_series.values():
                yield rollup_line(kit, channel, one.t, one.n, one.lo, one.hi, one.total)


def _runs(series: NDArray[np.int32], t: NDArray[np.int64]) -> list[_Run]:
    starts = np.flatnonzero(np.concatenate(([True], series[1:] != series[:-1])))
    lows, highs = np.minimum.reduceat(t, starts), np.maximum.reduceat(t, starts)
    whole: dict[int, _Run] = {}
    for number, low, high in zip(series[starts].tolist(), lows.tolist(), highs.tolist(), strict=True):
        other = whole.get(number)
        whole[number] = _Run(number, min(low, other.low), max(high, other.high)) if other else _Run(number, low, high)
    return list(whole.values())


def _meeting(
    found: list[tuple[int, Stored]], series: NDArray[np.int32], t: NDArray[np.int64]
) -> list[tuple[int, Stored]]:
    """Points in the database that have channel and time of a sample that is to be written."""
    if not found:
        return []
    mine = np.isin(t, np.array([one.t for _, one in found], dtype=np.int64))
    keys = set(zip(series[mine].tolist(), t[mine].tolist(), strict=True))
    return [(number, one) for number, one in found if (number, one.t) in keys]


def _repeated(series: NDArray[np.int32], t: NDArray[np.int64]) -> set[tuple[int, int]]:
    """Channel and time of what is several times among the samples themselves."""
    same = series[1:] == series[:-1]
    runs = series[np.flatnonzero(np.concatenate(([True], ~same)))]
    if not np.any(same & (t[1:] <= t[:-1])) and len(np.unique(runs)) == len(runs):
        return set()
    order = np.lexsort((t, series))
    s, u = series[order], t[order]
    again = (s[1:] == s[:-1]) & (u[1:] == u[:-1])
    return set(zip(s[1:][again].tolist(), u[1:][again].tolist(), strict=True))


def _content(table: pa.Table, row: int) -> Content:
    return tuple(table[name][row].as_py() for name in ("value", "quality", "text", "t_server", "t_receipt"))
