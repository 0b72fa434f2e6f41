"""A burst decoded together is what its batches are one by one: a busy hub stores what a calm one would."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.ingest.burst import Found, decode_burst
from hub.ingest.decode import decode
from hub.ingest.inbox import Message
from hub.store.base import DecodedEvents, DecodedFrame, DecodedGaps
from lab_contract.batch import HEADER_BYTES
from lab_contract.errors import BatchRejected
from tests.hostile_wire import BATCHES, EVENTS, FRAME, GAPS, event_arrow, sealed
from tests.hub.support import kits
from tests.small_kit import EDGE, NOW, SECOND, event_bytes

Row = tuple[int, str, float | None, str | None, int]
CHANNELS = ("line.good", "line.pressure", "line.state", "line.nobody")
HOSTILE = [case.data for case in BATCHES]

rows = st.lists(
    st.tuples(
        st.integers(NOW - 3 * SECOND, NOW),
        st.sampled_from(CHANNELS[:3]),
        st.none() | st.floats(width=64),
        st.none() | st.sampled_from(["", "running", "сортировка 分拣"]),
        st.sampled_from([0, 0x40000000, 0x80000000, 2**32 - 1]),
    ),
    min_size=1,
    max_size=12,
)
usual = st.builds(event_bytes, st.integers(0, 99), rows)
unusual = st.one_of(
    st.sampled_from([*HOSTILE, FRAME, GAPS, EVENTS]),
    st.builds(lambda channel: event_arrow(channel=[channel]), st.sampled_from(CHANNELS)),
    st.builds(lambda t: event_arrow(t=[t]), st.sampled_from([0, NOW, NOW + 25 * 3600 * SECOND, 2**62])),
    st.builds(lambda n: event_arrow(text=["x" * n]), st.sampled_from([4096, 4097])),
)
damaged = st.builds(
    lambda whole, place, value: sealed(
        whole[: HEADER_BYTES + place % (len(whole) - HEADER_BYTES)]
        + bytes([value])
        + whole[HEADER_BYTES + place % (len(whole) - HEADER_BYTES) + 1 :]
    ),
    usual,
    st.integers(0, 5000),
    st.integers(0, 255),
)


def alone(data: bytes) -> Found:
    try:
        return decode(data, EDGE, kits(), NOW)
    except BatchRejected as rejected:
        return rejected


def told(found: Found) -> object:
    """Everything that is stored of it, or why it is not."""
    match found:
        case BatchRejected():
            return found.reason, found.detail
        case DecodedGaps():
            return found.header, found.gaps
        case DecodedFrame():
            return found.header, found.raw, found.channels, found.t.tolist(), found.values.tobytes()
        case DecodedEvents():
            named = [found.channels[place] for place in found.index.tolist()]
            assert set(found.channels) == set(named)
            values = np.where(np.isnan(found.values), None, found.values).tolist()
            columns = (found.text, found.t_server, found.t_receipt)
            return (
                found.header,
                found.raw,
                found.received_ns,
                named,
                found.t.tolist(),
                values,
                found.quality.tolist(),
                *(column.to_pylist() for column in columns),
            )


@settings(max_examples=300)
@given(st.lists(st.one_of(usual, usual, usual, unusual, damaged), min_size=1, max_size=9))
def test_together_as_one_by_one(burst: list[bytes]) -> None:
    """A wrong row, channel or reason here would be stored under the name of another."""
    found = decode_burst([Message(EDGE, data, NOW) for data in burst], kits())
    assert [told(one) for one in found] == [told(alone(data)) for data in burst]


@settings(max_examples=100)
@given(st.lists(rows, min_size=3, max_size=8))
def test_usual_batches_lose_nothing_together(
    contents: list[list[tuple[int, str, float | None, str | None, int]]],
) -> None:
    """The property above would hold as well if both ways lost the same."""
    burst = [Message(EDGE, event_bytes(seq, content), NOW) for seq, content in enumerate(contents)]
    for found, content in zip(decode_burst(burst, kits()), contents, strict=True):
        assert isinstance(found, DecodedEvents)
        assert sorted(found.t.tolist()) == sorted(row[0] for row in content)
        assert sorted(found.channels[place] for place in found.index.tolist()) == sorted(row[1] for row in content)
        assert sorted(found.quality.tolist()) == sorted(row[4] for row in content)


@pytest.mark.parametrize("case", BATCHES, ids=lambda case: case.name)
def test_a_hostile_batch_costs_itself_and_nothing_else(case: object) -> None:
    """One mad device must not take the changes of a whole workshop with it."""
    good = [event_bytes(seq, [(NOW - SECOND + seq, "line.good", float(seq))]) for seq in range(4)]
    burst = [*good[:2], case.data, *good[2:]]  # type: ignore[attr-defined]
    found = decode_burst([Message(EDGE, data, NOW) for data in burst], kits())
    refused = found.pop(2)
    assert isinstance(refused, BatchRejected)
    assert refused.reason == case.reason  # type: ignore[attr-defined]
    assert [one.values.tolist() for one in found if isinstance(one, DecodedEvents)] == [[0.0], [1.0], [2.0], [3.0]]
