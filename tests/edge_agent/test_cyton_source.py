"""Without these an instructor would watch EEG that is late, scaled wrongly or dead, and nobody would say so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from edge_agent.clock import SystemClock
from edge_agent.errors import SourceMisconfigured, SourceUnavailable
from edge_agent.source import Event, Frame, Reading
from edge_agent.sources.cyton import Address, CytonSource, Settings
from simulators.bci_platform import BciPlatformSimulator
from simulators.cyton_board import CytonBoard
from simulators.serial_port import Port, PtyPort, TcpPort
from tests.bci_bench import context, starved, until

AMPLITUDES = (50, 100, 150, 200, 250, 300, 350, 400)


class Clock(SystemClock):
    """The machine's clock, which a test may set."""

    def __init__(self) -> None:
        self.set_ns = 0

    def time_ns(self) -> int:
        return super().time_ns() + self.set_ns


@asynccontextmanager
async def reading(source: CytonSource) -> AsyncIterator[list[Reading]]:
    """Collects what an open source says."""
    got: list[Reading] = []

    async def collect() -> None:
        async for item in source.readings():
            got.append(item)  # noqa: PERF401 - watched while it grows

    task = asyncio.create_task(collect())
    try:
        yield got
    finally:
        task.cancel()
        await asyncio.wait({task})
        await source.close()


def frames(got: list[Reading]) -> list[Frame]:
    return [item for item in got if isinstance(item, Frame)]


def samples(got: list[Reading]) -> int:
    return sum(len(frame.t) for frame in frames(got))


async def next_error(source: CytonSource) -> Exception:
    with pytest.raises(SourceUnavailable) as caught:
        await asyncio.wait_for(exhaust(source), 10)
    return caught.value


def device(port: PtyPort) -> str:
    """The terminal that the link points at now."""
    return str(Path(port.url).readlink())


async def exhaust(source: CytonSource) -> None:
    async for _ in source.readings():
        pass


@pytest.mark.parametrize("make", [PtyPort, TcpPort])
async def test_eight_channels_at_250_hz_in_microvolts_at_the_time_they_were_taken(make: Callable[[], Port]) -> None:
    port = make()
    async with BciPlatformSimulator(port, PtyPort(), test_amplitudes_uv=AMPLITUDES) as simulator:
        source = CytonSource(context(CytonSource, "eeg", port=port.url))
        await source.open()
        clock = SystemClock()
        async with reading(source) as got:
            await until(lambda: samples(got) >= 600)
            now = clock.time_ns()
        read = frames(got)
        assert {frame.stream for frame in read} == {"eeg"}
        assert all(frame.values.shape == (8, len(frame.t)) for frame in read)
        assert all(frame.values.dtype == np.float32 and frame.t.dtype == np.int64 for frame in read)
        t = np.concatenate([frame.t for frame in read])
        eeg = np.concatenate([frame.values for frame in read], axis=1)
        assert np.diff(t).min() > 0
        assert abs(np.diff(t)[100:] - 4e6).max() < 0.06 * 4e6 or starved(simulator)
        assert abs(now - t[-1]) < 0.5e9
        assert np.ptp(eeg[:, :500], axis=1) / 2 == pytest.approx(AMPLITUDES, rel=0.002)
        assert source.facts["firmware"] == "v3.1.1"
        assert source.counters["packets"] >= 600
        for name in ("lost", "resyncs", "garbage_bytes", "stalls", "unsaid_stops", "overflow_bytes"):
            assert source.counters[name] == 0 or starved(simulator), name
        assert sum(frame.lost for frame in read) <= source.counters["lost"]


async def test_the_derived_channels_come_at_their_rates() -> None:
    port = PtyPort()
    async with BciPlatformSimulator(port, PtyPort(), test_amplitudes_uv=AMPLITUDES):
        source = CytonSource(context(CytonSource, "eeg", port=port.url))
        await source.open()
        async with reading(source) as got:
            await until(lambda: samples(got) >= 800)
        events: dict[str, list[Event]] = {}
        for item in got:
            for event in item if isinstance(item, list) else ():
                events.setdefault(event.channel, []).append(event)
        # 10 Hz of 300 uV lies in alpha: half the amplitude squared.
        assert events["eeg.oz.alpha"][-1].value == pytest.approx(45_000, rel=0.01)
        assert events["eeg.oz.beta"][-1].value == pytest.approx(0, abs=1)
        assert [event.value for event in events["eeg.lost_samples"]] == [0] * 3
        # 2 s of samples until the first window is full, then 2 Hz for bands and 1 Hz for the rest.
        assert len(events["eeg.fp1.delta"]) == 3
        assert len(events["eeg.pz.quality"]) == 2
        sent = {channel.id for channel in source_channels() if not channel.optional} - {f"eeg.{e}" for e in ELECTRODES}
        assert set(events) == sent - {c for c in sent if c.endswith("impedance")}


