"""What a broken or hostile wire delivers: malformed and well-formed-but-insane messages for the tests of edge and hub.

`BATCHES` come on the topic of edge `edge-1` at the instant `NOW`, with the small kit as `kit-1`: each must be kept
aside for its reason. `STATUSES` and `ACKS` must raise MessageInvalid. `SERIAL` is what a serial line may carry between
good frames: a decoder must neither raise nor invent values from it, and find the next good frame.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from lab_contract.batch import (
    CRC_OFFSET,
    EVENT_SCHEMA_HASH,
    EVENT_STREAM,
    HEADER,
    HEADER_BYTES,
    MAX_BYTES,
    Gap,
    GapReason,
    Header,
    Shape,
    crc32c,
    frame_columns,
    pack,
    schema_hash,
)
from tests.small_kit import EDGE, EEG, KIT, NOW, SECOND, event_bytes, frame_bytes, gap_bytes

T = [NOW, NOW + 4_000_000, NOW + 8_000_000]
FRAME = frame_bytes(1, T)
GAPS = gap_bytes(
    3, [Gap("eeg", NOW, NOW + SECOND, GapReason.COUNTER_JUMP, 250), Gap("events", NOW, NOW, GapReason.STOPPED)]
)
EVENTS = event_bytes(2, [(NOW, "line.state", 1, "Execute"), (NOW + 1, "line.program", None, "part A")])
FRAME_HASH = schema_hash(frame_columns(EEG))
FIELDS = (
    "magic",
    "version",
    "shape",
    "flags",
    "crc",
    "rows",
    "size",
    "reserved",
    "epoch",
    "seq",
    "schema_hash",
    "clock_offset",
    "clock_uncertainty",
    "edge",
    "kit",
    "stream",
)


@dataclass(frozen=True)
class Hostile:
    """Bytes with a name for the test's report and the reason with which they must be refused."""

    name: str
    data: bytes
    reason: str


def sealed(data: bytes) -> bytes:
    """The batch with a checksum that fits, as a faulty sender would make it."""
    head = bytearray(data[:HEADER_BYTES])
    struct.pack_into("<I", head, CRC_OFFSET, 0)
    struct.pack_into("<I", head, CRC_OFFSET, crc32c.extend(crc32c.value(bytes(head)), data[HEADER_BYTES:]))
    return bytes(head) + data[HEADER_BYTES:]


def changed(data: bytes, **fields: Any) -> bytes:
    """The batch with other header fields and a checksum that fits."""
    values = dict(zip(FIELDS, HEADER.unpack_from(data), strict=True)) | fields
    return sealed(HEADER.pack(*values.values()) + data[HEADER_BYTES:])


def with_payload(data: bytes, payload: bytes, **fields: Any) -> bytes:
    """The batch with another payload, sealed."""
    return changed(data[:HEADER_BYTES] + payload, size=len(payload), **fields)


