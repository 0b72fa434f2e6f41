"""Without these the platform's emergency stop or a dead sensor might never reach the page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from edge_agent.errors import SourceMisconfigured, SourceUnavailable
from edge_agent.source import Event, Lost, Reading
from edge_agent.sources.kit_link import NO_VALUE, Address, KitLinkSource
from firmware_bridge import kit_link
from firmware_bridge.framing import Frame, encode
from simulators.bci_platform import BciPlatformSimulator
from simulators.serial_port import Port, PtyPort, TcpPort
from tests.bci_bench import context, model, starved, until


def wire(message: kit_link.Message, seq: int = 0) -> bytes:
    kind, payload = kit_link.encode(message)
    return encode(Frame(kind, seq, payload))


class Events(dict[str, list[Event]]):
    """Events by channel."""

    losses = 0

    def add(self, reading: Reading) -> None:
        if isinstance(reading, Lost):
            self.losses += 1
            return
        assert isinstance(reading, list)
        for event in reading:
            self.setdefault(event.channel, []).append(event)

    def count(self, channel: str) -> int:
        return len(self.get(channel, []))


@asynccontextmanager
async def collected(source: KitLinkSource) -> AsyncIterator[Events]:
    got = Events()

    async def collect() -> None:
        async for item in source.readings():
            got.add(item)

    task = asyncio.create_task(collect())
    try:
        yield got
    finally:
        task.cancel()
        await asyncio.wait({task})
        await source.close()


@pytest.mark.parametrize("make", [PtyPort, TcpPort])
async def test_every_channel_of_the_platform_arrives_at_once_and_then_at_its_rate(make: Callable[[], Port]) -> None:
    port = make()
    async with BciPlatformSimulator(PtyPort(), port) as simulator:
        source = KitLinkSource(context(KitLinkSource, "drive", port=port.url))
        await source.open()
        async with collected(source) as got:
            wanted = {channel.id for channel in model().channels if channel.connection == "drive"}
            await until(lambda: set(got) == wanted, 3)
            await until(lambda: got.count("drive.speed") >= 15)
            now = time.time_ns()
        for channel in ("drive.speed", "drive.obstacle_rear"):
            t = np.array([event.t for event in got[channel]])
            assert np.diff(t).min() >= 0
            assert np.diff(t)[2:] == pytest.approx(1e8, abs=1e7)
            assert abs(t[-1] - now) < 0.5e9
        assert abs(got.count("drive.tilt") - got.count("drive.speed") / 2) <= 2
        # What is said again without a change is not handed on again.
        assert got.count("drive.seat") == got.count("drive.estop") == 1
        assert got["bci.mode"][0].text == "ssvep"
        assert got["bci.mode"][0].value == 1
        assert got["drive.enable_switch"][0].value == 1
        assert got["drive.battery_pct"][0].t_receipt is not None
        assert "simulator" in source.facts["controller"]
        for name in ("lost", "bad_frames", "garbage_bytes", "malformed", "unknown", "stalls"):
            assert source.counters[name] == 0 or starved(simulator), name


async def test_a_switch_is_handed_on_when_it_changes() -> None:
    port = PtyPort()
    async with BciPlatformSimulator(PtyPort(), port) as simulator:
        source = KitLinkSource(context(KitLinkSource, "drive", port=port.url))
        await source.open()
        async with collected(source) as got:
            await until(lambda: got.count("drive.estop") == 1)
            simulator.controller.drive.estop = True
            await until(lambda: got.count("drive.estop") == 2, 1)
            assert [event.value for event in got["drive.estop"]] == [0, 1]


async def test_a_dead_sensor_is_no_value_and_not_a_number() -> None:
    port = PtyPort()
    async with BciPlatformSimulator(PtyPort(), port) as simulator:
        simulator.controller.drive.dead_sensors.add("rear")
        source = KitLinkSource(context(KitLinkSource, "drive", port=port.url))
        await source.open()
        async with collected(source) as got:
            await until(lambda: got.count("drive.obstacle_rear") >= 3)
        event = got["drive.obstacle_rear"][-1]
        assert (event.value, event.quality) == (None, NO_VALUE)
        assert got["drive.obstacle_front"][-1].quality == 0
        assert source.counters["bad_quality"] >= 3


async def test_an_unplug_in_mid_frame_ends_the_readings_and_a_replug_works(tmp_path: Path) -> None:
    port = PtyPort(tmp_path / "drive")
    async with BciPlatformSimulator(PtyPort(), port):
        source = KitLinkSource(context(KitLinkSource, "drive", port=port.url))
        await source.open()
        got = Events()

        async def read_and_unplug() -> None:
            async for item in source.readings():
                got.add(item)
                if got.count("drive.speed") == 5:
                    port.write(b"\x09half")
                    await port.unplug()

        with pytest.raises(SourceUnavailable, match="gone"):
            await asyncio.wait_for(read_and_unplug(), 10)
        await source.close()
        with pytest.raises(SourceUnavailable, match="cannot open"):
            await source.open()
        await source.close()
        in_the_way = PtyPort()
        await in_the_way.plug()
        await port.plug()
        await source.open()
        async with collected(source) as again:
            # The whole state once more, also what has not changed since.
            await until(lambda: again.count("drive.seat") == 1 and again.count("drive.speed") >= 3)
        await in_the_way.unplug()


class Controller:
    """A controller that says what a test wants."""

    def __init__(self, version: int = kit_link.VERSION) -> None:
        self.port = PtyPort()
        self.port.on_data = lambda _data: self.port.write(wire(kit_link.Info(version, "test")))


@asynccontextmanager
async def scripted(controller: Controller, **settings: float) -> AsyncIterator[KitLinkSource]:
    await controller.port.plug()
    source = KitLinkSource(context(KitLinkSource, "drive", port=controller.port.url, **settings))
    try:
        yield source
    finally:
        await source.close()
        await controller.port.unplug()


def battery(ms: int, voltage: float) -> kit_link.Telemetry:
    return kit_link.Telemetry("battery", ms, {"voltage": voltage, "percent": 50.0})


async def test_hostile_frames_cost_themselves_and_nothing_else() -> None:
    controller = Controller()
    async with scripted(controller) as source:
        await source.open()
        async with collected(source) as got:
            hostile = [
                b"\x01\x02\x03\0",
                encode(Frame(0x93, 1, b"short")),
                encode(Frame(0x7F, 2, b"from a later version")),
                encode(Frame(0x83, 3, b"\1\0\0\0\x63text")),
                b"\xff" * 700 + b"\0",
            ]
            controller.port.write(b"".join(hostile) + wire(battery(1000, 24.5), 4))
            await until(lambda: got.count("drive.battery_v") == 1)
            assert got["drive.battery_v"][0].value == pytest.approx(24.5)
        assert source.counters["malformed"] == 2
        assert source.counters["unknown"] == 1
        assert source.counters["bad_frames"] == 2
        assert source.counters["garbage_bytes"] == 703


async def test_packets_that_are_missing_are_said_before_what_came_behind_them() -> None:
    """A hole in the drive's values would look like a drive that stood still."""
    controller = Controller()
    async with scripted(controller) as source:
        await source.open()
        async with collected(source) as got:
            controller.port.write(wire(battery(1000, 24.0), 1) + wire(battery(1100, 24.1), 2))
            await until(lambda: got.count("drive.battery_v") == 2)
            before = got.losses
            controller.port.write(wire(battery(1400, 24.2), 5))
            await until(lambda: got.count("drive.battery_v") == 3)
            assert got.losses == before + 1
        assert source.counters["lost"] >= 2


