"""The OpenBCI Cyton protocol without I/O: bytes of the board in, blocks of samples out; commands the other way.

Source: OpenBCI's documentation, "Cyton Data Format" and "Cyton Board SDK". 115200 baud, 8N1, 250 packets a second.

| byte (from 0) | content                                                                                     |
|---------------|---------------------------------------------------------------------------------------------|
| 0             | 0xA0                                                                                        |
| 1             | sample number 0..255, wraps                                                                 |
| 2..25         | eight channels, 24 bit two's complement, high byte first                                    |
| 26..31        | auxiliary, meaning by the last byte                                                         |
| 32            | 0xC0 acceleration X, Y, Z (16 bit, high byte first); 0xC1..0xC6 other uses of the auxiliary |

Scale: 4.5 V / gain / (2^23 - 1) per count, 0.02235 uV at gain 24; acceleration 0.002 / 2^4 g per count. There is no
checksum, and 0xA0 also occurs in data, so first byte, last byte and sample number all count when the decoder looks for
its place: a packet that does not carry on the sample numbers is believed only when the packet behind it does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BAUDRATE = 115200
RATE_HZ = 250.0
CHANNELS = 8
PACKET_BYTES = 33
HEADER = 0xA0
FOOTER_ACCEL = 0xC0
FOOTER_LAST = 0xC6
ACCEL_G = 0.002 / 2**4
GAINS = (1, 2, 4, 6, 8, 12, 24)
"""Gains of the ADS1299; the position in this tuple is the digit that the board is told."""
DEFAULT_GAIN = 24

SOFT_RESET = b"v"
START = b"b"
STOP = b"s"
DEFAULTS = b"d"
REPORT_DEFAULTS = b"D"
REGISTERS = b"?"
CHANNELS_OFF = b"12345678"
CHANNELS_ON = b"!@#$%^&*"
END_OF_TEXT = b"$$$"

_WINDOW = 1024 * PACKET_BYTES
"""Bytes looked at in one go, so that a damaged recording costs no more than a clean one of the same length."""


def scale_uv(gain: float) -> float:
    """Microvolts per count at this gain."""
    return 4.5e6 / gain / (2**23 - 1)


@dataclass(frozen=True)
class CytonBlock:
    """The samples found in one piece of the stream, n of them.

    `numbers` (n,) are the board's sample numbers; `eeg` (8, n) is in uV; `accel` (3, n) in g, NaN where the packet does
    not carry it; `aux` (n, 6) are the raw auxiliary bytes and `footers` (n,) tell their meaning; `lost` (n,) counts the
    samples missing just before each, from 0 to 255 by their numbers (more can only be told by time).
    """

    numbers: NDArray[np.uint8]
    eeg: NDArray[np.float64]
    accel: NDArray[np.float64]
    aux: NDArray[np.uint8]
    footers: NDArray[np.uint8]
    lost: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)


class CytonDecoder:
    """Finds the packets in a stream of bytes that may start anywhere and be damaged anywhere.

    What no decoder can see without a checksum: a changed byte inside a packet, and exactly 33 bytes missing across the
    border of two packets, which makes one packet of two halves.
    """

    def __init__(self, gains: Sequence[float] = (DEFAULT_GAIN,) * CHANNELS) -> None:
        if len(gains) != CHANNELS:
            raise ValueError(f"{len(gains)} gains, expected {CHANNELS}")
        self._scale = np.array([scale_uv(gain) for gain in gains])[:, None]
        self._rest = b""
        self._last: int | None = None
        self._previous: int | None = None
        self._in_step = False
        self.counters = {"packets": 0, "lost": 0, "resyncs": 0, "garbage_bytes": 0}
        """`lost` samples by their numbers, `resyncs` after the place was lost, `garbage_bytes` outside of packets."""

    def feed(self, data: bytes) -> CytonBlock:
        """The samples completed by `data`, in order. Never raises; what is broken is counted and left out.

        A packet that follows a gap is handed on with the packet behind it, 4 ms later.
        """
        self._rest += data
        raw = np.frombuffer(self._rest, np.uint8)
        starts: list[NDArray[np.intp]] = []
        at = 0
        while True:
            run, waiting = self._run(raw, at)
            if run:
                starts.append(at + PACKET_BYTES * np.arange(run, dtype=np.intp))
                at += run * PACKET_BYTES
                self._last = int(raw[at - PACKET_BYTES + 1])
                self._in_step = True
                continue
            if waiting:
                break
            found, certain = self._search(raw, at)
            if found > at:
                self.counters["garbage_bytes"] += found - at
                self._in_step = False
            at = found
            if not certain:
                break
            self.counters["resyncs"] += 1
        self._rest = self._rest[at:]
        return self._block(raw, np.concatenate(starts) if starts else np.zeros(0, np.intp))

    def _run(self, raw: NDArray[np.uint8], at: int) -> tuple[int, bool]:
        """How many packets stand one behind the other from `at`, and whether more bytes are needed to go on."""
        count = min(_WINDOW, len(raw) - at) // PACKET_BYTES
        if count == 0:
            # Too little for a packet: wait, unless the place is lost and these bytes cannot be one.
            return 0, self._in_step or self._last is None or len(raw) == at
        rows = raw[at : at + count * PACKET_BYTES].reshape(count, PACKET_BYTES)
        fits = (rows[:, 0] == HEADER) & (rows[:, -1] >= FOOTER_ACCEL) & (rows[:, -1] <= FOOTER_LAST)
        numbers = rows[:, 1]
        follows = np.zeros(count, bool)
        follows[1:] = (numbers[1:] - numbers[:-1]) == 1
        if self._last is not None and self._in_step:
            follows[0] = int(numbers[0]) == (self._last + 1) % 256
        confirmed = np.zeros(count, bool)
        confirmed[:-1] = fits[1:] & follows[1:]
        good = fits & (follows | confirmed)
        run = count if good.all() else int(np.argmin(good))
        if run:
            return run, False
        # The only packet here fits but its number jumps: the next one tells.
        return 0, count == 1 and bool(fits[0]) and self._could_follow(raw, at)

    def _could_follow(self, raw: NDArray[np.uint8], at: int) -> bool:
        """Whether the packet at `at` may still be confirmed by bytes that have not come yet."""
        next_at = at + PACKET_BYTES
        if next_at < len(raw) and raw[next_at] != HEADER:
            return False
        return not (next_at + 1 < len(raw) and int(raw[next_at + 1]) != (int(raw[at + 1]) + 1) % 256)

    def _search(self, raw: NDArray[np.uint8], at: int) -> tuple[int, bool]:
        """The next place from `at` where two packets stand, or where they may once more bytes are here."""
        n = len(raw)
        for begin in range(at, n, _WINDOW):
            places = begin + np.flatnonzero(raw[begin : begin + _WINDOW] == HEADER)
            possible = np.ones(len(places), bool)
            certain = places + 2 * PACKET_BYTES <= n
            for offset, lowest, highest in (
                (PACKET_BYTES - 1, FOOTER_ACCEL, FOOTER_LAST),
                (PACKET_BYTES, HEADER, HEADER),
                (2 * PACKET_BYTES - 1, FOOTER_ACCEL, FOOTER_LAST),
            ):
                there = places + offset < n
                byte = raw[np.where(there, places + offset, 0)]
                possible &= ~there | ((byte >= lowest) & (byte <= highest))
            there = places + PACKET_BYTES + 1 < n
            behind = raw[np.where(there, places + PACKET_BYTES + 1, 0)]
            number = raw[np.where(there, places + 1, 0)]
            possible &= ~there | ((behind - number) == 1)
            if possible.any():
                first = int(np.argmax(possible))
                return int(places[first]), bool(certain[first])
        return n, False

    def _block(self, raw: NDArray[np.uint8], starts: NDArray[np.intp]) -> CytonBlock:
        packets = raw[starts[:, None] + np.arange(PACKET_BYTES)]
        numbers = packets[:, 1].copy()
        lost = np.zeros(len(starts), np.int64)
        if len(starts):
            lost[1:] = numbers[1:] - numbers[:-1] - np.uint8(1)
            if self._previous is not None:
                lost[0] = (int(numbers[0]) - self._previous - 1) % 256
            self._previous = int(numbers[-1])
        self.counters["packets"] += len(starts)
        self.counters["lost"] += int(lost.sum())
        footers = packets[:, -1].copy()
        accel = _int16(packets[:, 26:32]).T.astype(np.float64) * ACCEL_G
        accel[:, footers != FOOTER_ACCEL] = np.nan
        return CytonBlock(
            numbers=numbers,
            eeg=_int24(packets[:, 2:26]).T.astype(np.float64) * self._scale,
            accel=accel,
            aux=packets[:, 26:32].copy(),
            footers=footers,
            lost=lost,
        )


def _int24(raw: NDArray[np.uint8]) -> NDArray[np.int32]:
    """(n, 3k) bytes, high byte first, as (n, k) numbers."""
    wide = raw.reshape(len(raw), raw.shape[1] // 3, 3).astype(np.int32)
    counts: NDArray[np.int32] = (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]
    return counts - ((counts & 0x800000) << 1)


def _int16(raw: NDArray[np.uint8]) -> NDArray[np.int32]:
    wide = raw.reshape(len(raw), raw.shape[1] // 2, 2).astype(np.int32)
    counts: NDArray[np.int32] = (wide[..., 0] << 8) | wide[..., 1]
    return counts - ((counts & 0x8000) << 1)


def encode_packets(
    numbers: NDArray[np.integer],
    counts: NDArray[np.integer],
    aux: NDArray[np.integer],
    footer: int = FOOTER_ACCEL,
) -> bytes:
    """n packets as the board sends them: `numbers` (n,), `counts` (8, n) of the converter, `aux` (3, n) of 16 bit.

    Counts and aux beyond their range are held at its end, as the converter does. Raises ValueError where shapes differ.
    """
    n = len(numbers)
    if counts.shape != (CHANNELS, n) or aux.shape != (3, n):
        raise ValueError(f"counts {counts.shape} and aux {aux.shape}, expected {(CHANNELS, n)} and {(3, n)}")
    packets = np.empty((n, PACKET_BYTES), np.uint8)
    packets[:, 0] = HEADER
    packets[:, 1] = np.asarray(numbers) & 0xFF
    eeg = np.clip(counts, -(2**23), 2**23 - 1).T.astype(">i4").tobytes()
    packets[:, 2:26] = np.frombuffer(eeg, np.uint8).reshape(n, CHANNELS, 4)[:, :, 1:].reshape(n, -1)
    accel = np.clip(aux, -(2**15), 2**15 - 1).T.astype(">i2").tobytes()
    packets[:, 26:32] = np.frombuffer(accel, np.uint8).reshape(n, 6)
    packets[:, 32] = footer
    return packets.tobytes()


def counts_of(eeg_uv: NDArray[np.float64], gains: Sequence[float]) -> NDArray[np.int64]:
    """The converter's counts (8, n) for voltages (8, n) in uV."""
    scale = np.array([scale_uv(gain) for gain in gains])[:, None]
    return np.rint(eeg_uv / scale).astype(np.int64)


