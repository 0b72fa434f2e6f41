"""The MQTT source against real brokers and the real robot cell simulator."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.clock import SystemClock
from edge_agent.errors import SourceMisconfigured, SourceUnavailable
from edge_agent.source import BoundChannel, Event, Frame, Lost, Reading, SourceContext
from edge_agent.sources.mqtt import BAD, MAX_PAYLOAD, Address, MqttSource, Settings
from firmware_bridge.mqtt_link import MqttLink
from lab_contract.batch import GapReason
from lab_contract.kit import KitModel, builtin_kit_models
from simulators.robot_cell import RobotCellSimulator
from simulators.robot_kinematics import forward
from tests.brokers import Broker, mosquitto, nats

PREFIX = "cells/test"
MODEL: KitModel = builtin_kit_models()["robot_cell"]


def source_for(url: str, base: Path = Path(), addresses: dict[str, Any] | None = None, **settings: Any) -> MqttSource:
    connection = MODEL.connection_by_id["cell"]
    merged = {**connection.settings, "url": url, "prefix": PREFIX, **settings}
    channels = tuple(
        BoundChannel(c, Address.model_validate((addresses or {}).get(c.id, c.address))) for c in MODEL.channels
    )
    return MqttSource(
        SourceContext(
            kit="robot-1",
            model=MODEL,
            connection=connection,
            settings=Settings.model_validate(merged),
            channels=channels,
            streams=MODEL.streams,
            clock=SystemClock(),
            base=base,
            agent=None,  # type: ignore[arg-type]
        )
    )


@pytest.fixture(params=[nats, mosquitto], ids=["nats", "mosquitto"])
def each_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    with request.param(tmp_path) as broker:
        yield broker


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with nats(tmp_path) as broker:
        yield broker


@asynccontextmanager
async def publisher(url: str) -> AsyncIterator[Callable[[str, Any], None]]:
    """A function that publishes a payload (bytes, or anything as JSON) below the kit's prefix."""
    connected, loop = asyncio.Event(), asyncio.get_running_loop()

    def on_connection(up: bool, _detail: str) -> None:
        if up:
            loop.call_soon_threadsafe(connected.set)

    link = MqttLink(
        url,
        client_id=f"test-{secrets.token_hex(6)}",
        on_message=lambda _topic, _payload: None,
        on_connection=on_connection,
    )
    link.start()

    def send(topic: str, body: Any) -> None:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        assert link.publish(f"{PREFIX}/{topic}", payload)

    try:
        async with asyncio.timeout(10):
            await connected.wait()
        yield send
    finally:
        await asyncio.to_thread(link.stop)


@asynccontextmanager
async def opened(source: MqttSource) -> AsyncIterator[AsyncIterator[Reading]]:
    async with asyncio.timeout(10):
        await source.open()
    try:
        yield source.readings()
    finally:
        await source.close()


async def until(readings: AsyncIterator[Reading], enough: Callable[[list[Event], list[Frame]], bool]) -> Any:
    """Events and frames up to the reading with which `enough` became true."""
    events: list[Event] = []
    frames: list[Frame] = []
    async with asyncio.timeout(20):
        while not enough(events, frames):
            reading = await anext(readings)
            if isinstance(reading, Frame):
                frames.append(reading)
            elif isinstance(reading, list):
                events.extend(reading)
    return events, frames


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is awaited happens on another thread
            await asyncio.sleep(0.005)


def rows(frames: list[Frame], stream: str) -> int:
    return sum(len(frame.t) for frame in frames if frame.stream == stream)


def values_of(events: list[Event]) -> list[tuple[str, float | None]]:
    return [(event.channel, event.value) for event in events]


def tcp(seq: int, t_ns: int | None = None, **fields: Any) -> dict[str, Any]:
    t = time.time_ns() if t_ns is None else t_ns
    body = {"seq": seq, "t_ns": t, "x": 1.0, "y": 2.0, "z": 3.0, "rx": 0.0, "ry": 0.0, "rz": 0.0, "speed": 5.0}
    return {**body, **fields}


