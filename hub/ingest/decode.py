"""From the bytes of a batch to columns, or to a reason: stands between the broker's messages and the store.

Receives bytes and the kits that exist, hands on DecodedFrame or DecodedEvents whose columns, types, row count, channels
and times have all been checked, so that no later stage needs to. Numbers that are not finite become missing values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
from numpy.typing import NDArray

from hub.store.base import SECOND, DecodedBatch, DecodedEvents, DecodedFrame
from lab_contract.batch import (
    EVENT_COLUMNS,
    EVENT_SCHEMA_HASH,
    EVENT_STREAM,
    Header,
    Shape,
    frame_columns,
    schema_hash,
    unpack,
)
from lab_contract.errors import BatchRejected
from lab_contract.kit import KitModel

EARLIEST_NS = 946_684_800 * SECOND
"""2000-01-01T00:00:00Z: a clock before that was never set."""
AHEAD_NS = 24 * 3600 * SECOND
"""How far after the hub's now a sample may claim to be: a wrong zone is let through, a year 2200 is not."""
TEXT_BYTES = 4096
"""A longer text is no state and no message of a controller."""
EVENT_TYPES = (pa.int64(), pa.string(), pa.float64(), pa.string(), pa.uint32(), pa.int64(), pa.int64())
NEVER_NULL = ("t", "channel", "quality")


@dataclass(frozen=True)
class KitEntry:
    """A kit that may send: its id, the edge that it hangs on, what it is and the workshop in which it stands."""

    id: str
    edge: str
    model: KitModel
    workshop: str


def decode(data: bytes, sender: str, kits: Mapping[str, KitEntry], now_ns: int) -> DecodedBatch:
    """The batch in `data`, which came on the topic of edge `sender` at `now_ns` (UTC ns).

    Raises BatchRejected with a stable reason for anything that can never be stored.
    """
    batch = unpack(data)
    header = batch.header
    if header.edge != sender:
        raise BatchRejected("forged_edge", f"edge {header.edge!r} in the header, sent by {sender!r}")
    kit = kits.get(header.kit)
    if kit is None:
        raise BatchRejected("unknown_kit", f"kit {header.kit!r}, expected one that is in the catalog")
    if kit.edge != sender:
        raise BatchRejected("foreign_kit", f"kit {header.kit!r} hangs on edge {kit.edge!r}, sent by {sender!r}")
    if header.shape is Shape.FRAME:
        return _frame(header, batch.payload, data, kit.model, now_ns)
    return _events(header, batch.payload, data, kit.model, now_ns)


def _frame(header: Header, payload: memoryview, raw: bytes, model: KitModel, now_ns: int) -> DecodedFrame:
    stream = model.stream_by_id.get(header.stream)
    if stream is None:
        raise BatchRejected("unknown_stream", f"stream {header.stream!r}, expected one of {sorted(model.stream_by_id)}")
    layout = _frame_layout(stream.channels)
    _same_hash(header, layout.hashed)
    rows = _read(payload, header.rows, layout)
    if any(column.null_count for column in rows.columns):
        raise BatchRejected("null_value", "a frame's columns: expected no nulls (a missing sample is NaN)")
    t = rows.column(0).to_numpy()
    _sane_times(t, now_ns)
    if np.any(t[1:] <= t[:-1]):
        raise BatchRejected("time_order", "expected each sample of a frame later than the one before")
    values = np.empty((len(stream.channels), header.rows), dtype=np.float32)
    for row, column in zip(values, rows.columns[1:], strict=True):
        row[:] = column.to_numpy()
    values[~np.isfinite(values)] = np.nan
    return DecodedFrame(header, now_ns, raw, stream.channels, t, values)


