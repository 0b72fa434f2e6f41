"""Between decoded batches and a columnar engine: long sample arrays, 1 s roll-up partials and newest values.

Pure: receives decoded batches and a series number per channel, hands on Arrow tables in the layout of the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hub.store.base import SECOND, DecodedBatch, DecodedEvents, DecodedFrame, Latest

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
    """What one transaction writes: `samples` and `rollup` tables, and the newest sample a series in these batches."""

    samples: pa.Table
    rollup: pa.Table
    latest: dict[int, Latest]


def columns_of(batches: Iterable[DecodedBatch], series_of: Callable[[str, str], int]) -> Columns:
    """The batches as long tables, sorted by series and then time within one stream, so that columns compress well.

    A roll-up partial covers one series and one second of these batches; a second that spans two transactions has two
    partials, and readers merge them.
    """
    frames: dict[tuple[str, tuple[str, ...]], list[DecodedFrame]] = {}
    events: list[DecodedEvents] = []
    for batch in batches:
        if isinstance(batch, DecodedFrame):
            frames.setdefault((batch.header.kit, batch.channels), []).append(batch)
        else:
            events.append(batch)
    samples: list[pa.Table] = []
    rollup: list[pa.Table] = []
    latest: dict[int, Latest] = {}
    for (kit, channels), group in frames.items():
        series = np.array([series_of(kit, channel) for channel in channels], dtype=np.int32)
        _frames(series, group, samples, rollup, latest)
    if events:
        _events(events, series_of, samples, rollup, latest)
    return Columns(
        pa.concat_tables(samples) if samples else SAMPLES.empty_table(),
        pa.concat_tables(rollup) if rollup else ROLLUP.empty_table(),
        latest,
    )


def _frames(
    series: NDArray[np.int32],
    group: list[DecodedFrame],
    samples: list[pa.Table],
    rollup: list[pa.Table],
    latest: dict[int, Latest],
) -> None:
    group.sort(key=lambda frame: int(frame.t[0]))
    t = np.concatenate([frame.t for frame in group])
    values = np.concatenate([frame.values for frame in group], axis=1).astype(np.float64)
    missing = ~np.isfinite(values)
    n = values.size
    samples.append(
        pa.table(
            [
                pa.array(np.repeat(series, len(t))),
                pa.array(np.tile(t, len(series))),
                pa.array(values.ravel(), mask=missing.ravel()) if missing.any() else pa.array(values.ravel()),
                pa.nulls(n, pa.string()),
                pa.array(np.zeros(n, dtype=np.uint32)),
                pa.nulls(n, pa.int64()),
                pa.nulls(n, pa.int64()),
            ],
            schema=SAMPLES,
        )
    )
    second = t // SECOND
    starts = np.flatnonzero(np.concatenate(([True], second[1:] != second[:-1])))
    parts = len(starts)
    counts = np.add.reduceat((~missing).astype(np.int64), starts, axis=1)
    clean = np.where(missing, np.nan, values)
    rollup.append(
        _partials(
            np.repeat(series, parts),
            np.tile(second[starts] * SECOND, len(series)),
            counts.ravel(),
            np.fmin.reduceat(clean, starts, axis=1).ravel(),
            np.fmax.reduceat(clean, starts, axis=1).ravel(),
            np.add.reduceat(np.where(missing, 0.0, values), starts, axis=1).ravel(),
        )
    )
    newest = int(np.argmax(t))
    for row, number in enumerate(series):
        value = None if missing[row, newest] else float(values[row, newest])
        _keep(latest, int(number), Latest(int(t[newest]), value, None, 0))


def _events(
    events: list[DecodedEvents],
    series_of: Callable[[str, str], int],
    samples: list[pa.Table],
    rollup: list[pa.Table],
    latest: dict[int, Latest],
) -> None:
    numbers = [np.array([series_of(b.header.kit, c) for c in b.channels], dtype=np.int32)[b.index] for b in events]
    series = np.concatenate(numbers)
    t = np.concatenate([batch.t for batch in events])
    # Stable, so that of two changes at the same instant the one that arrived later counts as the newer.
    order = np.lexsort((t, series))
    series, t = series[order], t[order]
    values = np.concatenate([batch.values for batch in events])[order]
    quality = np.concatenate([batch.quality for batch in events])[order]
    take = pa.array(order)
    text = pa.concat_arrays([batch.text for batch in events]).take(take)
    missing = ~np.isfinite(values)
    samples.append(
        pa.table(
            [
                pa.array(series),
                pa.array(t),
                pa.array(values, mask=missing),
                text,
                pa.array(quality),
                pa.concat_arrays([batch.t_server for batch in events]).take(take),
                pa.concat_arrays([batch.t_receipt for batch in events]).take(take),
            ],
            schema=SAMPLES,
        )
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
