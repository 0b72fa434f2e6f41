"""From the bytes of a batch to columns, or to a reason: stands between the broker's messages and the store.

Receives bytes and the kits that exist, hands on DecodedFrame, DecodedEvents or DecodedGaps whose columns, types, row
count, channels and times have all been checked, so that no later stage needs to. Numbers that are not finite become
missing values. Times stay those of the edge's clock, whatever offset the header tells.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hub.ingest.arrow import FrameReader, Layout, frame_layout, read
from hub.store.base import SECOND, DecodedBatch, DecodedEvents, DecodedFrame, DecodedGaps
from lab_contract.batch import (
    CLOCK_UNKNOWN,
    EVENT_COLUMNS,
    EVENT_SCHEMA_HASH,
    EVENT_STREAM,
    GAP_COLUMNS,
    GAP_SCHEMA_HASH,
    GAP_STREAM,
    Batch,
    Gap,
    GapReason,
    Header,
    Shape,
    unpack,
)
from lab_contract.errors import BatchRejected
from lab_contract.kit import KitModel

EARLIEST_NS = 946_684_800 * SECOND
"""2000-01-01T00:00:00Z: a clock before that was never set."""
AHEAD_NS = 24 * 3600 * SECOND
"""How far after the hub's now a sample may claim to be: a wrong zone is let through, a year 2200 is not."""
MOST_OFFSET_NS = 100 * 366 * 24 * 3600 * SECOND
"""A clock offset that is larger is none; with it the corrected time would leave 64 bits."""
TEXT_BYTES = 4096
"""A longer text is no state and no message of a controller."""
EVENT_TYPES = (pa.int64(), pa.string(), pa.float64(), pa.string(), pa.uint32(), pa.int64(), pa.int64())
GAP_TYPES = (pa.string(), pa.int64(), pa.int64(), pa.string(), pa.int64())
EVENT_LAYOUT = Layout(pa.schema(list(zip(EVENT_COLUMNS, EVENT_TYPES, strict=True))), EVENT_SCHEMA_HASH)
GAP_LAYOUT = Layout(pa.schema(list(zip(GAP_COLUMNS, GAP_TYPES, strict=True))), GAP_SCHEMA_HASH)
GAP_REASONS = frozenset(GapReason)
EVENTS_NEVER_NULL = ("t", "channel", "quality")
GAPS_NEVER_NULL = ("stream", "t_from", "t_to", "reason")
_layout_of = lru_cache(maxsize=256)(frame_layout)
_of_thread = threading.local()


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
    batch, kit = checked_batch(data, sender, kits)
    header = batch.header
    if header.shape is Shape.FRAME:
        return _frame(header, batch.payload, data, kit.model, now_ns)
    if header.shape is Shape.EVENT:
        return _events(header, batch.payload, data, kit.model, now_ns)
    return _gaps(header, batch.payload, data, kit.model, now_ns)


def checked_batch(data: bytes, sender: str, kits: Mapping[str, KitEntry]) -> tuple[Batch, KitEntry]:
    """The batch with a header that is whole and its sender's, and the kit that it is of. Raises BatchRejected."""
    batch = unpack(data)
    header = batch.header
    if header.edge != sender:
        raise BatchRejected("forged_edge", f"edge {header.edge!r} in the header, sent by {sender!r}")
    kit = kits.get(header.kit)
    if kit is None:
        raise BatchRejected("unknown_kit", f"kit {header.kit!r}, expected one that is in the catalog")
    if kit.edge != sender:
        raise BatchRejected("foreign_kit", f"kit {header.kit!r} hangs on edge {kit.edge!r}, sent by {sender!r}")
    if header.clock_uncertainty_ns < CLOCK_UNKNOWN or abs(header.clock_offset_ns) > MOST_OFFSET_NS:
        detail = f"clock offset {header.clock_offset_ns} ns, uncertainty {header.clock_uncertainty_ns} ns"
        raise BatchRejected("bad_clock", f"{detail}, expected an offset below 100 years and an uncertainty from -1 on")
    return batch, kit


def _frame(header: Header, payload: memoryview, raw: bytes, model: KitModel, now_ns: int) -> DecodedFrame:
    stream = model.stream_by_id.get(header.stream)
    if stream is None:
        raise BatchRejected("unknown_stream", f"stream {header.stream!r}, expected one of {sorted(model.stream_by_id)}")
    layout = _layout_of(stream.channels)
    _same_hash(header, layout.hashed)
    t, values = _frame_reader().read(payload, header.rows, layout)
    if not (t[1:] > t[:-1]).all():
        raise BatchRejected("time_order", "expected each sample of a frame later than the one before")
    sane_times(int(t[0]), int(t[-1]), now_ns)
    finite = np.isfinite(values)
    if not finite.all():
        values = np.where(finite, values, np.float32(np.nan))
    return DecodedFrame(header, now_ns, raw, stream.channels, t, values)


def _frame_reader() -> FrameReader:
    """The calling thread's own: what it remembers is not guarded."""
    reader: FrameReader | None = getattr(_of_thread, "reader", None)
    if reader is None:
        reader = _of_thread.reader = FrameReader()
    return reader


