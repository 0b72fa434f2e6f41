"""Without these a kit's controller could be misread, or one flipped bit could pass for a value."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge import framing, kit_link
from firmware_bridge.framing import MAX_PAYLOAD, Frame, FrameDecoder, crc16, encode, stuff, unstuff

frames = st.builds(Frame, st.integers(0, 255), st.integers(0, 255), st.binary(max_size=MAX_PAYLOAD))


def test_the_written_vectors_hold() -> None:
    """The firmware's author checks against the table in framing.py."""
    rows = re.findall(r"\* (0x\w\w), (0x\w\w), (?:`([0-9a-f ]+)`|nothing)\s+-> `([0-9a-f ]+)`", framing.__doc__ or "")
    assert len(rows) == 3
    for kind, seq, payload, wire in rows:
        frame = Frame(int(kind, 16), int(seq, 16), bytes.fromhex(payload))
        assert encode(frame).hex(" ") == wire
        assert FrameDecoder().feed(bytes.fromhex(wire)) == [frame]
    assert crc16(b"123456789") == 0x29B1


@settings(deadline=None)
@given(st.binary(max_size=254))
def test_stuffing_leaves_no_zero_and_comes_back(data: bytes) -> None:
    stuffed = stuff(data)
    assert 0 not in stuffed
    assert len(stuffed) == len(data) + 1
    assert unstuff(stuffed) == data


@settings(deadline=None)
@given(st.lists(frames, max_size=6), st.lists(st.integers(1, 50), max_size=20))
def test_frames_come_back_in_whatever_pieces(sent: list[Frame], sizes: list[int]) -> None:
    wire = b"".join(encode(frame) for frame in sent)
    decoder, read, at = FrameDecoder(), [], 0
    for size in [*sizes, len(wire)]:
        read += decoder.feed(wire[at : at + size])
        at += size
    assert read == sent
    assert decoder.counters["bad_frames"] == decoder.counters["garbage_bytes"] == 0


@settings(deadline=None)
@given(st.binary(max_size=600), st.lists(frames, min_size=1, max_size=3))
def test_after_any_garbage_the_next_zero_is_the_way_back(garbage: bytes, sent: list[Frame]) -> None:
    decoder = FrameDecoder()
    read = decoder.feed(garbage + b"\0" + b"".join(encode(frame) for frame in sent))
    assert read[-len(sent) :] == sent


@settings(deadline=None)
@given(frames, st.data())
def test_a_flipped_bit_is_never_a_frame(frame: Frame, data: st.DataObject) -> None:
    wire = bytearray(encode(frame))
    bit = data.draw(st.integers(0, 8 * (len(wire) - 1) - 1))
    wire[bit // 8] ^= 1 << bit % 8
    assert frame not in FrameDecoder().feed(bytes(wire))


def test_lost_frames_are_counted_by_their_sequence() -> None:
    decoder = FrameDecoder()
    for seq in (254, 255, 0, 3):
        decoder.feed(encode(Frame(1, seq, b"")))
    assert decoder.counters["lost"] == 2


def test_a_line_that_never_ends_is_dropped_and_forgotten() -> None:
    decoder = FrameDecoder()
    for _ in range(100):
        assert decoder.feed(b"\x55" * 100) == []
    assert decoder.feed(b"\0" + encode(Frame(1, 0, b"x"))) == [Frame(1, 0, b"x")]
    assert decoder.counters["garbage_bytes"] == 10_000
    with pytest.raises(ValueError, match="at most 249"):
        encode(Frame(1, 0, bytes(250)))


floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
messages = st.one_of(
    st.builds(kit_link.Hello, st.integers(0, 255)),
    st.builds(kit_link.HostHeartbeat, st.integers(0, 2**32 - 1)),
    st.builds(
        kit_link.Command,
        st.integers(0, 2**32 - 1),
        st.sampled_from(kit_link.VERBS),
        st.lists(floats, max_size=8).map(tuple),
    ),
    st.builds(kit_link.Info, st.integers(0, 255), st.text(max_size=40)),
    st.builds(kit_link.KitHeartbeat, st.integers(0, 2**32 - 1)),
    st.builds(kit_link.Reply, st.integers(0, 2**32 - 1), st.sampled_from(kit_link.Outcome), st.text(max_size=40)),
    *(
        st.builds(
            kit_link.Telemetry,
            st.just(group.name),
            st.integers(0, 2**32 - 1),
            st.fixed_dictionaries(
                {f: st.integers(0, 255) if code == "B" else floats for f, code in group.fields.items()}
            ),
        )
        for group in kit_link.GROUPS.values()
    ),
)


@settings(deadline=None)
@given(messages)
def test_every_message_comes_back(message: kit_link.Message) -> None:
    kind, payload = kit_link.encode(message)
    assert kit_link.decode(Frame(kind, 0, payload)) == message
    # A later version may add fields behind ours; text goes to the end by itself.
    if not isinstance(message, kit_link.Info | kit_link.Reply):
        assert kit_link.decode(Frame(kind, 0, payload + b"\1\2")) == message


@settings(deadline=None)
@given(st.integers(0, 255), st.binary(max_size=60))
def test_any_bytes_give_a_message_or_one_named_error(kind: int, payload: bytes) -> None:
    named = ""
    try:
        kit_link.decode(Frame(kind, 0, payload))
    except kit_link.MessageMalformed as error:
        named = str(error)
    assert not named or f"0x{kind:02x}" in named


def test_not_measured_travels_as_nan() -> None:
    values = {"front": math.nan, "left": 1.0, "right": 1.0, "rear": 1.0}
    kind, payload = kit_link.encode(kit_link.Telemetry("ranges", 1, values))
    back = kit_link.decode(Frame(kind, 0, payload))
    assert isinstance(back, kit_link.Telemetry)
    assert math.isnan(back.values["front"])


def test_an_unknown_type_is_left_to_a_later_version_and_an_unknown_verb_to_the_controller() -> None:
    assert kit_link.decode(Frame(0x70, 0, b"anything")) is None
    assert kit_link.decode(Frame(kit_link.Type.COMMAND, 0, bytes((1, 0, 0, 0, 99, 0)))) == kit_link.Command(
        1, "verb_99"
    )
    with pytest.raises(ValueError, match="expected one of"):
        kit_link.encode(kit_link.Command(1, "fly"))
    with pytest.raises(ValueError, match="expected one of"):
        kit_link.encode(kit_link.Telemetry("wings", 1, {}))
