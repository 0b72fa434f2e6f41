"""The batch: what is spooled is what is sent.

A fixed little-endian header of 176 bytes, then one Arrow IPC stream (schema and one record batch). Three shapes:

* `frame`, a group of channels sampled together: `t` (int64, UTC ns) and one float32 column a channel;
* `event`, single changes: `t`, `channel` (text), `value` (float64 or null), `text` (or null), `quality` (uint32, an
  OPC UA StatusCode, 0 is Good), `t_server` and `t_receipt` (int64 ns or null);
* `gap`, what was lost before it could be spooled: `stream`, `t_from` and `t_to` (int64, UTC ns), `reason` (text),
  `count` (int64, samples or changes lost; null where nobody knows). Delivered like data, so that a hole says why.

`t` is the time of the source. The CRC-32C (RFC 3720, appendix B.4) is taken over header and payload with the crc field
zero, so that any changed byte is noticed. The edge writes the Arrow stream with nanoarrow, the hub reads it with
pyarrow.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum
from functools import lru_cache
from typing import Any

import google_crc32c
import nanoarrow  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
from nanoarrow.ipc import StreamWriter  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray

from lab_contract.errors import BatchRejected
from lab_contract.topics import IDENTIFIER

# Both libraries ship without types.
na: Any = nanoarrow
stream_writer: Any = StreamWriter
crc32c: Any = google_crc32c

MAGIC = b"EPIB"
VERSION = 1
HEADER = struct.Struct("<4sBBHIIIIQQQqq32s32s48s")
"""magic, version, shape, flags, crc32c, rows, payload bytes, reserved, epoch, seq, schema hash, clock offset ns, clock
uncertainty ns, edge, kit, stream."""
HEADER_BYTES = HEADER.size
CRC_OFFSET = 8
CLOCK_UNKNOWN = -1
"""The clock uncertainty of a batch whose edge has not compared its clock with the hub's yet."""
MAX_BYTES = 4 * 1024 * 1024
"""No batch is larger; the broker's message limit stands above it."""
MAX_ROWS = 1_000_000

EVENT_COLUMNS = ("t", "channel", "value", "text", "quality", "t_server", "t_receipt")
EVENT_STREAM = "events"
GAP_COLUMNS = ("stream", "t_from", "t_to", "reason", "count")
GAP_STREAM = "gaps"


class Shape(IntEnum):
    """How the rows of a batch are laid out."""

    FRAME = 1
    EVENT = 2
    GAP = 3


class GapReason(StrEnum):
    """Why samples of a stream are missing from `t_from` to `t_to`."""

    STOPPED = "stopped"
    """The edge agent did not run."""
    DISCONNECTED = "disconnected"
    """The equipment could not be read."""
    OVERFLOW = "overflow"
    """A queue of the equipment or of the source was too short for a busy edge."""
    COUNTER_JUMP = "counter_jump"
    """The equipment's own counter says that samples never arrived."""
    SPOOL_FULL = "spool_full"
    """The spool had no room left; what had waited longest was dropped."""
    DISK = "disk"
    """The edge's disk took nothing."""
    UNREADABLE = "unreadable"
    """The spool could not be read again: its file or a batch in it was corrupt."""


@dataclass(frozen=True, slots=True)
class Gap:
    """`count` samples or changes of `stream` from `t_from` to `t_to` (UTC ns) were lost; None where nobody knows."""

    stream: str
    t_from: int
    t_to: int
    reason: GapReason
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """Who sends what. (`edge`, `epoch`, `seq`) is the id of the batch: the same id is stored once."""

    edge: str
    epoch: int
    seq: int
    kit: str
    stream: str
    shape: Shape
    rows: int = 0
    schema_hash: int = 0
    clock_offset_ns: int = 0
    """To be added to the edge's clock to have the hub's; the times in the batch are the edge's own, never changed."""
    clock_uncertainty_ns: int = CLOCK_UNKNOWN
    """Half of the least round trip of the probes: the truth lies within offset +- uncertainty."""
    crc: int = 0

    @property
    def id(self) -> tuple[str, int, int]:
        """(`edge`, `epoch`, `seq`)."""
        return self.edge, self.epoch, self.seq


@dataclass(frozen=True, slots=True)
class Batch:
    """A checked header and the Arrow IPC stream behind it."""

    header: Header
    payload: memoryview


def schema_hash(columns: Sequence[tuple[str, str]]) -> int:
    """64 bits of SHA-256 over `name:type` of each column; tells a changed stream without reading Arrow."""
    text = ",".join(f"{name}:{kind}" for name, kind in columns)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


@lru_cache(maxsize=256)
def _frame_schema(channels: tuple[str, ...]) -> tuple[Any, int]:
    columns = {"t": na.int64(), **{channel: na.float32() for channel in channels}}
    return na.c_schema(na.struct(columns)), schema_hash(frame_columns(channels))


