"""kit_link, the protocol of a kit's own controller, without I/O: frames of framing.py in, telemetry and replies out.

Version 1. All numbers are little-endian; times are milliseconds since the controller started (unsigned, 32 bit, wraps
after 49.7 days); float32 NaN means "not measured now". A controller talks unasked; after HELLO it says who it is and
sends every telemetry group once, so that a host that comes late knows the whole state.

| type | name      | from | payload                                                                            |
|------|-----------|------|------------------------------------------------------------------------------------|
| 0x01 | HELLO     | host | u8 version                                                                         |
| 0x02 | HEARTBEAT | host | u32 count; keeps a remotely armed drive armed (see the kit model's heartbeat)      |
| 0x03 | COMMAND   | host | u32 id, u8 verb, u8 n, n x f32 arguments                                           |
| 0x81 | INFO      | kit  | u8 version, UTF-8 text: model and firmware                                         |
| 0x82 | HEARTBEAT | kit  | u32 ms; once a second, also when nothing else is said                              |
| 0x83 | REPLY     | kit  | u32 id of the command, u8 outcome, UTF-8 text                                      |
| 0x90 | motion    | kit  | u32 ms, f32 speed m/s, turn_rate deg/s, heading deg, x m, y m                      |
| 0x91 | ranges    | kit  | u32 ms, f32 front, left, right, rear m                                             |
| 0x92 | power     | kit  | u32 ms, f32 current_l A, current_r A, tilt deg                                     |
| 0x93 | battery   | kit  | u32 ms, f32 voltage V, percent                                                     |
| 0x94 | switches  | kit  | u32 ms, u8 bumper, estop, enable_switch, seat (0 or 1)                             |
| 0x95 | decode    | kit  | u32 ms, u8 mode, u8 intent, f32 score_f1..score_f4, confidence, latency ms         |
| 0x96 | impedance | kit  | u32 ms, f32 fp1, c3, cz, c4, o1, oz, o2, pz kOhm                                   |

A receiver ignores types it does not know and bytes behind the fields it knows, so a later version may add both.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from firmware_bridge.framing import Frame

VERSION = 1
BAUDRATE = 115200
MILLISECONDS_WRAP = 2**32


class Type(IntEnum):
    """Message types that are not telemetry."""

    HELLO = 0x01
    HOST_HEARTBEAT = 0x02
    COMMAND = 0x03
    INFO = 0x81
    KIT_HEARTBEAT = 0x82
    REPLY = 0x83


class Outcome(IntEnum):
    """The controller's answer to a command; the text behind it says why."""

    DONE = 0
    REFUSED = 1
    UNKNOWN_VERB = 2
    BAD_ARGUMENT = 3


VERBS = (
    "start_calibration",
    "start_trial_block",
    "set_targets",
    "set_window",
    "set_confidence_threshold",
    "set_speed_limit",
    "arm_drive",
    "disarm_drive",
    "stop",
)
"""The verbs of the kit model; the number on the wire is the position here plus 1."""


@dataclass(frozen=True)
class Group:
    """One telemetry group: its type and its fields, each with its struct code."""

    name: str
    type: int
    fields: Mapping[str, str]

    @property
    def layout(self) -> struct.Struct:
        """Milliseconds and fields."""
        return struct.Struct("<I" + "".join(self.fields.values()))


def _floats(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "f")


ELECTRODES = ("fp1", "c3", "cz", "c4", "o1", "oz", "o2", "pz")
GROUPS = {
    group.name: group
    for group in (
        Group("motion", 0x90, _floats("speed", "turn_rate", "heading", "x", "y")),
        Group("ranges", 0x91, _floats("front", "left", "right", "rear")),
        Group("power", 0x92, _floats("current_l", "current_r", "tilt")),
        Group("battery", 0x93, _floats("voltage", "percent")),
        Group("switches", 0x94, dict.fromkeys(("bumper", "estop", "enable_switch", "seat"), "B")),
        Group(
            "decode",
            0x95,
            {
                "mode": "B",
                "intent": "B",
                **_floats("score_f1", "score_f2", "score_f3", "score_f4", "confidence", "latency"),
            },
        ),
        Group("impedance", 0x96, _floats(*ELECTRODES)),
    )
}
_LAYOUTS = {group.type: (group, group.layout) for group in GROUPS.values()}


