"""Beside the line: the publish responses of an OPC UA server, decoded for speed; used by `sources/opcua.py`.

asyncua decodes each changed value through five Python objects, which is most of what reading 200 tags at 10 Hz costs.
Here the one structure that comes ten times a second is decoded straight into tuples (OPC 10000-6, 5.2.2.17 DataValue,
5.2.2.16 Variant; OPC 10000-4, 7.25.2 DataChangeNotification); everything else is left to asyncua.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from asyncua import ua
from asyncua.client.ua_session import UaSession
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import (
    extensionobject_from_binary,
    nodeid_from_binary,
    struct_from_binary,
    variant_from_binary,
)
from asyncua.ua.uaerrors import UaStructParsingError

Change = tuple[int, Any, int, int | None, int | None]
"""Client handle, value (None: without one), StatusCode, source time and server time in UTC ns (None: without one)."""

DATA_CHANGE = ua.ObjectIds.DataChangeNotification_Encoding_DefaultBinary
UNIX_EPOCH_TICKS = 116_444_736_000_000_000
"""1970 in 100 ns since 1601."""
LAST_TICKS = UNIX_EPOCH_TICKS + (2**63 - 1) // 100
"""The last moment that int64 ns can hold, in 2262."""

U32 = struct.Struct("<I")
I32 = struct.Struct("<i")
TICKS = struct.Struct("<q")
ITEM = struct.Struct("<IB")
SCALARS: dict[int, struct.Struct] = {
    kind.value: struct.Struct(f"<{code}")
    for kind, code in {
        ua.VariantType.Boolean: "?",
        ua.VariantType.SByte: "b",
        ua.VariantType.Byte: "B",
        ua.VariantType.Int16: "h",
        ua.VariantType.UInt16: "H",
        ua.VariantType.Int32: "i",
        ua.VariantType.UInt32: "I",
        ua.VariantType.Int64: "q",
        ua.VariantType.UInt64: "Q",
        ua.VariantType.Float: "f",
        ua.VariantType.Double: "d",
    }.items()
}
"""Variant encoding byte (a type and neither array bit) to the value behind it."""
NULL = 0
NESTED = range(23, 64)
"""DataValue, Variant, DiagnosticInfo and what the standard reserves: no value of a tag. An array of them can hold a
billion values of no bytes each, with which a few bytes would stop the edge."""


@dataclass(slots=True)
class DataChanges:
    """In place of asyncua's DataChangeNotification."""

    changes: list[Change]


def take_over_publish(session: UaSession, malformed: Callable[[], None]) -> None:
    """Let this session decode its publish responses here; `malformed` is called for each that cannot be decoded."""

    async def publish(acks: list[ua.SubscriptionAcknowledgement]) -> ua.PublishResponse:
        request = ua.PublishRequest()
        request.Parameters.SubscriptionAcknowledgements = acks
        data = await session._send_request(request, timeout=0)
        try:
            return decode_publish_response(data)
        except Exception as error:
            # asyncua's decoders, used for whatever is rare, raise anything at bytes that make no sense to them.
            malformed()
            raise UaStructParsingError from error

    session.publish = publish  # type: ignore[method-assign]


def decode_publish_response(data: Buffer) -> ua.PublishResponse:
    """A publish response with DataChanges in its NotificationData; results of acknowledgements are left out.

    Where the bytes are none it raises struct.error, IndexError, ValueError or whatever asyncua makes of them.
    """
    response = ua.PublishResponse()
    response.TypeId = nodeid_from_binary(data)
    response.ResponseHeader = struct_from_binary(ua.ResponseHeader, data)
    result = response.Parameters
    result.SubscriptionId = U32.unpack(data.read(4))[0]
    result.AvailableSequenceNumbers = [U32.unpack(data.read(4))[0] for _ in range(_count(data))]
    result.MoreNotifications = data.read(1) != b"\0"
    message = result.NotificationMessage
    message.SequenceNumber = U32.unpack(data.read(4))[0]
    data.skip(TICKS.size)  # the time of publishing says nothing about a value
    message.NotificationData = [_notification(data) for _ in range(_count(data))]
    return response


def _count(data: Buffer) -> int:
    """The length of an array, 0 for none; more than the bytes left is refused before anything is made of it."""
    count: int = I32.unpack(data.read(4))[0]
    if count > len(data):
        raise ValueError(f"{count} items in {len(data)} bytes")
    return max(0, count)


def _notification(data: Buffer) -> Any:
    start = data.cur_pos
    kind = nodeid_from_binary(data)
    if kind.Identifier != DATA_CHANGE or kind.NamespaceIndex != 0 or data.read(1) != b"\x01":
        data.rewind(start)
        return extensionobject_from_binary(data)
    size: int = I32.unpack(data.read(4))[0]
    return DataChanges(decode_changes(bytes(data.read(size)) if size >= 0 else bytes(data)))


def decode_changes(body: bytes) -> list[Change]:
    """The changes of a DataChangeNotification. Raises as decode_publish_response does."""
    changes: list[Change] = []
    place = I32.size
    for _ in range(I32.unpack_from(body)[0]):
        handle, mask = ITEM.unpack_from(body, place)
        place += 5
        value: Any = None
        status = 0
        source = server = None
        if mask & 1:
            kind = body[place]
            scalar = SCALARS.get(kind)
            if scalar is not None:
                value = scalar.unpack_from(body, place + 1)[0]
                place += 1 + scalar.size
            elif kind == NULL:
                place += 1
            elif kind & 63 == NULL or kind & 63 in NESTED:
                raise ValueError(f"a Variant of encoding {kind:#x}")
            else:
                rest = Buffer(body, place)
                value = variant_from_binary(rest).Value
                place = rest.cur_pos
        if mask & 2:
            status = U32.unpack_from(body, place)[0]
            place += 4
        if mask & 4:
            source = _utc_ns(TICKS.unpack_from(body, place)[0])
            place += 8
        if mask & 16:
            place += 2  # picoseconds: finer than what we keep
        if mask & 8:
            server = _utc_ns(TICKS.unpack_from(body, place)[0])
            place += 8
        if mask & 32:
            place += 2
        changes.append((handle, value, status, source, server))
    return changes


def _utc_ns(ticks: int) -> int | None:
    """UTC ns; None for the null time and for times before 1970 or after 2262."""
    return (ticks - UNIX_EPOCH_TICKS) * 100 if UNIX_EPOCH_TICKS < ticks <= LAST_TICKS else None