ELECTRODES = ("fp1", "c3", "cz", "c4", "o1", "oz", "o2", "pz")


def source_channels() -> list[Any]:
    return [bound.channel for bound in context(CytonSource, "eeg", port="x").channels]


async def test_gains_are_set_on_the_board_and_used_for_the_scale() -> None:
    port = PtyPort()
    gains = (1, 2, 4, 6, 8, 12, 24, 24)
    async with BciPlatformSimulator(port, PtyPort(), test_amplitudes_uv=AMPLITUDES) as simulator:
        source = CytonSource(context(CytonSource, "eeg", port=port.url, gain=gains))
        await source.open()
        async with reading(source) as got:
            await until(lambda: samples(got) >= 50)
            assert simulator.board.gains == gains
        eeg = np.concatenate([frame.values for frame in frames(got)], axis=1)
        assert np.ptp(eeg, axis=1) / 2 == pytest.approx(AMPLITUDES, rel=0.02)


async def test_the_board_stops_streaming_when_the_source_closes() -> None:
    port = PtyPort()
    async with BciPlatformSimulator(port, PtyPort()) as simulator:
        source = CytonSource(context(CytonSource, "eeg", port=port.url))
        await source.open()
        await until(lambda: simulator.board.streaming)
        await source.close()
        await source.close()
        await until(lambda: not simulator.board.streaming)


async def test_a_board_left_streaming_by_a_process_that_died_is_taken_over() -> None:
    port = PtyPort()
    async with BciPlatformSimulator(port, PtyPort()) as simulator:
        simulator.board.receive(b"b")
        source = CytonSource(context(CytonSource, "eeg", port=port.url))
        await source.open()
        async with reading(source) as got:
            await until(lambda: samples(got) >= 50)
        assert source.counters["lost"] == 0


async def test_lost_packets_and_noise_on_the_line_are_counted_and_passed() -> None:
    class Line(PtyPort):
        spoil = 0

        def write(self, data: bytes) -> None:
            if self.spoil and len(data) == 5 * 33:
                self.spoil -= 1
                data = data[:33] + b"\xa0\xa0\xc0" + data[33 + 40 :]
            super().write(data)

    port = Line()
    async with BciPlatformSimulator(port, PtyPort()):
        source = CytonSource(context(CytonSource, "eeg", port=port.url))
        await source.open()
        async with reading(source) as got:
            await until(lambda: samples(got) >= 100)
            port.spoil = 1
            before = samples(got)
            await until(lambda: samples(got) >= before + 100)
        assert source.counters["lost"] == 2
        assert source.counters["resyncs"] == 1
        assert source.counters["garbage_bytes"] == 26 + 3
        (gap,) = [i for i, frame in enumerate(frames(got)) if frame.lost]
        assert frames(got)[gap].lost == 2
        t = np.concatenate([frame.t for frame in frames(got)])
        assert (np.diff(t) > 11_000_000).sum() == 1


async def test_an_unplug_in_mid_frame_ends_the_readings_and_a_replug_under_another_name_works(tmp_path: Path) -> None:
    port = PtyPort(tmp_path / "eeg")
    async with BciPlatformSimulator(port, PtyPort()):
        source = CytonSource(context(CytonSource, "eeg", port=port.url))
        await source.open()
        async with reading(source) as got:
            await until(lambda: samples(got) >= 50)
        source = CytonSource(context(CytonSource, "eeg", port=port.url))
        await source.open()
        name = device(port)
        # The next new terminal cannot take the old one's name while this one is open.
        error = asyncio.create_task(next_error(source))
        port.write(b"\xa0\x07half a packet")
        other = PtyPort()
        await other.plug()
        await port.unplug()
        assert "gone" in str(await error)
        await source.close()
        assert source.counters["unsaid_stops"] == 1
        with pytest.raises(SourceUnavailable, match="cannot open"):
            await source.open()
        await source.close()
        assert source.counters["unsaid_stops"] == 1
        in_the_way = PtyPort()
        await in_the_way.plug()
        await port.plug()
        assert device(port) != name
        await source.open()
        async with reading(source) as got:
            await until(lambda: samples(got) >= 50)
        await in_the_way.unplug()
        await other.unplug()