@dataclass(frozen=True, slots=True)
class Hello:
    """The host asks who is there and for the whole state."""

    version: int = VERSION


@dataclass(frozen=True, slots=True)
class HostHeartbeat:
    """The host is alive and still in control."""

    count: int


@dataclass(frozen=True, slots=True)
class Command:
    """A verb with its arguments; the reply carries the same id."""

    id: int
    verb: str
    arguments: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Info:
    """Who the controller is."""

    version: int
    text: str


@dataclass(frozen=True, slots=True)
class KitHeartbeat:
    """The controller is alive."""

    ms: int


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of a command."""

    id: int
    outcome: Outcome
    text: str = ""


@dataclass(frozen=True, slots=True)
class Telemetry:
    """One telemetry group at the controller's time `ms`; NaN stands for "not measured now"."""

    group: str
    ms: int
    values: dict[str, float]


Message = Hello | HostHeartbeat | Command | Info | KitHeartbeat | Reply | Telemetry


class MessageMalformed(Exception):
    """Ignore and count the frame: its payload is not what its type says."""


def encode(message: Message) -> tuple[int, bytes]:
    """Type and payload of a message, for framing.encode. Raises ValueError for a verb or group there is not."""
    match message:
        case Hello(version):
            return Type.HELLO, bytes((version,))
        case HostHeartbeat(count):
            return Type.HOST_HEARTBEAT, struct.pack("<I", count % 2**32)
        case Command(number, verb, arguments):
            if verb not in VERBS:
                raise ValueError(f"verb {verb!r}, expected one of {', '.join(VERBS)}")
            head = struct.pack("<IBB", number, VERBS.index(verb) + 1, len(arguments))
            return Type.COMMAND, head + struct.pack(f"<{len(arguments)}f", *arguments)
        case Info(version, text):
            return Type.INFO, bytes((version,)) + text.encode()
        case KitHeartbeat(ms):
            return Type.KIT_HEARTBEAT, struct.pack("<I", ms % MILLISECONDS_WRAP)
        case Reply(number, outcome, text):
            return Type.REPLY, struct.pack("<IB", number, outcome) + text.encode()
        case Telemetry(name, ms, values):
            group = GROUPS.get(name)
            if group is None:
                raise ValueError(f"telemetry group {name!r}, expected one of {', '.join(GROUPS)}")
            row = [int(values[field]) if code == "B" else values[field] for field, code in group.fields.items()]
            return group.type, group.layout.pack(ms % MILLISECONDS_WRAP, *row)


def decode(frame: Frame) -> Message | None:
    """The message in a frame, None for a type this version does not know. Raises MessageMalformed."""
    payload = frame.payload
    telemetry = _LAYOUTS.get(frame.type)
    try:
        if telemetry is not None:
            group, layout = telemetry
            ms, *row = layout.unpack_from(payload)
            return Telemetry(group.name, ms, dict(zip(group.fields, row, strict=True)))
        match frame.type:
            case Type.HELLO:
                return Hello(payload[0])
            case Type.HOST_HEARTBEAT:
                return HostHeartbeat(*struct.unpack_from("<I", payload))
            case Type.COMMAND:
                return _command(payload)
            case Type.INFO:
                return Info(payload[0], payload[1:].decode())
            case Type.KIT_HEARTBEAT:
                return KitHeartbeat(*struct.unpack_from("<I", payload))
            case Type.REPLY:
                number, outcome = struct.unpack_from("<IB", payload)
                return Reply(number, Outcome(outcome), payload[5:].decode())
            case _:
                return None
    except (struct.error, IndexError, ValueError) as error:
        raise MessageMalformed(f"type 0x{frame.type:02x}, {len(payload)} bytes: {error}") from None


def _command(payload: bytes) -> Command:
    number, verb, count = struct.unpack_from("<IBB", payload)
    if not 1 <= verb <= len(VERBS):
        # Handed on under its number, so that the controller can answer UNKNOWN_VERB.
        return Command(number, f"verb_{verb}")
    arguments: Sequence[float] = struct.unpack_from(f"<{count}f", payload, 6)
    return Command(number, VERBS[verb - 1], tuple(arguments))
