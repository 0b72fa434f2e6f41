"""What is lost where these fail: values of a PLC, where our reader of them differs from asyncua's."""

from __future__ import annotations

import math
import struct
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asyncua import ua
from asyncua.common.utils import Buffer, NotEnoughData
from asyncua.ua.ua_binary import struct_from_binary, struct_to_binary
from asyncua.ua.uaerrors import UaError, UaStructParsingError
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.opcua_publish import DataChanges, decode_changes, decode_publish_response, take_over_publish

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FAULTS = (struct.error, IndexError, ValueError, NotEnoughData, UaError)


def ints(bits: int, signed: bool) -> st.SearchStrategy[int]:
    low = -(2 ** (bits - 1)) if signed else 0
    return st.integers(low, low + 2**bits - 1)


moments = st.datetimes(datetime(1970, 1, 2), datetime(2260, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - given a zone
scalars: dict[ua.VariantType, st.SearchStrategy[Any]] = {
    ua.VariantType.Boolean: st.booleans(),
    ua.VariantType.SByte: ints(8, True),
    ua.VariantType.Byte: ints(8, False),
    ua.VariantType.Int16: ints(16, True),
    ua.VariantType.UInt16: ints(16, False),
    ua.VariantType.Int32: ints(32, True),
    ua.VariantType.UInt32: ints(32, False),
    ua.VariantType.Int64: ints(64, True),
    ua.VariantType.UInt64: ints(64, False),
    ua.VariantType.Float: st.floats(width=32),
    ua.VariantType.Double: st.floats(),
    ua.VariantType.String: st.none() | st.text(max_size=12),
    ua.VariantType.LocalizedText: st.text(max_size=5).map(ua.LocalizedText),
    ua.VariantType.DateTime: moments,
}
variants = st.sampled_from(list(scalars)).flatmap(
    lambda kind: (
        scalars[kind].map(lambda value: ua.Variant(value, kind))
        | st.lists(scalars[kind], max_size=3).map(lambda values: ua.Variant(values, kind, is_array=True))
    )
)
items = st.builds(
    lambda handle, value, status, source, server: ua.MonitoredItemNotification(
        ClientHandle=ua.UInt32(handle),
        Value=ua.DataValue(value, ua.StatusCode(ua.UInt32(status)), SourceTimestamp=source, ServerTimestamp=server),
    ),
    ints(32, False),
    variants,
    st.sampled_from([0, 0x40000000, 0x80000000, 0x80350000, 0x00000480]),
    st.none() | moments,
    st.none() | moments,
)


def ns(moment: datetime | None) -> int | None:
    return None if moment is None else (moment - EPOCH) // timedelta(microseconds=1) * 1000


def plain(value: Any) -> Any:
    """NaN is made equal to itself."""
    return "nan" if isinstance(value, float) and math.isnan(value) else repr(value)


@given(sent=st.lists(items, max_size=20))
def test_every_change_is_read_as_asyncua_reads_it(sent: list[ua.MonitoredItemNotification]) -> None:
    body = struct_to_binary(ua.DataChangeNotification(MonitoredItems=sent))
    theirs = struct_from_binary(ua.DataChangeNotification, Buffer(body)).MonitoredItems
    ours = decode_changes(body)
    assert [change[0] for change in ours] == [one.ClientHandle for one in theirs]
    assert [plain(change[1]) for change in ours] == [plain(one.Value.Value.Value) for one in theirs]
    assert [change[2] for change in ours] == [one.Value.StatusCode.value for one in theirs]
    assert [change[3:] for change in ours] == [
        (ns(one.Value.SourceTimestamp), ns(one.Value.ServerTimestamp)) for one in theirs
    ]


def a_response(*notifications: Any) -> bytes:
    response = ua.PublishResponse()
    response.Parameters.SubscriptionId = 7
    response.Parameters.AvailableSequenceNumbers = [3, 4]
    response.Parameters.MoreNotifications = False
    response.Parameters.NotificationMessage.SequenceNumber = 4
    response.Parameters.NotificationMessage.NotificationData = list(notifications)
    response.Parameters.Results = [ua.StatusCode()]
    return struct_to_binary(response)


CHANGE = ua.DataChangeNotification(
    MonitoredItems=[
        ua.MonitoredItemNotification(1, ua.DataValue(ua.Variant(2.5, ua.VariantType.Double), SourceTimestamp=EPOCH)),
        ua.MonitoredItemNotification(2, ua.DataValue(ua.Variant("a", ua.VariantType.String))),
    ]
)


def test_a_response_keeps_what_the_session_needs_and_other_notifications() -> None:
    lost = ua.StatusChangeNotification(Status=ua.StatusCode(ua.UInt32(ua.StatusCodes.BadTimeout)))
    result = decode_publish_response(Buffer(a_response(CHANGE, lost))).Parameters
    assert (result.SubscriptionId, result.AvailableSequenceNumbers, result.MoreNotifications) == (7, [3, 4], False)
    assert result.NotificationMessage.SequenceNumber == 4
    changes, status = result.NotificationMessage.NotificationData
    assert changes == DataChanges([(1, 2.5, 0, None, None), (2, "a", 0, None, None)])
    assert status.Status.value == ua.StatusCodes.BadTimeout


def test_a_keep_alive_has_no_notification() -> None:
    assert decode_publish_response(Buffer(a_response())).Parameters.NotificationMessage.NotificationData == []


def test_picoseconds_stand_where_the_standard_puts_them() -> None:
    ticks = struct.pack("<q", 116_444_736_000_000_000 + 7)
    later = struct.pack("<q", 116_444_736_000_000_000 + 9)
    body = struct.pack("<iIBBd", 1, 5, 0b111101, 11, 1.5) + ticks + b"\xff\xff" + later + b"\xff\xff"
    assert decode_changes(body) == [(5, 1.5, 0, 700, 900)]


def test_times_that_are_none_or_beyond_reason_are_none() -> None:
    for ticks in (0, -1, 2**63 - 1, 116_444_736_000_000_000):
        body = struct.pack("<iIBq", 1, 5, 0b1000, ticks)
        assert decode_changes(body) == [(5, None, 0, None, None)]


def test_a_few_bytes_cannot_ask_for_a_billion_values() -> None:
    for kind in (0x80, 0x80 | 23, 0x80 | 24, 0x80 | 25):
        with pytest.raises(ValueError, match="Variant of encoding"):
            decode_changes(struct.pack("<iIBBi", 1, 5, 1, kind, 2**31 - 1))


@given(cut=st.integers(0, 200))
def test_bytes_that_end_too_early_are_refused_and_nothing_else_happens(cut: int) -> None:
    whole = a_response(CHANGE)
    notification_ends = len(whole) - 12  # two empty arrays and one result follow, which are not read
    if cut < notification_ends:
        with pytest.raises(FAULTS):
            decode_publish_response(Buffer(whole[:cut]))


class Session:
    """Answers each publish request with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.malformed = 0
        take_over_publish(self, self.count)  # type: ignore[arg-type]

    async def _send_request(self, _request: Any, timeout: float) -> Buffer:
        return Buffer(self.answer)

    def count(self) -> None:
        self.malformed += 1

    def publish(self, acks: list[ua.SubscriptionAcknowledgement]) -> Coroutine[Any, Any, ua.PublishResponse]:
        raise AssertionError("not taken over")


@given(noise=st.binary(max_size=300), at=st.integers(0, 120))
async def test_bytes_that_make_no_sense_are_counted_and_the_session_goes_on(noise: bytes, at: int) -> None:
    whole = bytearray(a_response(CHANGE))
    whole[at : at + len(noise)] = noise
    for answer in (noise, bytes(whole)):
        session = Session(answer)
        try:
            assert await session.publish([])
        except UaStructParsingError:
            assert session.malformed == 1
        else:
            assert session.malformed == 0