def frame_columns(channels: Sequence[str]) -> list[tuple[str, str]]:
    """Names and Arrow types of a frame's columns."""
    return [("t", "int64"), *((channel, "float") for channel in channels)]


def event_columns() -> list[tuple[str, str]]:
    """Names and Arrow types of an event batch's columns."""
    kinds = ("int64", "string", "double", "string", "uint32", "int64", "int64")
    return list(zip(EVENT_COLUMNS, kinds, strict=True))


def gap_columns() -> list[tuple[str, str]]:
    """Names and Arrow types of a gap batch's columns."""
    return list(zip(GAP_COLUMNS, ("string", "int64", "int64", "string", "int64"), strict=True))


_INT64: Any = na.c_schema(na.int64())
_UINT32: Any = na.c_schema(na.uint32())
_FLOAT32: Any = na.c_schema(na.float32())
_FLOAT64: Any = na.c_schema(na.float64())
_STRING: Any = na.c_schema(na.string())
_EVENT_SCHEMA: Any = na.c_schema(
    na.struct(
        {
            "t": na.int64(),
            "channel": na.string(),
            "value": na.float64(),
            "text": na.string(),
            "quality": na.uint32(),
            "t_server": na.int64(),
            "t_receipt": na.int64(),
        }
    )
)
EVENT_SCHEMA_HASH = schema_hash(event_columns())
_GAP_SCHEMA: Any = na.c_schema(
    na.struct(
        {"stream": na.string(), "t_from": na.int64(), "t_to": na.int64(), "reason": na.string(), "count": na.int64()}
    )
)
GAP_SCHEMA_HASH = schema_hash(gap_columns())


def encode_frame(header: Header, t: NDArray[np.int64], channels: Sequence[str], values: NDArray[np.float32]) -> bytes:
    """A frame batch: `t` of shape (n,) in UTC ns, `values` of shape (channels, n) in the channels' units.

    Raises ValueError where the shapes do not fit each other.
    """
    if values.shape != (len(channels), len(t)):
        raise ValueError(f"values of shape {values.shape}, expected {(len(channels), len(t))}")
    schema, hashed = _frame_schema(tuple(channels))
    children: list[Any] = [_numbers(_INT64, np.ascontiguousarray(t, dtype=np.int64))]
    children += [_numbers(_FLOAT32, np.ascontiguousarray(row, dtype=np.float32)) for row in values]
    return _encode(header, Shape.FRAME, schema, hashed, len(t), children)


def encode_events(
    header: Header,
    t: Sequence[int],
    channel: Sequence[str],
    value: Sequence[float | None],
    text: Sequence[str | None],
    quality: Sequence[int],
    t_server: Sequence[int | None],
    t_receipt: Sequence[int | None],
) -> bytes:
    """An event batch: one row a change, all columns of one length. Raises ValueError where the lengths differ."""
    columns = (t, channel, value, text, quality, t_server, t_receipt)
    if len({len(column) for column in columns}) != 1:
        raise ValueError(f"columns of lengths {[len(column) for column in columns]}, expected one length")
    children: list[Any] = [
        _numbers(_INT64, np.asarray(t, dtype=np.int64)),
        na.c_array(channel, _STRING),
        _nullable(_FLOAT64, value, np.float64),
        na.c_array(text, _STRING),
        _numbers(_UINT32, np.asarray(quality, dtype=np.uint32)),
        _nullable(_INT64, t_server, np.int64),
        _nullable(_INT64, t_receipt, np.int64),
    ]
    return _encode(header, Shape.EVENT, _EVENT_SCHEMA, EVENT_SCHEMA_HASH, len(t), children)


def encode_gaps(header: Header, gaps: Sequence[Gap]) -> bytes:
    """A gap batch, one row a gap."""
    children: list[Any] = [
        na.c_array([gap.stream for gap in gaps], _STRING),
        _numbers(_INT64, np.asarray([gap.t_from for gap in gaps], dtype=np.int64)),
        _numbers(_INT64, np.asarray([gap.t_to for gap in gaps], dtype=np.int64)),
        na.c_array([gap.reason.value for gap in gaps], _STRING),
        _nullable(_INT64, [gap.count for gap in gaps], np.int64),
    ]
    return _encode(header, Shape.GAP, _GAP_SCHEMA, GAP_SCHEMA_HASH, len(gaps), children)


# Numbers are handed over as buffers: nanoarrow's own way from lists of numbers makes a batch half as dear again.


def _numbers(schema: Any, values: NDArray[Any]) -> Any:
    return na.c_array_from_buffers(schema, len(values), [None, values], null_count=0, move=True)


