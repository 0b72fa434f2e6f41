"""Without these a trainee's EEG would be scaled wrongly, or a scratch on the line would cost seconds of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from firmware_bridge import cyton
from firmware_bridge.cyton import CHANNELS, PACKET_BYTES, CytonBlock, CytonDecoder

VECTORS = {
    "a0 05 00084f 00109f 0018ee 00213e 00298d 0031dd 003a2c 00427c 00a0 ffb0 1f40 c0": (
        [47.5422, 95.1067, 142.6488, 190.2133, 237.7555, 285.32, 332.8622, 380.4267],
        [0.02, -0.01, 1.0],
    ),
    "a0 ff 7fffff 800000 000001 ffffff 000000 123456 edcbaa 800001 7fff 8000 ffff c0": (
        [187500.0, -187500.02235, 0.02235, -0.02235, 0.0, 26666.65932, -26666.65932, -187500.0],
        [32767 * 0.000125, -32768 * 0.000125, -0.000125],
    ),
}


def packets(count: int, first: int = 0, seed: int = 0, low: int = -(2**23), high: int = 2**23 - 1) -> bytes:
    rng = np.random.default_rng(seed)
    counts = rng.integers(low, high, (CHANNELS, count), endpoint=True)
    return cyton.encode_packets(np.arange(first, first + count), counts, rng.integers(-99, 99, (3, count)))


def feed_in_pieces(decoder: CytonDecoder, data: bytes, sizes: list[int]) -> list[CytonBlock]:
    blocks: list[CytonBlock] = []
    at = 0
    for size in sizes:
        blocks.append(decoder.feed(data[at : at + size]))
        at += size
    return [*blocks, decoder.feed(data[at:])]


def joined(blocks: list[CytonBlock]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    return np.concatenate([b.numbers for b in blocks]), np.concatenate([b.eeg for b in blocks], axis=1)


@pytest.mark.parametrize("packet", VECTORS)
def test_published_packets_decode_to_four_decimals(packet: str) -> None:
    data = bytes.fromhex(packet.replace(" ", ""))
    eeg, accel = VECTORS[packet]
    # The first packet of a stream is believed when the one behind it carries on its number.
    following = data[:1] + bytes([(data[1] + 1) % 256]) + data[2:]
    block = CytonDecoder().feed(data + following)
    assert block.eeg[:, 0] == pytest.approx(eeg, abs=5e-5)
    assert block.accel[:, 0] == pytest.approx(accel, abs=1e-9)
    assert list(block.numbers) == [data[1], (data[1] + 1) % 256]


@settings(deadline=None)
@given(
    st.integers(0, 255),
    st.lists(st.lists(st.integers(-(2**23), 2**23 - 1), min_size=8, max_size=8), min_size=2, max_size=20),
    st.lists(st.integers(0, 80), max_size=12),
)
def test_what_a_board_sends_is_what_is_read_in_whatever_pieces(
    first: int, samples: list[list[int]], sizes: list[int]
) -> None:
    counts = np.array(samples).T
    n = counts.shape[1]
    data = cyton.encode_packets(first + np.arange(n), counts, np.zeros((3, n), int))
    decoder = CytonDecoder()
    numbers, eeg = joined(feed_in_pieces(decoder, data, sizes))
    assert list(numbers) == [(first + i) % 256 for i in range(n)]
    assert np.array_equal(cyton.counts_of(eeg, (24,) * 8), counts)
    assert decoder.counters == {"packets": n, "lost": 0, "resyncs": 0, "garbage_bytes": 0}


def test_one_byte_at_a_time_reads_the_same_as_all_at_once() -> None:
    data = packets(300)
    decoder = CytonDecoder()
    numbers, eeg = joined([decoder.feed(data[i : i + 1]) for i in range(len(data))])
    whole = CytonDecoder().feed(data)
    assert np.array_equal(numbers, whole.numbers)
    assert np.array_equal(eeg, whole.eeg)


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 255), st.integers(0, 2**32))
def test_garbage_before_the_stream_costs_no_whole_packet(garbage: bytes, first: int, seed: int) -> None:
    data = packets(12, first, seed)
    block = CytonDecoder().feed(garbage + data)
    assert [(first + i) % 256 for i in range(12)] == list(block.numbers[-12:])


@settings(deadline=None)
@given(st.lists(st.integers(0, 40 * PACKET_BYTES - 1), min_size=1, max_size=6, unique=True), st.integers(0, 999))
def test_lost_bytes_cost_the_packets_they_were_in_and_no_other(gone: list[int], seed: int) -> None:
    """Inside the window: the packets after a damaged one are all there, and the loss is counted exactly."""
    data = packets(46, 100, seed)
    decoder = CytonDecoder()
    blocks = [decoder.feed(bytes(b for i, b in enumerate(data) if i not in gone))]
    numbers, eeg = joined(blocks)
    hurt = {i // PACKET_BYTES for i in gone}
    read = {int(number) - 100 for number in numbers}
    truth = CytonDecoder().feed(data)
    for number, sample in zip(numbers, eeg.T, strict=True):
        assert np.array_equal(sample, truth.eeg[:, int(number) - 100])
    # A whole packet that stands alone between damaged ones has none that vouches for it; it may be given up.
    whole = set(range(46)) - hurt
    assert {i for i in whole if i + 1 in whole or i - 1 in whole or i == 45} <= read
    first = min(read)
    assert decoder.counters["lost"] == 46 - first - len(read)
    assert not read & hurt


def test_garbage_between_packets_is_counted_and_nothing_else_is_lost() -> None:
    decoder = CytonDecoder()
    block = decoder.feed(packets(5) + b"\xa0noise\xc0" + packets(5, 5))
    assert list(block.numbers) == list(range(10))
    assert decoder.counters == {"packets": 10, "lost": 0, "resyncs": 1, "garbage_bytes": 7}


def test_a_constant_signal_full_of_header_and_footer_bytes_is_not_mistaken_for_packets() -> None:
    """An amplifier at rest repeats its bytes: header and footer alone would lock on inside the packets."""
    counts = np.full((CHANNELS, 60), 0xA000C0)
    data = cyton.encode_packets(np.arange(60), counts - (1 << 24), np.full((3, 60), 0xC0A0 - (1 << 16)))
    for cut in range(PACKET_BYTES):
        block = CytonDecoder().feed(data[cut:])
        assert list(block.numbers) == list(range(1 if cut else 0, 60))


def test_packets_that_the_radio_lost_are_counted_before_the_sample_that_follows() -> None:
    data = packets(10, 250)
    decoder = CytonDecoder()
    block = decoder.feed(data[: 4 * PACKET_BYTES] + data[7 * PACKET_BYTES :])
    assert list(block.numbers) == [250, 251, 252, 253, 1, 2, 3]
    assert list(block.lost) == [0, 0, 0, 0, 3, 0, 0]
    assert decoder.counters["lost"] == 3
    assert decoder.counters["resyncs"] == 0


def test_a_damaged_recording_keeps_nearly_every_packet() -> None:
    """250 bytes deleted in 25 000 packets: at most those 250 packets are gone."""
    data = packets(25_000)
    gone = np.random.default_rng(5).choice(len(data), 250, replace=False)
    decoder = CytonDecoder()
    block = decoder.feed(np.delete(np.frombuffer(data, np.uint8), gone).tobytes())
    assert len(block) >= 24_745
    assert decoder.counters["lost"] + len(block) == 25_000


def test_each_channel_is_scaled_by_its_own_gain() -> None:
    gains = (1, 2, 4, 6, 8, 12, 24, 24)
    voltages = np.tile(np.linspace(-100, 100, 8)[:, None], 3)
    data = cyton.encode_packets(np.arange(3), cyton.counts_of(voltages, gains), np.zeros((3, 3), int))
    assert CytonDecoder(gains).feed(data).eeg == pytest.approx(voltages, abs=0.3)


def test_acceleration_is_missing_where_the_packet_carries_something_else() -> None:
    data = cyton.encode_packets(np.arange(2), np.zeros((8, 2), int), np.ones((3, 2), int), footer=0xC3)
    block = CytonDecoder().feed(data)
    assert np.isnan(block.accel).all()
    assert list(block.footers) == [0xC3, 0xC3]
    assert block.aux[0].tolist() == [0, 1, 0, 1, 0, 1]


@settings(deadline=None)
@given(st.integers(1, 8), st.sampled_from(cyton.GAINS), st.booleans(), st.integers(0, 7), st.booleans())
def test_channel_settings_come_back_from_their_command(
    channel: int, gain: int, on: bool, kind: int, bias: bool
) -> None:
    settings = cyton.ChannelSettings(channel, gain, on, kind, bias)
    assert cyton.parse_channel_command(settings.command()) == settings


def test_channel_commands_are_those_of_the_manual() -> None:
    assert cyton.ChannelSettings(1).command() == b"x1060110X"
    assert cyton.channel_power(3, on=False) == b"3"
    assert cyton.channel_power(3, on=True) == b"#"
    for wrong in (cyton.ChannelSettings(9), cyton.ChannelSettings(1, gain=5), cyton.ChannelSettings(1, input_type=8)):
        with pytest.raises(ValueError, match="expected"):
            wrong.command()
    with pytest.raises(ValueError, match="expected 1 to 8"):
        cyton.channel_power(0, on=True)


def test_banner_and_answers_are_read_from_text_in_pieces() -> None:
    text = b"OpenBCI V3 8-16 channel\r\nOn Board ADS1299 Device ID: 0x3E\r\nFirmware: v3.1.1\r\n$$$Success: Channel$$$"
    reader = cyton.ReplyReader()
    replies = [reply for byte in text for reply in reader.feed(bytes([byte]))]
    assert replies[1] == "Success: Channel"
    assert cyton.parse_banner(replies[0]) == cyton.Banner("OpenBCI V3 8-16 channel", "v3.1.1", "0x3E")
    assert cyton.parse_banner("Marlin 2.1") is None
    assert cyton.is_failure("Failure: Communications timeout - Device failed to poll Host")