async def test_every_channel_of_the_robot_arrives_and_none_is_lost(each_broker: Broker) -> None:
    source = source_for(each_broker.url)
    async with opened(source) as readings, RobotCellSimulator(broker=each_broker.url, prefix=PREFIX, seed=1) as robot:
        robot.cell.end_cycle()
        on_change = {c.id for c in MODEL.channels} - MODEL.stream_channels
        events, frames = await until(
            readings,
            lambda events, frames: (
                {e.channel for e in events} == on_change and rows(frames, "axes") > 5 and rows(frames, "tcp") > 5
            ),
        )
    now = time.time_ns()
    assert all(abs(event.t - now) < 20e9 for event in events)
    first = {event.channel: event for event in reversed(events)}
    assert (first["robot.operational_mode"].value, first["robot.operational_mode"].text) == (4.0, "AUTOMATIC_EXTERNAL")
    assert first["robot.program_name"].text in ("home", "pick_and_place_eight")
    assert first["cell.guard_closed"].value == 1.0
    axes = np.concatenate([frame.values for frame in frames if frame.stream == "axes"], axis=1)
    tool = np.concatenate([frame.values for frame in frames if frame.stream == "tcp"], axis=1)
    pose = forward(axes[:6, 0].astype(np.float64))
    assert tool[:3, 0] == pytest.approx([pose.x, pose.y, pose.z], abs=0.01)
    times = np.concatenate([frame.t for frame in frames if frame.stream == "axes"]).tolist()
    assert times == sorted(set(times))
    assert source.counters | {"messages": 0, "repeated": 0} == dict.fromkeys(source.counters, 0)


async def test_a_killed_broker_is_a_lost_link_and_reading_goes_on_after_its_return(each_broker: Broker) -> None:
    source = source_for(each_broker.url)
    async with opened(source) as readings, publisher(each_broker.url) as send:
        send("tcp", tcp(1))
        await until(readings, lambda _events, frames: rows(frames, "tcp") == 1)
        each_broker.kill()
        with pytest.raises(SourceUnavailable):
            await until(readings, lambda _events, _frames: False)
    with pytest.raises(SourceUnavailable):
        await source.open()
    each_broker.start()
    async with opened(source) as readings, publisher(each_broker.url) as send:
        send("tcp", tcp(9))
        _, frames = await until(readings, lambda _events, frames: rows(frames, "tcp") == 1)
    assert frames[0].lost == 7


@pytest.mark.parametrize("start", [nats, mosquitto], ids=["nats", "mosquitto"])
async def test_a_wrong_password_stops_the_source_and_is_not_shown(start: Any, tmp_path: Path) -> None:
    (tmp_path / "right").write_text("correct horse\n")
    (tmp_path / "wrong").write_text("battery staple\n")
    with start(tmp_path, users={"edge": "correct horse"}) as broker:
        source = source_for(broker.url, tmp_path, user="edge", password_file="wrong")
        with pytest.raises(SourceMisconfigured) as stopped:
            await source.open()
        assert stopped.value.place == "user"
        assert "battery" not in str(stopped.value)
        async with opened(source_for(broker.url, tmp_path, user="edge", password_file="right")):
            pass


async def test_a_missing_password_file_names_the_setting(tmp_path: Path) -> None:
    source = source_for("mqtt://127.0.0.1:1", tmp_path, user="edge", password_file="nowhere")
    with pytest.raises(SourceMisconfigured, match="password_file"):
        await source.open()


async def test_a_silent_robot_is_noticed(broker: Broker) -> None:
    async with opened(source_for(broker.url, stale_after_s=0.2)) as readings:
        with pytest.raises(SourceUnavailable, match=r"nothing below cells/test for 0\.2 s"):
            await until(readings, lambda _events, _frames: False)


async def test_the_robot_is_asked_for_all_states_at_once(broker: Broker) -> None:
    """Without the request a page would wait up to five seconds for the first state."""
    heard: list[str] = []
    link = MqttLink(
        broker.url,
        client_id=secrets.token_hex(8),
        on_message=lambda topic, _payload: heard.append(topic),
        on_connection=lambda _up, _detail: None,
    )
    link.subscribe(f"{PREFIX}/request")
    link.start()
    try:
        await eventually(lambda: link.connected)
        async with opened(source_for(broker.url)):
            await eventually(lambda: heard == [f"{PREFIX}/request"])
    finally:
        link.stop()


async def test_missing_samples_are_reported_with_the_frame_after_the_gap(broker: Broker) -> None:
    source = source_for(broker.url)
    async with opened(source) as readings, publisher(broker.url) as send:
        for seq in (1, 2, 5, 6):
            send("tcp", tcp(seq))
        _, frames = await until(readings, lambda _events, frames: rows(frames, "tcp") == 4)
    assert [frame.lost for frame in frames if frame.lost] == [2]
    assert source.counters["lost"] == 2
    before = sum(len(frame.t) for frame in frames[: next(i for i, frame in enumerate(frames) if frame.lost)])
    assert before == 2