def _nullable(schema: Any, values: Sequence[float | None] | Sequence[int | None], kind: type[np.number[Any]]) -> Any:
    if None not in values:
        return _numbers(schema, np.asarray(values, dtype=kind))
    present = np.asarray([value is not None for value in values])
    filled = np.asarray([0 if value is None else value for value in values], dtype=kind)
    valid = np.packbits(present, bitorder="little")
    nulls = len(values) - int(present.sum())
    return na.c_array_from_buffers(schema, len(values), [valid, filled], null_count=nulls, move=True)


def _encode(header: Header, shape: Shape, schema: Any, hashed: int, rows: int, children: list[Any]) -> bytes:
    out = io.BytesIO()
    with stream_writer.from_writable(out) as writer:
        writer.write_array(na.c_array_from_buffers(schema, rows, [None], children=children))
    return pack(replace(header, shape=shape, rows=rows, schema_hash=hashed), out.getvalue())


def pack(header: Header, payload: bytes) -> bytes:
    """Header and payload as sent, with the checksum filled in. Raises ValueError for a field that does not fit."""
    for name, field, size in (("edge", header.edge, 32), ("kit", header.kit, 32), ("stream", header.stream, 48)):
        if not IDENTIFIER.match(field) or len(field) > size:
            raise ValueError(f"{name} {field!r}: expected 1 to 32 of a-z, 0-9, '-', '_'")
    if HEADER_BYTES + len(payload) > MAX_BYTES:
        raise ValueError(f"batch of {HEADER_BYTES + len(payload)} bytes, expected at most {MAX_BYTES}")
    head = bytearray(
        HEADER.pack(
            MAGIC,
            VERSION,
            header.shape,
            0,
            0,
            header.rows,
            len(payload),
            0,
            header.epoch,
            header.seq,
            header.schema_hash,
            header.clock_offset_ns,
            header.clock_uncertainty_ns,
            header.edge.encode(),
            header.kit.encode(),
            header.stream.encode(),
        )
    )
    struct.pack_into("<I", head, CRC_OFFSET, _checksum(bytes(head), payload))
    return bytes(head) + payload


def _checksum(head: bytes, payload: bytes) -> int:
    return crc32c.extend(crc32c.value(head), payload)


def digest(data: bytes) -> int:
    """CRC-32C of a whole message; names one that the hub keeps aside, whatever its header says."""
    return crc32c.value(data)


def unpack(data: bytes) -> Batch:
    """The batch in these bytes. Raises BatchRejected where they are no whole, unchanged batch of this version."""
    if len(data) < HEADER_BYTES:
        raise BatchRejected("too_short", f"{len(data)} bytes, expected at least {HEADER_BYTES}")
    if len(data) > MAX_BYTES:
        raise BatchRejected("too_long", f"{len(data)} bytes, expected at most {MAX_BYTES}")
    fields = HEADER.unpack_from(data)
    magic, version, shape, flags, crc, rows, size, reserved = fields[:8]
    epoch, seq, hashed, offset, uncertainty, edge, kit, stream = fields[8:]
    if magic != MAGIC:
        raise BatchRejected("not_a_batch", f"starts with {magic!r}, expected {MAGIC!r}")
    if version != VERSION:
        raise BatchRejected("unknown_version", f"version {version}, expected {VERSION}")
    if len(data) != HEADER_BYTES + size:
        raise BatchRejected("wrong_length", f"{len(data) - HEADER_BYTES} bytes of payload, header says {size}")
    head = bytearray(data[:HEADER_BYTES])
    struct.pack_into("<I", head, CRC_OFFSET, 0)
    payload = memoryview(data)[HEADER_BYTES:]
    found = _checksum(bytes(head), data[HEADER_BYTES:])
    if found != crc:
        raise BatchRejected("checksum", f"crc32c {found:08x}, header says {crc:08x}")
    if flags or reserved:
        raise BatchRejected("unknown_flags", f"flags {flags:#x}, expected none")
    if shape not in iter(Shape):
        raise BatchRejected("unknown_shape", f"shape {shape}, expected 1 (frame), 2 (event) or 3 (gap)")
    if not 0 < rows <= MAX_ROWS:
        raise BatchRejected("row_count", f"{rows} rows, expected 1 to {MAX_ROWS}")
    return Batch(
        Header(
            edge=_identifier("edge", edge),
            epoch=epoch,
            seq=seq,
            kit=_identifier("kit", kit),
            stream=_identifier("stream", stream),
            shape=Shape(shape),
            rows=rows,
            schema_hash=hashed,
            clock_offset_ns=offset,
            clock_uncertainty_ns=uncertainty,
            crc=crc,
        ),
        payload,
    )


def _identifier(name: str, field: bytes) -> str:
    text = field.rstrip(b"\0").decode("ascii", "replace")
    if not IDENTIFIER.match(text):
        raise BatchRejected("bad_identifier", f"{name} {text!r}: expected 1 to 32 of a-z, 0-9, '-', '_'")
    return text
