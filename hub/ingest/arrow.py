"""The Arrow half of decoding: receives the payload of a batch, hands on columns whose buffers have been checked.

Frames have a short way. Where each column of a frame stands is told by the Arrow metadata alone, and a stream's frames
carry the same metadata byte for byte as long as their row count is the same. So the first is read and validated by
Arrow, and the places found are used for every later frame whose metadata are those very bytes: nothing of what Arrow
validates depends on the body of fixed-width columns without nulls. It takes a tenth of the time.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.ipc
from numpy.typing import NDArray

from lab_contract.batch import frame_columns, schema_hash
from lab_contract.errors import BatchRejected

CONTINUATION = b"\xff\xff\xff\xff"
_METADATA_BYTES = struct.Struct("<i")
MOST_KNOWN = 256
"""Frame layouts remembered: kit models times usual row counts; more only where a sender plays with them."""
MOST_METADATA = 64 * 1024


@dataclass(frozen=True)
class Layout:
    """The columns that a batch must have, and their schema hash."""

    schema: pa.Schema
    hashed: int

    @property
    def names(self) -> list[str]:
        """Column names in order."""
        return list(self.schema.names)


def frame_layout(channels: tuple[str, ...]) -> Layout:
    """The columns of a stream with these channels."""
    schema = pa.schema([("t", pa.int64()), *((channel, pa.float32()) for channel in channels)])
    return Layout(schema, schema_hash(frame_columns(channels)))


def read(payload: memoryview, rows: int, layout: Layout) -> pa.RecordBatch:
    """The one record batch of an Arrow IPC stream, its buffers checked, with exactly these columns and rows.

    Raises BatchRejected.
    """
    try:
        with pa.ipc.open_stream(pa.py_buffer(payload)) as reader:
            schema = reader.schema
            # Before the first batch is read: a dictionary or a nested type never gets as far as being decoded.
            if schema.names != layout.schema.names or schema.types != layout.schema.types:
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


def _shown(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}:{field.type}" for field in schema)[:200]


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the columns of a frame stand in its payload: `t` and the first channel, then one channel every `step`."""

    t: int
    first: int
    step: int
    body_end: int
    tail: bytes


class FrameReader:
    """Reads the frames of a hub. Used by one thread."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, int, int, bytes], _Places] = OrderedDict()

    def read(self, payload: memoryview, rows: int, layout: Layout) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """`t` (rows,) and values (channels, rows), views of the payload. Raises BatchRejected."""
        metadata = _metadata(payload)
        key = (layout.hashed, rows, len(payload), metadata)
        places = self._known.get(key)
        if places is not None and payload[places.body_end :] == places.tail:
            return _views(payload, rows, len(layout.schema) - 1, places)
        batch = read(payload, rows, layout)
        if any(column.null_count for column in batch.columns):
            raise BatchRejected("null_value", "a frame's columns: expected no nulls (a missing sample is NaN)")
        found = _places(payload, batch, len(metadata))
        if found is not None:
            self._known[key] = found
            if len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)
        t = batch.column(0).to_numpy()
        values = np.empty((batch.num_columns - 1, rows), dtype=np.float32)
        for row, column in zip(values, batch.columns[1:], strict=True):
            row[:] = column.to_numpy()
        return t, values


def _metadata(payload: memoryview) -> bytes:
    """Schema and record batch metadata at the beginning of an Arrow stream; empty where it does not look like one."""
    at = 0
    # Two messages: the schema, which has no body, and the record batch, whose body follows its metadata.
    for _ in range(2):
        if payload[at : at + 4] != CONTINUATION or at + 8 > len(payload):
            return b""
        (size,) = _METADATA_BYTES.unpack_from(payload, at + 4)
        at += 8 + size
        if not 0 < size <= MOST_METADATA or at > len(payload):
            return b""
    return bytes(payload[:at])


def _places(payload: memoryview, batch: pa.RecordBatch, body: int) -> _Places | None:
    """None where the columns do not stand evenly in the body, such as compressed ones."""
    if not body:
        return None
    base = pa.py_buffer(payload).address
    starts: list[int] = []
    for column, width in zip(batch.columns, (8, *(4 for _ in batch.columns[1:])), strict=True):
        validity, values = column.buffers()
        if (validity is not None and validity.size) or column.offset or values is None:
            return None
        start = values.address - base
        if start < body or start % width or start + width * batch.num_rows > len(payload):
            return None
        starts.append(start)
    step = starts[2] - starts[1] if len(starts) > 2 else 0
    if any(b - a != step for a, b in pairwise(starts[1:])) or step < 0 or step % 4:
        return None
    end = max(starts[0] + 8 * batch.num_rows, starts[-1] + 4 * batch.num_rows)
    return _Places(starts[0], starts[1], step, end, bytes(payload[end:]))


def _views(
    payload: memoryview, rows: int, channels: int, places: _Places
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    t = np.frombuffer(payload, np.int64, rows, places.t)
    values: NDArray[np.float32] = np.ndarray(
        (channels, rows), np.float32, payload, places.first, (places.step or 4 * rows, 4)
    )
    return t, values