async def test_a_controller_that_started_anew_keeps_the_right_time() -> None:
    controller = Controller()
    async with scripted(controller) as source:
        await source.open()
        async with collected(source) as got:
            controller.port.write(wire(battery(500_000, 24.0), 1))
            await until(lambda: got.count("drive.battery_v") == 1)
            controller.port.write(wire(battery(40, 24.1), 0))
            await until(lambda: got.count("drive.battery_v") == 2)
            assert abs(got["drive.battery_v"][1].t - time.time_ns()) < 2e9
        assert source.counters["restarts"] == 1


async def test_the_wrap_of_the_controller_s_milliseconds_is_no_restart() -> None:
    controller = Controller()
    async with scripted(controller) as source:
        await source.open()
        async with collected(source) as got:
            controller.port.write(wire(battery(2**32 - 50, 24.0), 1) + wire(battery(50, 24.1), 2))
            await until(lambda: got.count("drive.battery_v") == 2)
            first, second = got["drive.battery_v"]
            assert second.t - first.t == pytest.approx(100e6, rel=0.06)
        assert source.counters["restarts"] == 0


async def test_a_silent_controller_is_noticed() -> None:
    controller = Controller()
    async with scripted(controller, stall_s=0.2) as source:
        await source.open()
        with pytest.raises(SourceUnavailable, match=r"nothing from the controller for 0\.2 s"):
            async for _ in source.readings():
                pass
        assert source.counters["stalls"] == 1


async def test_a_controller_of_another_version_and_one_that_says_nothing_are_told_apart() -> None:
    async with scripted(Controller(version=9)) as source:
        with pytest.raises(SourceMisconfigured, match="kit_link version 1, found version 9"):
            await source.open()
    silent = Controller()
    silent.port.on_data = lambda _data: None
    async with scripted(silent, answer_s=0.2) as source:
        with pytest.raises(SourceUnavailable, match="did not say who it is"):
            await source.open()


@pytest.mark.parametrize("wrong", [{}, {"message": "motion"}, {"message": "wings", "field": "x"}])
def test_an_address_that_names_no_field_is_found_at_the_desk(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Address.model_validate(wrong)
    with pytest.raises(ValidationError, match="expected `field` to be one of speed"):
        Address.model_validate({"message": "motion", "field": "altitude"})
