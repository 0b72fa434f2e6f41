"""Batches on their way into the store: gaps decoded whole, and nothing damaged stored as if it were whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.ingest.arrow import FrameReader, frame_layout
from hub.ingest.decode import decode
from hub.store.base import DecodedFrame, DecodedGaps
from lab_contract.batch import HEADER_BYTES, Gap, GapReason
from lab_contract.errors import BatchRejected
from tests.hostile_wire import EVENTS, FRAME, GAPS, sealed
from tests.hub.support import kits
from tests.small_kit import EDGE, EEG, NOW, SECOND, frame_bytes, gap_bytes

WHOLE = {"frame": FRAME, "events": EVENTS, "gaps": GAPS}
CHANGES = (0x01, 0x80, 0xFF, 0x55)


def test_gaps_are_decoded_whole() -> None:
    """A hole in a chart would have no reason."""
    lost = (
        Gap("eeg", NOW - SECOND, NOW, GapReason.COUNTER_JUMP, 250),
        Gap("events", NOW - 60 * SECOND, NOW - SECOND, GapReason.STOPPED, None),
        Gap("events", NOW, NOW, GapReason.SPOOL_FULL, 0),
    )
    decoded = decode(gap_bytes(1, lost), EDGE, kits(), NOW)
    assert isinstance(decoded, DecodedGaps)
    assert decoded.gaps == lost


@pytest.mark.parametrize("whole", WHOLE.values(), ids=list(WHOLE))
def test_every_prefix_is_refused(whole: bytes) -> None:
    """A link that broke in the middle would leave half a batch that counts as a whole one."""
    for length in range(len(whole)):
        with pytest.raises(BatchRejected):
            decode(whole[:length], EDGE, kits(), NOW)


@pytest.mark.parametrize("whole", WHOLE.values(), ids=list(WHOLE))
def test_every_changed_byte_is_refused(whole: bytes) -> None:
    """A wrong value would look like any other, and the right one would never be asked for again."""
    data = bytearray(whole)
    for place in range(len(data)):
        for change in CHANGES:
            data[place] ^= change
            with pytest.raises(BatchRejected):
                decode(bytes(data), EDGE, kits(), NOW)
            data[place] ^= change


def test_the_short_way_of_frames_reads_what_the_long_way_reads() -> None:
    """What the short way takes over from the frame before must not hide a damaged frame, or read other places of it."""
    layout = frame_layout(EEG)
    warm = FrameReader()
    warm.read(memoryview(FRAME)[HEADER_BYTES:], 3, layout)
    short = 0
    for place in range(HEADER_BYTES, len(FRAME)):
        data = bytearray(FRAME)
        data[place] ^= 0x11
        payload = memoryview(bytes(data))[HEADER_BYTES:]
        try:
            t, values = FrameReader().read(payload, 3, layout)
        except BatchRejected as rejected:
            with pytest.raises(BatchRejected, match=rejected.reason):
                warm.read(payload, 3, layout)
        else:
            short += 1
            np.testing.assert_array_equal(warm.read(payload, 3, layout)[0], t)
            np.testing.assert_array_equal(warm.read(payload, 3, layout)[1], values)
    assert short > 3 * (8 + 4 * len(EEG))


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    seed=st.integers(0, 2**32 - 1),
)
def test_frames_of_any_length_come_out_as_they_went_in(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    for seq, length in enumerate(lengths):
        t = NOW + np.cumsum(rng.integers(1, 10_000_000, length))
        values = rng.normal(0, 100, (2, length)).astype(np.float32)
        values[rng.random((2, length)) < 0.1] = np.nan
        decoded = decode(frame_bytes(seq, t, values), EDGE, kits(), NOW + SECOND)
        assert isinstance(decoded, DecodedFrame)
        np.testing.assert_array_equal(decoded.t, t)
        np.testing.assert_array_equal(decoded.values, values)


@settings(max_examples=150, deadline=None)
@given(place=st.integers(HEADER_BYTES, len(GAPS) - 1), change=st.integers(1, 255))
def test_a_sealed_gap_with_any_changed_byte_is_refused_or_sane(place: int, change: int) -> None:
    """A faulty edge must not hatch a chart from 1970 to 2200."""
    data = bytearray(GAPS)
    data[place] ^= change
    try:
        decoded = decode(sealed(bytes(data)), EDGE, kits(), NOW)
    except BatchRejected:
        return
    assert isinstance(decoded, DecodedGaps)
    for gap in decoded.gaps:
        assert gap == replace(gap, reason=GapReason(gap.reason))
        assert 0 < gap.t_from <= gap.t_to <= NOW + 86_400 * SECOND
        assert gap.stream in ("eeg", "events")
        assert gap.count is None or gap.count >= 0
