"""Between decoded batches and a columnar engine: long sample arrays, 1 s roll-up partials and newest values.

Pure: receives decoded batches and a series number per channel, hands on Arrow tables in the layout of the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hub.store.base import SECOND, ClockFact, DecodedBatch, DecodedEvents, DecodedFrame, DecodedGaps, Latest

FRAMES = pa.schema([("series", pa.int32()), ("t", pa.int64()), ("value", pa.float32())])
SAMPLES = pa.schema(
    [
        ("series", pa.int32()),
        ("t", pa.int64()),
        ("value", pa.float64()),
        ("text", pa.string()),
        ("quality", pa.uint32()),
        ("t_server", pa.int64()),
        ("t_receipt", pa.int64()),
    ]
)
ROLLUP = pa.schema(
    [
        ("series", pa.int32()),
        ("t", pa.int64()),
        ("n", pa.int64()),
        ("lo", pa.float64()),
        ("hi", pa.float64()),
        ("total", pa.float64()),
    ]
)


@dataclass(slots=True)
class Columns:
    """What one transaction writes: the samples of `frames` (their numbers are float32 and nothing else is known of
    them) and of `events`, the `rollup`, and the newest sample a series in these batches.
    """

    frames: pa.Table
    events: pa.Table
    rollup: pa.Table
    latest: dict[int, Latest]

    @property
    def count(self) -> int:
        """How many samples."""
        return int(self.frames.num_rows + self.events.num_rows)

    @property
    def samples(self) -> pa.Table:
        """All of them in the columns of events, for an engine that keeps them together."""
        n = self.frames.num_rows
        if not n:
            return self.events
        columns = [
            self.frames["series"],
            self.frames["t"],
            self.frames["value"].cast(pa.float64()),
            pa.nulls(n, pa.string()),
            pa.array(np.zeros(n, dtype=np.uint32)),
            pa.nulls(n, pa.int64()),
            pa.nulls(n, pa.int64()),
        ]
        return pa.concat_tables([pa.table(columns, schema=SAMPLES), self.events])


def columns_of(batches: Iterable[DecodedBatch], series_of: Callable[[str, str], int]) -> Columns:
    """The batches as long tables, sorted by series and then time within one stream, so that columns compress well.

    A roll-up partial covers one series and one second of these batches; a second that spans two transactions has two
    partials, and readers merge them. Gap records have no samples.
    """
    frames: dict[tuple[str, tuple[str, ...]], list[DecodedFrame]] = {}
    events: list[DecodedEvents] = []
    for batch in batches:
        if isinstance(batch, DecodedFrame):
            frames.setdefault((batch.header.kit, batch.channels), []).append(batch)
        elif isinstance(batch, DecodedEvents):
            events.append(batch)
    streams: list[pa.Table] = []
    rollup: list[pa.Table] = []
    latest: dict[int, Latest] = {}
    for (kit, channels), group in frames.items():
        series = np.array([series_of(kit, channel) for channel in channels], dtype=np.int32)
        streams.append(_frames(series, group, rollup, latest))
    changes = _events(events, series_of, rollup, latest) if events else SAMPLES.empty_table()
    return Columns(
        pa.concat_tables(streams) if streams else FRAMES.empty_table(),
        changes,
        pa.concat_tables(rollup) if rollup else ROLLUP.empty_table(),
        latest,
    )


def clock_facts(
    batches: Iterable[DecodedBatch], in_force: Mapping[str, ClockFact]
) -> tuple[list[tuple[str, ClockFact]], dict[str, ClockFact]]:
    """The clock offsets to be written, by kit, and the newest of each kit; `in_force` are the newest known before.

    What says no more than the one before it is left out; a backlog from before the newest is not compared with it.
    """
    by_kit: dict[str, list[ClockFact]] = {}
    for batch in batches:
        # The times in a gap record are of what was lost, long before the clocks were compared.
        if not isinstance(batch, DecodedGaps):
            header = batch.header
            fact = ClockFact(int(batch.t[0]), header.clock_offset_ns, header.clock_uncertainty_ns)
            by_kit.setdefault(header.kit, []).append(fact)
    written: list[tuple[str, ClockFact]] = []
    newest = dict(in_force)
    for kit, facts in by_kit.items():
        last = newest.get(kit)
        former: ClockFact | None = None
        for fact in sorted(facts, key=lambda fact: fact.t):
            if last is not None and last.t <= fact.t:
                former = last
            if former is None or _offset(former) != _offset(fact):
                written.append((kit, fact))
                former = fact
                if last is None or last.t <= fact.t:
                    newest[kit] = last = fact
    return written, newest


def _offset(fact: ClockFact) -> tuple[int, int]:
    return fact.offset_ns, fact.uncertainty_ns


def _frames(
    series: NDArray[np.int32], group: list[DecodedFrame], rollup: list[pa.Table], latest: dict[int, Latest]
) -> pa.Table:
    group.sort(key=lambda frame: int(frame.t[0]))
    t = np.concatenate([frame.t for frame in group])
    values = np.concatenate([frame.values for frame in group], axis=1)
    missing = np.isnan(values)
    some_missing = bool(missing.any())
    samples = pa.table(
        [
            pa.array(np.repeat(series, len(t))),
            pa.array(np.tile(t, len(series))),
            pa.array(values.ravel(), mask=missing.ravel()) if some_missing else pa.array(values.ravel()),
        ],
        schema=FRAMES,
    )
    second = t // SECOND
    starts = np.flatnonzero(np.concatenate(([True], second[1:] != second[:-1])))
    parts = len(starts)
    if some_missing:
        counts = np.add.reduceat((~missing).astype(np.int64), starts, axis=1).ravel()
        lo, hi = np.fmin.reduceat(values, starts, axis=1), np.fmax.reduceat(values, starts, axis=1)
        numbers = np.where(missing, np.float32(0), values)
    else:
        counts = np.tile(np.diff(np.append(starts, len(t))), len(series))
        # Three times as quick as fmin and fmax, which look for NaN.
        lo, hi = np.minimum.reduceat(values, starts, axis=1), np.maximum.reduceat(values, starts, axis=1)
        numbers = values
    rollup.append(
        _partials(
            np.repeat(series, parts),
            np.tile(second[starts] * SECOND, len(series)),
            counts,
            lo.ravel().astype(np.float64),
            hi.ravel().astype(np.float64),
            np.add.reduceat(numbers, starts, axis=1, dtype=np.float64).ravel(),
        )
    )
    newest = int(np.argmax(t))
    for row, number in enumerate(series):
        value = None if missing[row, newest] else float(values[row, newest])
        _keep(latest, int(number), Latest(int(t[newest]), value, None, 0))
    return samples


def _events(
    events: list[DecodedEvents],
    series_of: Callable[[str, str], int],
    rollup: list[pa.Table],
    latest: dict[int, Latest],
) -> pa.Table:
    # Most batches of a kit name the same channels in the same order.
    named: dict[tuple[str, tuple[str, ...]], NDArray[np.int32]] = {}
    for batch in events:
        key = (batch.header.kit, batch.channels)
        if key not in named:
            named[key] = np.array([series_of(batch.header.kit, channel) for channel in batch.channels], dtype=np.int32)
    series = np.concatenate([named[batch.header.kit, batch.channels][batch.index] for batch in events])
    t = np.concatenate([batch.t for batch in events])
    order = _by_series_and_time(series, t)
    series, t = series[order], t[order]
    values = np.concatenate([batch.values for batch in events])[order]
    quality = np.concatenate([batch.quality for batch in events])[order]
    take = pa.array(order)
    text = _taken([batch.text for batch in events], take)
    missing = ~np.isfinite(values)
    samples = pa.table(
        [
            pa.array(series),
            pa.array(t),
            pa.array(values, mask=missing),
            text,
            pa.array(quality),
            _taken([batch.t_server for batch in events], take),
            _taken([batch.t_receipt for batch in events], take),
        ],
        schema=SAMPLES,
    )
    second = t // SECOND
    starts = np.flatnonzero(np.concatenate(([True], (second[1:] != second[:-1]) | (series[1:] != series[:-1]))))
    clean = np.where(missing, np.nan, values)
    rollup.append(
        _partials(
            series[starts],
            second[starts] * SECOND,
            np.add.reduceat((~missing).astype(np.int64), starts),
            np.fmin.reduceat(clean, starts),
            np.fmax.reduceat(clean, starts),
            np.add.reduceat(np.where(missing, 0.0, values), starts),
        )
    )
    lasts = np.flatnonzero(np.concatenate((series[1:] != series[:-1], [True])))
    for row in lasts:
        value = None if missing[row] else float(values[row])
        newest = Latest(int(t[row]), value, text[int(row)].as_py(), int(quality[row]))
        _keep(latest, int(series[row]), newest)
    return samples


def _by_series_and_time(series: NDArray[np.int32], t: NDArray[np.int64]) -> NDArray[np.intp]:
    """The order by series and then time; of two changes at the same instant the one that came later stays the later."""
    # Batches of a kit mostly come in order of time: then the series alone decide, and 16 bits are sorted by counting.
    narrow = series.astype(np.int16) if len(series) and int(series.max()) < 2**15 else series
    order = np.argsort(narrow, kind="stable")
    sorted_series, sorted_t = series[order], t[order]
    if ((sorted_t[1:] < sorted_t[:-1]) & (sorted_series[1:] == sorted_series[:-1])).any():
        return np.lexsort((t, series))
    return order


def _taken(arrays: list[pa.Array], order: pa.Array) -> pa.Array:
    if all(array.null_count == len(array) for array in arrays):
        return pa.nulls(len(order), arrays[0].type)
    return pa.concat_arrays(arrays).take(order)


def _partials(
    series: NDArray[np.int32],
    t: NDArray[np.int64],
    n: NDArray[np.int64],
    lo: NDArray[np.float64],
    hi: NDArray[np.float64],
    total: NDArray[np.float64],
) -> pa.Table:
    # A second without a number has no partial: it must show as a gap, not as a point.
    some = n > 0
    return pa.table([pa.array(column[some]) for column in (series, t, n, lo, hi, total)], schema=ROLLUP)


def _keep(latest: dict[int, Latest], series: int, sample: Latest) -> None:
    known = latest.get(series)
    if known is None or sample.t >= known.t:
        latest[series] = sample