def _events(header: Header, payload: memoryview, raw: bytes, model: KitModel, now_ns: int) -> DecodedEvents:
    if header.stream != EVENT_STREAM:
        raise BatchRejected("unknown_stream", f"stream {header.stream!r}, expected {EVENT_STREAM!r} for events")
    _same_hash(header, EVENT_SCHEMA_HASH)
    rows = read(payload, header.rows, EVENT_LAYOUT)
    column = dict(zip(EVENT_COLUMNS, rows.columns, strict=True))
    _no_nulls(column, EVENTS_NEVER_NULL)
    encoded = column["channel"].dictionary_encode()
    channels = tuple(encoded.dictionary.to_pylist())
    known_channels(channels, model)
    text, t_server, t_receipt = column["text"], column["t_server"], column["t_receipt"]
    longest = 0 if text.null_count == len(text) else pc.max(pc.binary_length(text)).as_py()
    if longest > TEXT_BYTES:
        raise BatchRejected("text_too_long", f"a text of {longest} bytes, expected at most {TEXT_BYTES}")
    t = column["t"].to_numpy()
    sane_times(int(t.min()), int(t.max()), now_ns)
    index = encoded.indices.to_numpy()
    values = column["value"].to_numpy(zero_copy_only=False)
    quality = column["quality"].to_numpy()
    if not (t[1:] >= t[:-1]).all():
        # Stable: of two changes at one instant the one that was sent later counts as the later.
        order = np.argsort(t, kind="stable")
        take = pa.array(order)
        t, index, values, quality = t[order], index[order], values[order], quality[order]
        text, t_server, t_receipt = text.take(take), t_server.take(take), t_receipt.take(take)
    finite = np.isfinite(values)
    if not finite.all():
        values = np.where(finite, values, np.nan)
    return DecodedEvents(header, now_ns, raw, channels, index, t, values, quality, text, t_server, t_receipt)


def _gaps(header: Header, payload: memoryview, raw: bytes, model: KitModel, now_ns: int) -> DecodedGaps:
    if header.stream != GAP_STREAM:
        raise BatchRejected("unknown_stream", f"stream {header.stream!r}, expected {GAP_STREAM!r} for gaps")
    _same_hash(header, GAP_SCHEMA_HASH)
    rows = read(payload, header.rows, GAP_LAYOUT)
    column = dict(zip(GAP_COLUMNS, rows.columns, strict=True))
    _no_nulls(column, GAPS_NEVER_NULL)
    for stream in column["stream"].unique().to_pylist():
        if stream != EVENT_STREAM and stream not in model.stream_by_id:
            known = sorted([EVENT_STREAM, *model.stream_by_id])
            raise BatchRejected("unknown_stream", f"a gap of stream {stream[:80]!r}, expected one of {known}")
    for reason in column["reason"].unique().to_pylist():
        if reason not in GAP_REASONS:
            raise BatchRejected("unknown_reason", f"reason {reason[:80]!r}, expected one of {', '.join(GapReason)}")
    begin, end = column["t_from"].to_numpy(), column["t_to"].to_numpy()
    sane_times(int(min(begin.min(), end.min())), int(max(begin.max(), end.max())), now_ns)
    if np.any(begin > end):
        raise BatchRejected("time_order", "a gap that ends before it begins")
    if (pc.min(column["count"]).as_py() or 0) < 0:
        raise BatchRejected("bad_count", "a gap of less than no samples")
    found = zip(*(rows.column(place).to_pylist() for place in range(len(GAP_COLUMNS))), strict=True)
    gaps = tuple(Gap(stream, t_from, t_to, GapReason(why), n) for stream, t_from, t_to, why, n in found)
    return DecodedGaps(header, now_ns, raw, gaps)


def known_channels(channels: Iterable[str], model: KitModel) -> None:
    """Raises BatchRejected for a channel that the kit model does not have."""
    for channel in channels:
        if channel not in model.channel_by_id:
            raise BatchRejected("unknown_channel", f"channel {channel[:80]!r}, expected one of kit model {model.id}")


def _no_nulls(column: Mapping[str, pa.Array], names: tuple[str, ...]) -> None:
    for name in names:
        if column[name].null_count:
            raise BatchRejected("null_value", f"column {name}: expected no nulls")


def _same_hash(header: Header, expected: int) -> None:
    if header.schema_hash != expected:
        raise BatchRejected(
            "schema_hash",
            f"stream {header.stream!r}: columns {header.schema_hash:016x}, expected {expected:016x}; "
            "edge and hub use different versions of the kit model",
        )


def sane_times(first: int, last: int, now_ns: int) -> None:
    """Raises BatchRejected for a time of no clock that was ever set, or too far after the hub's `now_ns`."""
    if first < EARLIEST_NS:
        raise BatchRejected("time_too_early", f"{first} ns, expected not before 2000-01-01T00:00:00Z")
    if last > now_ns + AHEAD_NS:
        raise BatchRejected("time_in_future", f"{last} ns, expected at most one day after the hub's {now_ns} ns")