@dataclass(frozen=True, slots=True)
class ChannelSettings:
    """How one channel is amplified (ADS1299 channel register); the defaults are those of the board after `d`."""

    channel: int
    gain: int = DEFAULT_GAIN
    on: bool = True
    input_type: int = 0
    bias: bool = True
    srb2: bool = True
    srb1: bool = False

    def command(self) -> bytes:
        """`x CHANNEL POWER_DOWN GAIN INPUT_TYPE BIAS SRB2 SRB1 X`. Raises ValueError for what the board has not."""
        if not 1 <= self.channel <= CHANNELS:
            raise ValueError(f"channel {self.channel}, expected 1 to {CHANNELS}")
        if self.gain not in GAINS:
            raise ValueError(f"gain {self.gain}, expected one of {', '.join(map(str, GAINS))}")
        if not 0 <= self.input_type <= 7:
            raise ValueError(f"input type {self.input_type}, expected 0 to 7")
        flags = f"{int(self.bias)}{int(self.srb2)}{int(self.srb1)}"
        return f"x{self.channel}{int(not self.on)}{GAINS.index(self.gain)}{self.input_type}{flags}X".encode()


_SETTINGS = re.compile(rb"x([1-8])([01])([0-6])([0-7])([01])([01])([01])X")


def parse_channel_command(command: bytes) -> ChannelSettings | None:
    """The inverse of `ChannelSettings.command`, None for anything else; what a board does with it."""
    match = _SETTINGS.fullmatch(command)
    if match is None:
        return None
    channel, down, gain, kind, bias, srb2, srb1 = (int(group) for group in match.groups())
    return ChannelSettings(channel, GAINS[gain], not down, kind, bool(bias), bool(srb2), bool(srb1))