async def test_states_that_are_missing_are_said_before_what_came_behind_them(broker: Broker) -> None:
    """A guard that was opened and closed in the missing message would never have been open."""
    source = source_for(broker.url)
    async with opened(source) as readings, publisher(broker.url) as send:
        for seq in (1, 2, 5):
            send("temperature", {"seq": seq, "axis": [20.0 + seq] * 6})
        found: list[Reading] = []
        async with asyncio.timeout(20):
            while source.counters["messages"] < 3:
                found.append(await anext(readings))
    assert Lost(GapReason.COUNTER_JUMP) in found


async def test_a_restarted_robot_or_a_mad_number_is_a_new_count_and_no_loss(broker: Broker) -> None:
    source = source_for(broker.url)
    async with opened(source) as readings, publisher(broker.url) as send:
        for seq in (500, 1, 2, 10**30, 3):
            send("tcp", tcp(seq))
        _, frames = await until(readings, lambda _events, frames: rows(frames, "tcp") == 5)
    assert [frame.lost for frame in frames] == [0] * len(frames)
    assert (source.counters["lost"], source.counters["recounts"]) == (0, 3)


async def test_a_message_delivered_twice_counts_once(broker: Broker) -> None:
    source = source_for(broker.url)
    first, second = tcp(1), tcp(2)
    async with opened(source) as readings, publisher(broker.url) as send:
        for body in (first, second, second, first, tcp(3)):
            send("tcp", body)
        _, frames = await until(readings, lambda _events, _frames: source.counters["messages"] == 5)
    assert rows(frames, "tcp") == 3
    assert source.counters["repeated"] == 2


IMPORTED_NS = time.time_ns()
"""Before every source time below."""
MALFORMED = [
    b"",
    b"\xff\xfe",
    b"{",
    b"null",
    b"NaN",
    b'{"seq":1,"x":Infinity}',
    b"[" * 50_000,
    b'{"x":' + b"9" * 5000 + b"}",
    b"0" * (MAX_PAYLOAD + 1),
]


def wrong() -> list[Any]:
    """Made when they are sent: a time of minutes ago would be another fault."""
    return [
        tcp(1, x="fast"),
        tcp(2, x=True),
        tcp(3, x=[1]),
        tcp(4, x=10**400),
        {k: v for k, v in tcp(5).items() if k != "x"},
        tcp(6, x=1e39),
        tcp("six"),  # type: ignore[arg-type]
        tcp(-7),
        tcp(True),
    ]


async def test_hostile_payloads_cost_themselves_and_nothing_else(broker: Broker) -> None:
    sent_wrong = wrong()
    source = source_for(broker.url)
    async with opened(source) as readings, publisher(broker.url) as send:
        for payload in MALFORMED:
            send("tcp", payload)
        for body in sent_wrong:
            send("tcp", body)
        send("tcp", b"[1, 2]")
        send("tcp", tcp(8, t_ns=0))
        send("tcp", tcp(9, t_ns="now"))  # type: ignore[arg-type]
        send("tcp", tcp(10, x=None))
        send("tcp", tcp(11, x=42.0))
        _, frames = await until(readings, lambda _events, frames: bool(frames) and frames[-1].values[0, -1] == 42.0)
    counters = source.counters
    assert counters["malformed"] == len(MALFORMED)
    assert counters["bad_values"] == len(sent_wrong) + len(MODEL.stream_by_id["tcp"].channels)
    assert counters["bad_times"] == 2
    assert counters["bad_quality"] == 1
    assert source.facts["last_fault"] == "tcp: t_ns: expected UTC ns, found 'now'; time of receipt used"
    values = np.concatenate([frame.values for frame in frames], axis=1)
    assert np.isnan(values[0]).sum() == 8
    assert all(IMPORTED_NS <= int(t) <= time.time_ns() for frame in frames for t in frame.t)


