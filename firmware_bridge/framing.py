"""The frame format of kit_link: bytes from a kit's own controller come in here, checked frames go on to kit_link.py.

A frame on the wire, before stuffing:

| byte      | content                                                                       |
|-----------|-------------------------------------------------------------------------------|
| 0         | length n of the payload, 0..249                                               |
| 1         | type of the message, see kit_link.py                                          |
| 2         | sequence number 0..255 of the sender, one more for each frame, wraps          |
| 3..2+n    | payload                                                                       |
| 3+n, 4+n  | CRC-16 over bytes 0..2+n, low byte first                                      |

These 5+n bytes are stuffed with COBS (Cheshire and Baker, "Consistent Overhead Byte Stuffing", IEEE/ACM Transactions on
Networking, 1999), which leaves no zero among them and adds one byte, and end with one zero byte. A zero on the wire
therefore always ends a frame: after any loss or noise the next zero is the way back in. The CRC is CRC-16/CCITT-FALSE
(polynomial 0x1021, start 0xFFFF, no reflection): "123456789" gives 0x29B1.

Test vectors (type, sequence number, payload -> wire):

* 0x01, 0x00, `01`       -> `03 01 01 04 01 65 d5 00`
* 0x82, 0x07, `00 00 01` -> `04 03 82 07 01 04 01 af e7 00`
* 0x03, 0xff, nothing    -> `01 05 03 ff 3f 87 00`
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass

MAX_PAYLOAD = 249
"""With it a frame has at most 254 bytes before stuffing, and COBS then adds exactly one."""
OVERHEAD = 5
MAX_STUFFED = MAX_PAYLOAD + OVERHEAD + 1
DELIMITER = b"\0"


@dataclass(frozen=True, slots=True)
class Frame:
    """A checked frame: the message type, the sender's sequence number and the payload."""

    type: int
    seq: int
    payload: bytes


def crc16(data: bytes) -> int:
    """CRC-16/CCITT-FALSE of `data`."""
    return binascii.crc_hqx(data, 0xFFFF)


def stuff(data: bytes) -> bytes:
    """COBS of up to 254 bytes: no zero is left, one byte is added. Raises ValueError for more."""
    if len(data) > MAX_STUFFED - 1:
        raise ValueError(f"{len(data)} bytes, expected at most {MAX_STUFFED - 1}")
    out = bytearray()
    for block in data.split(DELIMITER):
        out.append(len(block) + 1)
        out += block
    return bytes(out)


def unstuff(data: bytes) -> bytes:
    """The inverse of `stuff`. Raises ValueError where `data` is no such output."""
    out = bytearray()
    at = 0
    while at < len(data):
        code = data[at]
        block = data[at + 1 : at + code]
        if code == 0 or len(block) != code - 1 or 0 in block:
            raise ValueError("broken byte stuffing")
        out += block
        at += code
        if at < len(data) and code < 0xFF:
            out.append(0)
    return bytes(out)


def encode(frame: Frame) -> bytes:
    """The frame as sent, the closing zero included. Raises ValueError for a payload above MAX_PAYLOAD."""
    if len(frame.payload) > MAX_PAYLOAD:
        raise ValueError(f"payload of {len(frame.payload)} bytes, expected at most {MAX_PAYLOAD}")
    body = bytes((len(frame.payload), frame.type, frame.seq)) + frame.payload
    return stuff(body + crc16(body).to_bytes(2, "little")) + DELIMITER


class FrameDecoder:
    """Finds the frames in a stream of bytes that may start anywhere and be damaged anywhere."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._skipping = False
        self._last: int | None = None
        self.counters = {"frames": 0, "lost": 0, "bad_frames": 0, "garbage_bytes": 0}
        """`lost` frames by sequence number (never more than 255 at once are noticed), `bad_frames` that failed their
        check, `garbage_bytes` that belonged to no frame."""

    def feed(self, data: bytes) -> list[Frame]:
        """The frames completed by `data`, in order. Never raises; what is broken is counted and left out."""
        frames: list[Frame] = []
        *ended, rest = data.split(DELIMITER)
        for part in ended:
            self._rest += part
            frame = self._close()
            if frame is not None:
                frames.append(frame)
        self._rest += rest
        if len(self._rest) > MAX_STUFFED:
            # No frame is this long: keep nothing of it, and nothing of what follows up to the next zero.
            self._skipping = True
            self.counters["garbage_bytes"] += len(self._rest)
            self._rest.clear()
        return frames

    def _close(self) -> Frame | None:
        stuffed = bytes(self._rest)
        self._rest.clear()
        if self._skipping:
            self._skipping = False
            self.counters["garbage_bytes"] += len(stuffed)
            self.counters["bad_frames"] += 1
            return None
        if not stuffed:
            return None
        frame = _parse(stuffed)
        if frame is None:
            self.counters["bad_frames"] += 1
            self.counters["garbage_bytes"] += len(stuffed)
            return None
        self.counters["frames"] += 1
        if self._last is not None:
            self.counters["lost"] += (frame.seq - self._last - 1) % 256
        self._last = frame.seq
        return frame


def _parse(stuffed: bytes) -> Frame | None:
    try:
        body = unstuff(stuffed)
    except ValueError:
        return None
    if len(body) < OVERHEAD or body[0] != len(body) - OVERHEAD:
        return None
    if crc16(body[:-2]) != int.from_bytes(body[-2:], "little"):
        return None
    return Frame(body[1], body[2], body[3:-2])