async def test_a_board_that_falls_silent_is_noticed() -> None:
    """BrainFlow reads on for ever here; a wearer out of the dongle's reach would look like a calm one."""
    port = PtyPort()
    async with BciPlatformSimulator(port, PtyPort()) as simulator:
        source = CytonSource(context(CytonSource, "eeg", port=port.url, stall_s=0.3))
        await source.open()
        error = asyncio.create_task(next_error(source))
        await until(lambda: simulator.board.streaming)
        simulator.board.receive(b"s")
        assert "no sample for 0.3 s" in str(await error)
        assert source.counters["stalls"] == 1
        await source.close()


async def test_noise_without_samples_is_a_stall_too() -> None:
    port = PtyPort()
    board = CytonBoard()
    port.on_data = lambda data: port.write(board.receive(data))
    await port.plug()
    source = CytonSource(context(CytonSource, "eeg", port=port.url, stall_s=0.3))
    await source.open()
    error = asyncio.create_task(next_error(source))
    while not error.done():
        port.write(b"noise")
        await asyncio.wait({error}, timeout=0.02)
    assert "no sample" in str(await error)
    await source.close()
    await port.unplug()


async def test_a_slow_reader_is_not_taken_for_a_silent_board() -> None:
    port = PtyPort()
    async with BciPlatformSimulator(port, PtyPort()) as simulator:
        source = CytonSource(context(CytonSource, "eeg", port=port.url, stall_s=0.3))
        await source.open()
        readings = source.readings()
        await anext(readings)
        ms = simulator.controller.ms
        await until(lambda: simulator.controller.ms > ms + 500)
        await anext(readings)
        await anext(readings)
        await source.close()


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (b"Failure: Communications timeout$$$", SourceUnavailable, "the dongle answers, the board does not"),
        (b"OpenBCI Ganglion v2.0.0$$$", SourceMisconfigured, "expected the banner of an OpenBCI Cyton"),
    ],
)
async def test_who_answers_in_place_of_the_board_is_named(answer: bytes, error: type[Exception], text: str) -> None:
    port = PtyPort()
    port.on_data = lambda data: port.write(answer if b"v" in data else b"")
    await port.plug()
    source = CytonSource(context(CytonSource, "eeg", port=port.url))
    with pytest.raises(error, match=text):
        await source.open()
    await source.close()
    await port.unplug()


async def test_a_port_with_nothing_behind_it_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.sources.cyton.BANNER_S", 0.2)
    port = PtyPort()
    await port.plug()
    source = CytonSource(context(CytonSource, "eeg", port=port.url))
    with pytest.raises(SourceUnavailable, match="answer within"):
        await source.open()
    await source.close()
    await port.unplug()


async def test_when_the_computer_s_clock_is_set_the_samples_follow() -> None:
    port, clock = PtyPort(), Clock()
    async with BciPlatformSimulator(port, PtyPort()):
        source = CytonSource(context(CytonSource, "eeg", clock, port=port.url))
        await source.open()
        async with reading(source) as got:
            await until(lambda: samples(got) >= 50)
            clock.set_ns = 3600 * 10**9
            before = samples(got)
            await until(lambda: samples(got) >= before + 50)
            t = np.concatenate([frame.t for frame in frames(got)])
            assert abs(t[-1] - clock.time_ns()) < 0.5e9
            assert np.diff(t).min() > 0
        assert source.counters["clock_steps"] == 1
        assert source.counters["lost"] == 0
        await source.open()
        clock.set_ns = 0
        assert "set back by 3600.0 s" in str(await next_error(source))
        await source.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"index": 8},
        {"measure": "alpha"},
        {"measure": "line_noise", "index": 1},
        {"thinkgear": "attention", "index": 0},
        {"measure": "delta", "index": 0, "node": "x"},
    ],
)
def test_an_address_that_names_nothing_is_found_at_the_desk(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Address.model_validate(wrong)


@pytest.mark.parametrize("wrong", [{}, {"port": "usb:1"}, {"port": "COM3", "gain": 5}, {"port": "COM3", "line_hz": 55}])
def test_settings_that_fit_no_board_are_found_at_the_desk(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate(wrong)
