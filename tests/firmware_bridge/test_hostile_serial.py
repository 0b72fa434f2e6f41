"""A line that says nonsense must cost a trainee the nonsense only: what is whole behind it is decoded."""

from __future__ import annotations

import numpy as np
import pytest

from firmware_bridge import cyton
from firmware_bridge.cyton import CHANNELS, CytonDecoder
from firmware_bridge.framing import DELIMITER, Frame, FrameDecoder, encode
from tests.hostile_wire import SERIAL

GOOD = 40
RESYNC = 3
"""Good packets that finding the stream again may cost."""


def packets() -> bytes:
    counts = np.arange(CHANNELS * GOOD).reshape(CHANNELS, GOOD)
    return cyton.encode_packets(np.arange(100, 100 + GOOD), counts, np.ones((3, GOOD), dtype=np.int64))


@pytest.mark.parametrize("name", SERIAL)
def test_a_cyton_stream_is_found_again_behind_it(name: str) -> None:
    decoder = CytonDecoder()
    decoder.feed(SERIAL[name])
    numbers = list(decoder.feed(packets()).numbers)
    whole = list(range(100, 100 + GOOD))
    assert numbers[-(GOOD - RESYNC) :] == whole[RESYNC:]


@pytest.mark.parametrize("name", SERIAL)
def test_frames_of_the_kit_link_are_found_again_behind_it(name: str) -> None:
    decoder = FrameDecoder()
    frames = [Frame(type=1, seq=i, payload=bytes([i] * 5)) for i in range(5)]
    found = decoder.feed(SERIAL[name])
    found += decoder.feed(DELIMITER + b"".join(encode(frame) for frame in frames))
    assert found[-5:] == frames


@pytest.mark.parametrize("name", SERIAL)
def test_it_is_never_taken_for_data(name: str) -> None:
    for decoder in (CytonDecoder(), FrameDecoder()):
        said = SERIAL[name]
        result = decoder.feed(said)
        heard = len(result.numbers) if isinstance(decoder, CytonDecoder) else len(result)
        assert heard == 0