async def test_states_are_sent_when_they_change_and_a_cycle_time_each_time(broker: Broker) -> None:
    source = source_for(broker.url)
    t = time.time_ns()
    async with opened(source) as readings, publisher(broker.url) as send:
        send("cycle", {"seq": 1, "t_ns": t, "time": 12.5, "count": 1})
        send("cycle", {"seq": 1, "t_ns": t, "time": 12.5, "count": 1})
        send("cycle", {"seq": 2, "t_ns": t + 1, "time": 12.5, "count": 2})
        for seq, state in enumerate((0, 0, "running", 7, None), start=1):
            send("state/program", {"seq": seq, "name": "a", "loaded": True, "execution_mode": 0, "state": state})
        events, _ = await until(
            readings,
            # topics overtake each other, so both must have come to their end
            lambda events, _frames: any(e.quality for e in events) and ("robot.cycles", 2.0) in values_of(events),
        )
    seen = [(e.channel, e.value, e.text, e.quality) for e in events]
    assert [row for row in seen if row[0].startswith("robot.cycle")] == [
        ("robot.cycle_time", 12.5, None, 0),
        ("robot.cycles", 1.0, None, 0),
        ("robot.cycle_time", 12.5, None, 0),
        ("robot.cycles", 2.0, None, 0),
    ]
    assert [row for row in seen if not row[0].startswith("robot.cycle")] == [
        ("robot.program_name", None, "a", 0),
        ("robot.program_loaded", 1.0, None, 0),
        ("robot.execution_mode", 0.0, "CYCLE", 0),
        ("robot.program_state", 0.0, "idle", 0),
        ("robot.program_state", 1.0, "running", 0),
        ("robot.program_state", 7.0, None, 0),
        ("robot.program_state", None, None, BAD),
    ]
    assert source.counters["lost"] == 0


async def test_a_slow_reader_loses_the_oldest_and_says_so(broker: Broker) -> None:
    source = source_for(broker.url, max_queued=10)
    async with opened(source) as readings, publisher(broker.url) as send:
        send("tcp", tcp(1))
        await until(readings, lambda _events, frames: rows(frames, "tcp") == 1)
        for seq in range(2, 102):
            send("tcp", tcp(seq))
        await eventually(lambda: source.counters["overflow"] == 90)
        _, frames = await until(readings, lambda _events, frames: rows(frames, "tcp") == 10)
    assert frames[0].lost == 90
    assert source.counters["lost"] == 90


async def test_a_stream_over_two_topics_is_a_fault_of_the_settings() -> None:
    source = source_for("mqtt://127.0.0.1:1", addresses={"robot.tcp.x": {"topic": "pose", "field": "x"}})
    with pytest.raises(SourceMisconfigured, match=r"streams\.tcp: expected all its channels on one topic"):
        await source.open()


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "http://127.0.0.1"},
        {"prefix": "cells/#"},
        {"prefix": "/cells"},
        {"prefix": ""},
        {"password_file": "secret"},
        {"stale_after_s": 0},
        {"unknown": 1},
    ],
    ids=str,
)
def test_wrong_settings_are_found_before_the_network_is_touched(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Settings.model_validate({"url": "mqtt://127.0.0.1", "prefix": "cells", **settings})


@pytest.mark.parametrize("address", [{}, {"topic": "a/+"}, {"topic": "a", "field": "b..c"}, {"topic": "a", "qos": 1}])
def test_wrong_addresses_are_found_before_the_network_is_touched(address: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Address.model_validate(address)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=8), inner, max_size=8),
    max_leaves=20,
)
TOPICS = sorted({c.address["topic"] for c in MODEL.channels})
BODIES = st.one_of(
    st.binary(max_size=64),
    JSON.map(lambda body: json.dumps(body).encode()),
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(("seq", "t_ns", "x", "position", "axis", "state", "closed", "time", "name"), JSON),
    ).map(lambda body: json.dumps(body).encode()),
)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(TOPICS), BODIES), max_size=12))
def test_no_payload_stops_the_line(messages: list[tuple[str, bytes]]) -> None:
    source = source_for("mqtt://127.0.0.1:1")
    for topic, payload in messages:
        source._enqueue(f"{PREFIX}/{topic}", payload)
    for reading in source._decode(source._take()):
        if isinstance(reading, Frame):
            stream = MODEL.stream_by_id[reading.stream]
            assert reading.values.shape == (len(stream.channels), len(reading.t))
            assert 0 <= reading.lost <= 100_000
        else:
            assert all(e.value is not None or e.text is not None or e.quality for e in reading)
    assert source.counters["messages"] == len(messages)