def channel_power(channel: int, on: bool) -> bytes:
    """The command that turns a channel (1 to 8) on or off."""
    if not 1 <= channel <= CHANNELS:
        raise ValueError(f"channel {channel}, expected 1 to {CHANNELS}")
    return (CHANNELS_ON if on else CHANNELS_OFF)[channel - 1 : channel]


@dataclass(frozen=True, slots=True)
class Banner:
    """What the board says of itself after a soft reset."""

    board: str
    firmware: str
    ads1299_id: str


def parse_banner(text: str) -> Banner | None:
    """The banner in a reply, None where it is not that of an OpenBCI board with an ADS1299."""
    board = re.search(r"OpenBCI[^\r\n]*", text)
    ads1299 = re.search(r"ADS1299 Device ID: (0x[0-9A-Fa-f]+)", text)
    if board is None or ads1299 is None:
        return None
    firmware = re.search(r"Firmware: (\S+)", text)
    return Banner(board[0].strip(), firmware[1] if firmware else "v1", ads1299[1])


class ReplyReader:
    """Collects the board's answers, which are text up to `$$$`, from what it sends while it does not stream."""

    def __init__(self, limit: int = 65536) -> None:
        self._text = b""
        self._limit = limit

    def feed(self, data: bytes) -> list[str]:
        """The answers completed by `data`, without their end mark."""
        *replies, rest = (self._text + data).split(END_OF_TEXT)
        self._text = rest[-self._limit :]
        return [reply.decode("ascii", "replace") for reply in replies]


def is_failure(reply: str) -> bool:
    """Whether the USB dongle answers in place of the board, which is off, out of reach or on another channel."""
    return reply.lstrip().startswith("Failure")
