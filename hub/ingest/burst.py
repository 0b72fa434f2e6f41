"""A burst decoded together: receives the messages of a burst, hands on what `decode` makes of each, in the same order.

Each call of Arrow gives the interpreter away, and while the network thread and the pages are busy the writer waits to
have it back: for a batch of PLC changes that costs more than the decoding. So event batches go through Arrow all at
once: one read a batch, and one validation, one table of names and one look at the times for all. Whatever is not as
usual is decoded by itself, which also finds the reason why it is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
from numpy.typing import NDArray

from hub.ingest.decode import (
    EVENT_LAYOUT,
    EVENTS_NEVER_NULL,
    TEXT_BYTES,
    KitEntry,
    checked_batch,
    decode,
    known_channels,
    sane_times,
)
from hub.ingest.inbox import Message
from hub.store.base import DecodedBatch, DecodedEvents
from lab_contract.batch import EVENT_SCHEMA_HASH, EVENT_STREAM, HEADER_BYTES, Batch, Shape
from lab_contract.errors import BatchRejected

log = logging.getLogger(__name__)

LEAST = 3
"""Fewer event batches are decoded one by one."""
SHAPE_OFFSET = 5
END_OF_STREAM = (b"", b"\xff\xff\xff\xff\0\0\0\0")
_SIZES = 8
"""Continuation and length before the metadata of an Arrow message."""

Found = DecodedBatch | BatchRejected


@dataclass(frozen=True, slots=True)
class _Part:
    """An event batch whose header is in order, with its rows as they stand in the message, not validated yet."""

    place: int
    message: Message
    batch: Batch
    kit: KitEntry
    rows: pa.RecordBatch


def decode_burst(messages: Sequence[Message], kits: Mapping[str, KitEntry]) -> list[Found]:
    """For each message the batch, or the reason why it can never be stored."""
    parts = [part for place, message in enumerate(messages) if (part := _part(place, message, kits)) is not None]
    together = _together(parts) if len(parts) >= LEAST else {}
    return [together[place] if place in together else _alone(message, kits) for place, message in enumerate(messages)]


def _alone(message: Message, kits: Mapping[str, KitEntry]) -> Found:
    try:
        return decode(message.data, message.sender, kits, message.received_ns)
    except BatchRejected as rejected:
        return rejected
    except Exception as error:
        # A fault of ours in decoding must not stop everyone else's data.
        log.exception("decoding a batch of edge %s failed", message.sender)
        return BatchRejected("decoder_fault", f"{type(error).__name__}: {error}")


def _part(place: int, message: Message, kits: Mapping[str, KitEntry]) -> _Part | None:
    """None for what is no event batch, or none that looks as usual."""
    data = message.data
    if len(data) <= HEADER_BYTES or data[SHAPE_OFFSET] != Shape.EVENT:
        return None
    try:
        batch, kit = checked_batch(data, message.sender, kits)
        if batch.header.stream != EVENT_STREAM or batch.header.schema_hash != EVENT_SCHEMA_HASH:
            return None
        rows = _rows(batch)
    except (BatchRejected, pa.ArrowException, ValueError, OSError):
        return None  # It is decoded by itself, and refused there.
    return None if rows is None else _Part(place, message, batch, kit, rows)


def _rows(batch: Batch) -> pa.RecordBatch | None:
    payload = batch.payload
    schema_end = _SIZES + int.from_bytes(payload[4:_SIZES], "little")
    if not _is_usual_schema(bytes(payload[:schema_end])):
        return None
    found = pa.ipc.read_message(pa.py_buffer(payload[schema_end:]))
    if found.type != "record batch" or found.body is None:
        return None
    end = schema_end + _SIZES + found.metadata.size + found.body.size
    if bytes(payload[end:]) not in END_OF_STREAM:
        return None
    rows = pa.ipc.read_record_batch(found, EVENT_LAYOUT.schema)
    return rows if rows.num_rows == batch.header.rows else None


@lru_cache(maxsize=16)
def _is_usual_schema(message: bytes) -> bool:
    """Whether these bytes are an Arrow schema message of event columns; senders of one kind have the same bytes."""
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(message))
    except (pa.ArrowException, ValueError, OSError):
        return False
    return bool(schema.names == EVENT_LAYOUT.schema.names and schema.types == EVENT_LAYOUT.schema.types)


def _together(parts: Sequence[_Part]) -> dict[int, Found]:
    """What could be decoded in one go, by place; nothing where one of them is damaged."""
    try:
        table = pa.Table.from_batches([part.rows for part in parts])
        table.validate(full=True)
        if any(table.column(name).null_count for name in EVENTS_NEVER_NULL):
            return {}
        text = _whole(table, "text")
        longest = 0 if text.null_count == len(text) else pc.max(pc.binary_length(text)).as_py()
        if longest > TEXT_BYTES:
            return {}
        encoded = _whole(table, "channel").dictionary_encode()
        names: list[str] = encoded.dictionary.to_pylist()
        t_server, t_receipt = _whole(table, "t_server"), _whole(table, "t_receipt")
        t, quality = _whole(table, "t").to_numpy(), _whole(table, "quality").to_numpy()
        values = _whole(table, "value").to_numpy(zero_copy_only=False)
    except (pa.ArrowException, ValueError, OSError):
        return {}
    index = encoded.indices.to_numpy()
    finite = np.isfinite(values)
    if not finite.all():
        values = np.where(finite, values, np.nan)
    ends = np.cumsum([part.rows.num_rows for part in parts])
    runs_back = _runs_back(t, ends)
    found: dict[int, Found] = {}
    begin = 0
    for part, end, back in zip(parts, ends.tolist(), runs_back.tolist(), strict=True):
        piece = slice(begin, end)
        length, offset = end - begin, begin
        begin = end
        if back:
            continue  # Its rows have to be sorted.
        places = np.flatnonzero(np.bincount(index[piece], minlength=len(names)))
        own = np.zeros(len(names), dtype=np.int32)
        own[places] = np.arange(len(places), dtype=np.int32)
        channels = tuple(names[place] for place in places.tolist())
        try:
            known_channels(channels, part.kit.model)
            sane_times(int(t[offset]), int(t[end - 1]), part.message.received_ns)
        except BatchRejected as rejected:
            found[part.place] = rejected
            continue
        found[part.place] = DecodedEvents(
            part.batch.header,
            part.message.received_ns,
            part.message.data,
            channels,
            own[index[piece]],
            t[piece],
            values[piece],
            quality[piece],
            text.slice(offset, length),
            t_server.slice(offset, length),
            t_receipt.slice(offset, length),
        )
    return found


def _whole(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name).combine_chunks()
    return column.chunk(0) if isinstance(column, pa.ChunkedArray) else column


def _runs_back(t: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Of each stretch that ends before `ends`, whether a time in it is earlier than the one before."""
    back = np.flatnonzero(t[1:] < t[:-1]) + 1
    found = np.zeros(len(ends), dtype=bool)
    stretch = np.searchsorted(ends, back, side="right")
    # The first row of a stretch follows the last of another batch.
    first = np.concatenate(([0], ends[:-1]))
    found[stretch[back != first[stretch]]] = True
    return found