def _events(header: Header, payload: memoryview, raw: bytes, model: KitModel, now_ns: int) -> DecodedEvents:
    if header.stream != EVENT_STREAM:
        raise BatchRejected("unknown_stream", f"stream {header.stream!r}, expected {EVENT_STREAM!r} for events")
    _same_hash(header, EVENT_SCHEMA_HASH)
    rows = _read(payload, header.rows, EVENT_LAYOUT)
    column = dict(zip(EVENT_COLUMNS, rows.columns, strict=True))
    for name in NEVER_NULL:
        if column[name].null_count:
            raise BatchRejected("null_value", f"column {name}: expected no nulls")
    encoded = column["channel"].dictionary_encode()
    channels = tuple(encoded.dictionary.to_pylist())
    for channel in channels:
        if channel not in model.channel_by_id:
            raise BatchRejected("unknown_channel", f"channel {channel[:80]!r}, expected one of kit model {model.id}")
    longest = pc.max(pc.binary_length(column["text"])).as_py() or 0
    if longest > TEXT_BYTES:
        raise BatchRejected("text_too_long", f"a text of {longest} bytes, expected at most {TEXT_BYTES}")
    t = column["t"].to_numpy()
    _sane_times(t, now_ns)
    order = np.argsort(t, kind="stable")
    take = pa.array(order)
    values = column["value"].to_numpy(zero_copy_only=False)[order].astype(np.float64)
    values[~np.isfinite(values)] = np.nan
    return DecodedEvents(
        header,
        now_ns,
        raw,
        channels,
        encoded.indices.to_numpy().astype(np.int32)[order],
        t[order],
        values,
        column["quality"].to_numpy()[order],
        column["text"].take(take),
        column["t_server"].take(take),
        column["t_receipt"].take(take),
    )


@dataclass(frozen=True)
class _Layout:
    schema: pa.Schema
    names: list[str]
    types: list[pa.DataType]
    hashed: int


@lru_cache(maxsize=256)
def _frame_layout(channels: tuple[str, ...]) -> _Layout:
    schema = pa.schema([("t", pa.int64()), *((channel, pa.float32()) for channel in channels)])
    return _Layout(schema, schema.names, schema.types, schema_hash(frame_columns(channels)))


_EVENT_SCHEMA = pa.schema(list(zip(EVENT_COLUMNS, EVENT_TYPES, strict=True)))
EVENT_LAYOUT = _Layout(_EVENT_SCHEMA, _EVENT_SCHEMA.names, _EVENT_SCHEMA.types, EVENT_SCHEMA_HASH)


def _shown(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}:{field.type}" for field in schema)[:200]


def _same_hash(header: Header, expected: int) -> None:
    if header.schema_hash != expected:
        raise BatchRejected(
            "schema_hash",
            f"stream {header.stream!r}: columns {header.schema_hash:016x}, expected {expected:016x}; "
            "edge and hub use different versions of the kit model",
        )


def _read(payload: memoryview, rows: int, layout: _Layout) -> pa.RecordBatch:
    """The one record batch of an Arrow IPC stream, its buffers checked, with exactly these columns and rows."""
    try:
        with pa.ipc.open_stream(pa.py_buffer(payload)) as reader:
            schema = reader.schema
            # Before the first batch is read: a dictionary or a nested type never gets as far as being decoded.
            if schema.names != layout.names or schema.types != layout.types:
                raise BatchRejected("wrong_columns", f"{_shown(schema)}, expected {_shown(layout.schema)}")
            batch = reader.read_next_batch()
            if batch.num_rows != rows:
                raise BatchRejected("row_count", f"{batch.num_rows} rows, header says {rows}")
            batch.validate(full=True)
            try:
                reader.read_next_batch()
            except StopIteration:
                return batch
    except StopIteration:
        raise BatchRejected("bad_arrow", "no record batch in the Arrow stream") from None
    except (pa.ArrowException, ValueError, MemoryError, OSError) as error:
        raise BatchRejected("bad_arrow", f"expected an Arrow IPC stream: {str(error)[:200]}") from None
    raise BatchRejected("bad_arrow", "more than one record batch in the Arrow stream")


def _sane_times(t: NDArray[np.int64], now_ns: int) -> None:
    first, last = int(t.min()), int(t.max())
    if first < EARLIEST_NS:
        raise BatchRejected("time_too_early", f"{first} ns, expected not before 2000-01-01T00:00:00Z")
    if last > now_ns + AHEAD_NS:
        raise BatchRejected("time_in_future", f"{last} ns, expected at most one day after the hub's {now_ns} ns")