def arrow(schema: pa.Schema, *batches: dict[str, Any], options: pa.ipc.IpcWriteOptions | None = None) -> bytes:
    """An Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(pa.record_batch(batch, schema=schema))
    return sink.getvalue().to_pybytes()


FRAME_SCHEMA = pa.schema([("t", pa.int64()), *((channel, pa.float32()) for channel in EEG)])
EVENT_SCHEMA = pa.schema(
    [
        ("t", pa.int64()),
        ("channel", pa.string()),
        ("value", pa.float64()),
        ("text", pa.string()),
        ("quality", pa.uint32()),
        ("t_server", pa.int64()),
        ("t_receipt", pa.int64()),
    ]
)


GAP_SCHEMA = pa.schema(
    [
        ("stream", pa.string()),
        ("t_from", pa.int64()),
        ("t_to", pa.int64()),
        ("reason", pa.string()),
        ("count", pa.int64()),
    ]
)


def frame_arrow(**columns: Any) -> bytes:
    """A frame whose checksum and hash fit, with other columns."""
    values = {"t": T, **{channel: [0.0, 1.0, 2.0] for channel in EEG}} | columns
    return with_payload(FRAME, arrow(FRAME_SCHEMA, values), rows=len(values["t"]))


def event_arrow(**columns: Any) -> bytes:
    """One event whose checksum and hash fit, with other columns."""
    values = {
        "t": [NOW],
        "channel": ["line.good"],
        "value": [1.0],
        "text": [None],
        "quality": [0],
        "t_server": [None],
        "t_receipt": [None],
    } | columns
    return with_payload(EVENTS, arrow(EVENT_SCHEMA, values), rows=len(values["t"]))


def gap_arrow(**columns: Any) -> bytes:
    """One gap whose checksum and hash fit, with other columns."""
    values = {"stream": ["eeg"], "t_from": [NOW], "t_to": [NOW + 1], "reason": ["stopped"], "count": [None]} | columns
    return with_payload(GAPS, arrow(GAP_SCHEMA, values), rows=len(values["t_from"]))


def bad_text_offsets() -> bytes:
    """Events whose text column points far outside its own bytes."""
    payload = EVENTS[HEADER_BYTES:]
    place = payload.find(b"line.stateline.program")
    offsets = struct.pack("<iii", 0, 10, 22)
    at = payload.rfind(offsets, 0, place)
    return with_payload(EVENTS, payload[:at] + struct.pack("<iii", 0, 0x7FFFFFF0, 22) + payload[at + 12 :])


def not_utf8() -> bytes:
    """Events whose channel name is no text."""
    return with_payload(EVENTS, EVENTS[HEADER_BYTES:].replace(b"line.program", b"line.progr\xff\xfe"))


def two_batches() -> bytes:
    """A frame with a second record batch behind the first."""
    rows = {"t": T, **{channel: [0.0, 1.0, 2.0] for channel in EEG}}
    return with_payload(FRAME, arrow(FRAME_SCHEMA, rows, rows))


def dictionary_columns() -> bytes:
    """Events with dictionary-encoded names: another layout under the right hash."""
    names8 = pa.dictionary(pa.int8(), pa.string())
    schema = pa.schema([(f.name, names8 if f.name == "channel" else f.type) for f in EVENT_SCHEMA])
    row = {"t": [NOW], "value": [1.0], "text": [None], "quality": [0], "t_server": [None], "t_receipt": [None]}
    names = pa.array(["line.good"]).dictionary_encode().cast(names8)
    return with_payload(EVENTS, arrow(schema, {**row, "channel": names}), rows=1)


def renamed(*names: str) -> bytes:
    """A frame with other column names under the right hash."""
    schema = pa.schema([(name, pa.int64() if name == "t" else pa.float32()) for name in names])
    values = {name: T if name == "t" else [0.0, 1.0, 2.0] for name in names}
    return with_payload(FRAME, arrow(schema, values))


def frame_said_to_be_events() -> bytes:
    """A frame whose header claims events."""
    return changed(FRAME, shape=2, stream=EVENT_STREAM.encode(), schema_hash=EVENT_SCHEMA_HASH)


def endless_metadata() -> bytes:
    """An Arrow message that announces 2 GB of metadata."""
    return with_payload(FRAME, b"\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(64))


def endless_text() -> bytes:
    """A text that no controller would show."""
    return event_arrow(channel=["line.program"], text=["x" * 1_000_000])


def other_stream() -> bytes:
    """A whole batch of a stream that the kit does not have."""
    return pack(replace(_header(), stream="emg", schema_hash=FRAME_HASH), FRAME[HEADER_BYTES:])


def _header() -> Header:
    return Header(EDGE, 1, 1, KIT, "eeg", Shape.FRAME, rows=3, schema_hash=FRAME_HASH)


def _batches() -> list[Hostile]:
    flipped = bytearray(FRAME)
    flipped[-5] ^= 0x10
    future = NOW + 2 * 86_400 * SECOND
    year_2200 = 7_258_118_400 * SECOND
    made: list[tuple[str, str, Callable[[], bytes] | bytes]] = [
        ("nothing", "too_short", b""),
        ("one byte", "too_short", b"E"),
        ("half a header", "too_short", FRAME[:100]),
        ("json instead of a batch", "not_a_batch", b'{"edge": "edge-1", "values": [1, 2, 3]}' * 8),
        ("zeros", "not_a_batch", bytes(4096)),
        ("larger than any batch", "too_long", FRAME + bytes(MAX_BYTES)),
        ("cut in the payload", "wrong_length", FRAME[:-1]),
        ("one byte too many", "wrong_length", FRAME + b"\0"),
        ("a flipped bit", "checksum", bytes(flipped)),
        ("version of next year", "unknown_version", changed(FRAME, version=2)),
        ("unknown flags", "unknown_flags", changed(FRAME, flags=1)),
        ("unknown shape", "unknown_shape", changed(FRAME, shape=9)),
        ("no rows", "row_count", changed(FRAME, rows=0)),
        ("four thousand million rows", "row_count", changed(FRAME, rows=0xFFFFFFFF)),
        ("fewer rows than said", "row_count", changed(FRAME, rows=4)),
        ("edge id with a topic wildcard", "bad_identifier", changed(FRAME, edge=b"+/#")),
        ("kit id that walks the file system", "bad_identifier", changed(FRAME, kit=b"../../etc/passwd")),
        ("kit id with a byte after its end", "bad_identifier", changed(FRAME, kit=b"kit-1\0x")),
        ("no stream id", "bad_identifier", changed(FRAME, stream=b"")),
        ("another edge's name", "forged_edge", changed(FRAME, edge=b"edge-2")),
        ("a kit nobody knows", "unknown_kit", changed(FRAME, kit=b"kit-9")),
        ("a stream the kit has not", "unknown_stream", other_stream),
        ("events in a stream of frames", "unknown_stream", changed(EVENTS, stream=b"eeg")),
        ("a frame in the stream of events", "unknown_stream", changed(FRAME, stream=EVENT_STREAM.encode())),
        ("gaps in a stream of frames", "unknown_stream", changed(GAPS, stream=b"eeg")),
        ("a gap in a stream the kit has not", "unknown_stream", lambda: gap_arrow(stream=["emg"])),
        ("a gap of no stream", "null_value", lambda: gap_arrow(stream=[None])),
        ("a gap for a reason nobody knows", "unknown_reason", lambda: gap_arrow(reason=["the cat"])),
        ("a gap without a reason", "null_value", lambda: gap_arrow(reason=[None])),
        ("a gap that ends before it begins", "time_order", lambda: gap_arrow(t_from=[NOW + 2])),
        ("a gap without a beginning", "null_value", lambda: gap_arrow(t_from=[None])),
        ("a gap since before all times", "time_too_early", lambda: gap_arrow(t_from=[0])),
        ("a gap that lasts for ever", "time_in_future", lambda: gap_arrow(t_to=[2**63 - 1])),
        ("less than nothing lost", "bad_count", lambda: gap_arrow(count=[-1])),
        ("a gap said to be an event", "schema_hash", changed(GAPS, shape=2, stream=EVENT_STREAM.encode())),
        ("a clock offset beyond all clocks", "bad_clock", changed(FRAME, clock_offset=2**62)),
        ("an offset that leaves 64 bits", "bad_clock", changed(EVENTS, clock_offset=-(2**63))),
        ("an uncertainty below nothing", "bad_clock", changed(GAPS, clock_uncertainty=-2)),
        ("columns of another kit model", "schema_hash", changed(FRAME, schema_hash=1)),
        (
            "a frame said to be events",
            "wrong_columns",
            frame_said_to_be_events,
        ),
        ("channels in another order", "wrong_columns", lambda: renamed("t", "eeg.b", "eeg.a")),
        ("a channel missing", "wrong_columns", lambda: renamed("t", "eeg.a")),
        ("a channel too many", "wrong_columns", lambda: renamed("t", "eeg.a", "eeg.b", "eeg.c")),
        ("dictionary-encoded names", "wrong_columns", dictionary_columns),
        ("no arrow at all", "bad_arrow", lambda: with_payload(FRAME, b"not arrow" * 20)),
        ("an empty payload", "bad_arrow", lambda: with_payload(FRAME, b"")),
        ("arrow cut in two", "bad_arrow", lambda: with_payload(FRAME, FRAME[HEADER_BYTES:-200])),
        ("a schema and no rows", "bad_arrow", lambda: with_payload(FRAME, arrow(FRAME_SCHEMA))),
        ("two record batches", "bad_arrow", two_batches),
        ("text offsets outside the text", "bad_arrow", bad_text_offsets),
        ("a name that is not UTF-8", "bad_arrow", not_utf8),
        (
            "a metadata length of 2 GB",
            "bad_arrow",
            endless_metadata,
        ),
        ("no time", "null_value", lambda: frame_arrow(t=[NOW, None, NOW + 1])),
        ("a null among samples", "null_value", lambda: frame_arrow(**{EEG[0]: [0.0, None, 1.0]})),
        ("an event of no channel", "null_value", lambda: event_arrow(channel=[None])),
        ("an event of no quality", "null_value", lambda: event_arrow(quality=[None])),
        ("a channel the kit has not", "unknown_channel", lambda: event_arrow(channel=["line.secret"])),
        ("an empty channel name", "unknown_channel", lambda: event_arrow(channel=[""])),
        (
            "a text of a megabyte",
            "text_too_long",
            endless_text,
        ),
        ("a clock that was never set", "time_too_early", lambda: event_arrow(t=[0])),
        ("a time before all times", "time_too_early", lambda: event_arrow(t=[-(2**63)])),
        ("milliseconds taken for nanoseconds", "time_too_early", lambda: event_arrow(t=[NOW // 1_000_000])),
        ("the day after tomorrow", "time_in_future", lambda: event_arrow(t=[future])),
        ("the year 2200", "time_in_future", lambda: frame_arrow(t=[NOW, NOW + 1, year_2200])),
        ("the end of time", "time_in_future", lambda: event_arrow(t=[2**63 - 1])),
        ("a frame that runs backwards", "time_order", lambda: frame_arrow(t=T[::-1])),
        ("a frame that stands still", "time_order", lambda: frame_arrow(t=[NOW, NOW, NOW])),
    ]
    return [Hostile(name, data if isinstance(data, bytes) else data(), reason) for name, reason, data in made]


BATCHES = _batches()

STATUSES = [
    Hostile("nothing", b"", "invalid"),
    Hostile("not json", b"\xff\xfe{", "invalid"),
    Hostile("a number", b"12", "invalid"),
    Hostile("no edge", b'{"online": true}', "invalid"),
    Hostile("an edge id with a wildcard", b'{"edge": "+/#", "online": true}', "invalid"),
    Hostile("kits as text", b'{"edge": "edge-1", "online": true, "kits": "kit-1"}', "invalid"),
    Hostile("deeply nested", b'{"edge":' * 500 + b"1" + b"}" * 500, "invalid"),
    Hostile("an epoch without end", b'{"edge": "edge-1", "online": true, "epoch": 1e400}', "invalid"),
]
ACKS = [
    Hostile("nothing", b"", "invalid"),
    Hostile("not json", b"{", "invalid"),
    Hostile("no store", b'{"epoch": 1, "stored": [1]}', "invalid"),
    Hostile("sequence numbers as text", b'{"store_id": "x", "epoch": 1, "stored": ["one"]}', "invalid"),
    Hostile("no list", b'{"store_id": "x", "epoch": 1, "stored": 7}', "invalid"),
    Hostile("a reason missing", b'{"store_id": "x", "epoch": 1, "quarantined": [{"digest": 1}]}', "invalid"),
]

_RNG = np.random.default_rng(20260101)
SERIAL = {
    "nothing": b"",
    "zeros": bytes(512),
    "ones": b"\xff" * 512,
    "noise": _RNG.integers(0, 256, 4096, dtype=np.uint8).tobytes(),
    "only start bytes": b"\xa0" * 200,
    "only end bytes": b"\xc0" * 200,
    "start and end with nothing between": b"\xa0\xc0" * 100,
    "a frame cut short by another": b"\xa0\x01\x02\x03" * 16,
    "a boot banner": b"OpenBCI V3 8-16 channel\nADS1299 Device ID: 0x3E\nFirmware: v3.1.1\n$$$",
    "sync bytes of another protocol": b"\xaa\xaa\x04\x80\x02\x00\x01" * 20,
    "a length that never comes": b"\xa5\x5a\xff\xff" + b"\x00" * 40,
    "text of a boot loader": b"waiting for firmware...\r\n" * 10,
    "framing errors read as nulls and breaks": b"\x00\xff" * 256,
}
