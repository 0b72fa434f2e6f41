"""The OPC UA source against a real server: a PLC's values arrive whole, named and timed; a lost PLC is noticed."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asyncua import Node, Server, ua

from edge_agent.errors import SourceMisconfigured, SourceUnavailable
from edge_agent.source import Lost
from edge_agent.sources.opcua import OpcuaSource
from lab_contract.batch import GapReason
from simulators.plc_line import PlcLineSimulator
from simulators.plc_model import PlcLineModel
from tests.opcua_parts import (
    PLC_LINE,
    counters_model,
    event_of,
    events_and_losses,
    events_until,
    make_certificate,
    opcua_source,
    opened,
    until,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

MICROSECOND = 1000
ON_PLC = [channel.id for channel in PLC_LINE.channels if channel.connection == "plc"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def line() -> AsyncIterator[PlcLineSimulator]:
    async with PlcLineSimulator(PlcLineModel(1)) as simulator:
        yield simulator


class Bench:
    """A server with a few variables that a test writes as it likes."""

    NAMESPACE = "urn:test:bench"

    def __init__(self, server: Server, index: int) -> None:
        self.server = server
        self.index = index
        self.nodes: dict[str, Node] = {}

    @property
    def endpoint(self) -> str:
        return f"opc.tcp://127.0.0.1:{self.server.bserver.port}/"

    async def add(self, name: str, value: Any, kind: ua.VariantType = ua.VariantType.Double) -> None:
        self.nodes[name] = await self.server.nodes.objects.add_variable(
            ua.NodeId(name, self.index), ua.QualifiedName(name, self.index), value, kind
        )

    async def write(self, name: str, data: ua.DataValue) -> None:
        await self.server.write_attribute_value(self.nodes[name].nodeid, data)

    def source(self, names: list[str], *, kind: str = "float", **settings: Any) -> OpcuaSource:
        model = counters_model(names, kind=kind)
        return opcua_source(self.endpoint, model=model, namespace=self.NAMESPACE, **settings)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench() -> AsyncIterator[Bench]:
    server = Server()
    await server.init()
    server.set_endpoint("opc.tcp://127.0.0.1:0/")
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    bench = Bench(server, await server.register_namespace(Bench.NAMESPACE))
    for i in range(300):
        await bench.add(f"C{i}", 0.0)
    async with server:
        yield bench


def double(value: float, **more: Any) -> ua.DataValue:
    return ua.DataValue(ua.Variant(value, ua.VariantType.Double), **more)


async def test_every_tag_of_the_kit_arrives_named_and_timed(line: PlcLineSimulator) -> None:
    """A tag left out by a wrong path would be an empty chart that nobody misses."""
    async with opened(opcua_source(line.endpoint)) as source:
        events = await events_until(source, lambda seen: {e.channel for e in seen} >= set(ON_PLC))
    first = {event.channel: event for event in reversed(events)}
    assert first["line.mode"].value == 1
    assert first["line.mode"].text == "auto"
    assert first["line.state"].text in {value.id for value in PLC_LINE.channel_by_id["line.state"].values}
    assert first["line.estop"].value == 0
    assert first["line.estop"].text is None
    assert first["plc.scan_ms"].value == pytest.approx(4.2, abs=3)
    for event in events:
        assert event.quality == 0
        assert event.t_server is not None
        assert event.t_receipt is not None
        assert event.t <= event.t_server <= event.t_receipt
    assert source.counters["values"] >= len(events)
    assert source.counters["missing"] == 0
    assert source.facts["tags"] == f"{len(ON_PLC)} of {len(ON_PLC)}"
    assert source.facts["publishing_interval_ms"] == "50"


async def test_node_ids_name_the_same_tags_as_browse_paths(line: PlcLineSimulator) -> None:
    namespace = PLC_LINE.connection_by_id["plc"].settings["namespace"]
    addresses = {
        "line.mode": {"node": "s=PlcLine.Line.Mode"},
        "line.state": {"node": f"nsu={namespace};s=PlcLine.Line.State"},
        "line.estop": {"node": "nsu=urn:nobody;i=7"},
    }
    async with opened(opcua_source(line.endpoint, addresses=addresses)) as source:
        assert (await event_of(source, "line.mode")).text == "auto"
        assert source.counters["missing"] == 1
        assert source.facts["missing"] == "line.estop namespace not offered"


async def test_a_tag_that_is_missing_is_told_and_taken_up_when_it_comes() -> None:
    """A PLC program downloaded during the lesson must not need a restart of the edge."""
    async with (
        PlcLineSimulator(PlcLineModel(1), leave_out=frozenset({"trans.pos"})) as simulator,
        opened(opcua_source(simulator.endpoint, retry_missing_s=0.1)) as source,
    ):
        assert source.counters["missing"] == 1
        assert source.facts["missing"].startswith("trans.pos Bad")
        lost = await event_of(source, "trans.pos")
        assert (lost.value, lost.quality) == (None, ua.StatusCodes.BadNodeIdUnknown)
        await simulator.add_channel(PLC_LINE.channel_by_id["trans.pos"])
        found = await event_of(source, "trans.pos", lambda event: event.quality == 0)
        assert found.value is not None
        assert source.counters["missing"] == 1
        assert source.facts["missing"] == "none"


async def test_bad_values_come_as_none_with_their_status(bench: Bench) -> None:
    """A broken sensor must not look like its last good reading; an uncertain one may, with its mark."""
    async with opened(bench.source(["C0"])) as source:
        broken = ua.StatusCode(ua.StatusCodes.BadSensorFailure)
        await bench.write("C0", double(5.0, StatusCode=broken))
        event = await event_of(source, "c.c0", lambda event: event.quality != 0)
        assert (event.value, event.quality) == (None, ua.StatusCodes.BadSensorFailure)
        doubtful = ua.StatusCode(ua.StatusCodes.UncertainLastUsableValue)
        await bench.write("C0", double(6.0, StatusCode=doubtful))
        event = await event_of(source, "c.c0")
        assert (event.value, event.quality) == (6.0, ua.StatusCodes.UncertainLastUsableValue)
        assert source.counters["bad_quality"] == 2


async def test_a_change_within_the_deadband_is_no_news_but_a_slow_drift_is(bench: Bench) -> None:
    """Noise of a sensor must not fill a thin link, and a value that creeps must not stand still on the page."""
    async with opened(
        opcua_source(
            bench.endpoint,
            model=counters_model(["C1"], kind="float", deadband=0.5),
            namespace=Bench.NAMESPACE,
        )
    ) as source:
        written = [0.3, 0.45, 0.6, 0.2, 1.2]
        for value in written:
            await bench.write("C1", double(value))
        broken = ua.StatusCode(ua.StatusCodes.BadSensorFailure)
        await bench.write("C1", double(1.2, StatusCode=broken))
        await bench.write("C1", double(1.25))
        events = await events_until(source, lambda seen: len(seen) >= 5)
    assert [event.value for event in events] == [0.0, 0.6, 1.2, None, 1.25]
    assert source.counters["repeated"] == 3


async def test_source_server_and_receipt_time_are_kept(bench: Bench) -> None:
    """Order of events on the line can be told only by the time of the PLC; the others show where time was lost."""
    measured = datetime(2026, 3, 1, 8, 30, 0, 123456, tzinfo=UTC)
    served = datetime(2026, 3, 1, 8, 30, 1, 654321, tzinfo=UTC)
    second = 1_772_353_800 * 1_000_000_000
    async with opened(bench.source(["C1"])) as source:
        await event_of(source, "c.c1")
        await bench.write("C1", double(1.0, SourceTimestamp=measured, ServerTimestamp=served))
        event = await event_of(source, "c.c1", lambda event: event.value == 1)
        assert event.t == second + 123_456 * MICROSECOND
        assert event.t_server == second + 1_000_000_000 + 654_321 * MICROSECOND
        assert event.t_receipt is not None
        assert event.t_receipt > event.t_server
        await bench.write("C1", double(2.0, SourceTimestamp=None, ServerTimestamp=served))
        event = await event_of(source, "c.c1", lambda event: event.value == 2)
        assert event.t == event.t_server
        # The null time of OPC UA is 1601: no time at all, not a sample of four centuries ago.
        null = datetime(1601, 1, 1, tzinfo=UTC)
        await bench.write("C1", double(3.0, SourceTimestamp=null, ServerTimestamp=null))
        event = await event_of(source, "c.c1", lambda event: event.value == 3)
        assert event.t_server is None
        assert event.t == event.t_receipt


async def test_overflow_is_counted_and_leaves_the_value_good(bench: Bench) -> None:
    """Values that a short queue in the server dropped are a gap, which is said."""
    async with opened(bench.source(["C2"])) as source:
        overflowed = ua.StatusCode(0x00000480)
        await bench.write("C2", double(4.0, StatusCode=overflowed))
        events, losses = await events_and_losses(source, lambda seen: any(event.value == 4 for event in seen))
        assert events[-1].quality == 0
        assert losses == [Lost(GapReason.OVERFLOW)]
        await bench.write("C2", double(5.0))  # the other tests have the same server
        assert source.counters["overflow"] == 1
        assert source.counters["bad_quality"] == 0


async def test_what_a_busy_edge_must_drop_is_counted(bench: Bench) -> None:
    """Memory stays bounded when nobody reads, the newest values are kept, and the loss is known to the last one."""
    names = [f"C{i}" for i in range(300)]
    async with opened(bench.source(names, queue_values=1000)) as source:
        for count in range(1, 8):
            for name in names:
                await bench.write(name, double(100.0 + count))
            await until(lambda taken=300 * count: source.counters["values"] >= taken)
        await bench.write("C0", double(-1.0))
        events, losses = await events_and_losses(source, lambda seen: any(event.value == -1.0 for event in seen))
        dropped = source.counters["local_drops"]
        assert dropped > 0
        assert sum(lost.count or 0 for lost in losses) == dropped
        assert len(events) + dropped == source.counters["values"]
        assert len(events) <= 1000 + 300


@pytest.mark.parametrize(
    ("kind", "value", "type_"),
    [
        ("int", "seven", ua.VariantType.String),
        ("text", 7.0, ua.VariantType.Double),
        ("float", math.nan, ua.VariantType.Double),
        ("float", math.inf, ua.VariantType.Double),
    ],
)
async def test_a_value_of_the_wrong_kind_is_no_value(
    bench: Bench, kind: str, value: object, type_: ua.VariantType
) -> None:
    """A tag of the wrong type is told as such instead of being guessed or ending the source."""
    name = f"Wrong{len(bench.nodes)}"
    await bench.add(name, value, type_)
    async with opened(bench.source([name], kind=kind)) as source:
        event = await event_of(source, f"c.{name.lower()}")
        assert (event.value, event.text, event.quality) == (None, None, ua.StatusCodes.BadTypeMismatch)
        assert source.counters["wrong_type"] == 1


async def test_text_arrives_as_text(bench: Bench) -> None:
    await bench.add("Recipe", "сортировка 分拣", ua.VariantType.String)
    async with opened(bench.source(["Recipe"], kind="text")) as source:
        event = await event_of(source, "c.recipe")
    assert (event.value, event.text) == (None, "сортировка 分拣")


async def test_a_quiet_server_still_shows_that_it_lives(bench: Bench) -> None:
    """Without it a line at rest would be shown as stale."""
    async with opened(bench.source(["C3"])) as source, asyncio.timeout(5), aclosing(source.readings()) as readings:
        async for reading in readings:
            if reading == []:
                return
    pytest.fail("the source has ended")


async def test_another_namespace_is_named_with_what_is_offered(bench: Bench) -> None:
    model = counters_model(["C0"], kind="float")
    source = opcua_source(bench.endpoint, model=model, namespace="urn:test:other")
    with pytest.raises(SourceUnavailable, match=f"{Bench.NAMESPACE}.*urn:test:other"):
        await source.open()


async def test_a_policy_that_the_server_lacks_is_misconfigured(bench: Bench, tmp_path: Path) -> None:

    make_certificate(tmp_path, "edge", "urn:test:edge")
    model = counters_model(["C0"], kind="float")
    files = {"certificate": "edge.pem", "private_key": "edge.key", "server_certificate": "edge.pem"}
    source = opcua_source(
        bench.endpoint, model=model, base=tmp_path, namespace=Bench.NAMESPACE, policy="Basic256Sha256", **files
    )
    with pytest.raises(SourceMisconfigured, match=r"offers \(None None\)") as refused:
        await source.open()
    assert refused.value.place == "policy"


async def test_nobody_there_is_worth_a_retry() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(SourceUnavailable):
        await opcua_source(f"opc.tcp://127.0.0.1:{port}/").open()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n" * 4, b"\x00" * 64, b""])
async def test_something_else_on_the_port_is_worth_a_retry(answer: bytes) -> None:
    """A wrong port must end in one clear line, not in a traceback or a hang."""

    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with asyncio.timeout(10):
            with pytest.raises(SourceUnavailable):
                await opcua_source(f"opc.tcp://127.0.0.1:{port}/", timeout_s=1).open()


@asynccontextmanager
async def plc_program(port: int) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """The simulator as a program of its own, so that it can be killed and frozen; and its port."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "simulators.cli", "plc-line", "--port", str(port), "--exit-with-parent"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            line = (await process.stdout.readline()).decode()
        yield process, int(line.rstrip("/\n").rpartition(":")[2])
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.real
async def test_a_killed_server_is_noticed_and_read_again_when_it_is_back() -> None:
    """After a power cut at the bench the data come back without anybody touching the edge."""
    loop = asyncio.get_running_loop()
    async with plc_program(0) as (process, port):
        source = opcua_source(f"opc.tcp://127.0.0.1:{port}/")
        await source.open()
        await event_of(source, "line.mode")
        process.kill()
        killed = loop.time()
        with pytest.raises(SourceUnavailable):
            await events_until(source, lambda _: False)
        assert loop.time() - killed < 3
    with pytest.raises(SourceUnavailable):
        await source.open()
    async with plc_program(port):
        await source.open()
        assert (await event_of(source, "line.mode")).text == "auto"
        await source.close()
        await source.close()


@pytest.mark.real
async def test_a_frozen_server_is_noticed_within_three_seconds() -> None:
    """A PLC that hangs with its connection open would otherwise look like a line at rest."""
    loop = asyncio.get_running_loop()
    async with plc_program(0) as (process, port):
        source = opcua_source(f"opc.tcp://127.0.0.1:{port}/")
        await source.open()
        await event_of(source, "line.mode")
        os.kill(process.pid, signal.SIGSTOP)
        frozen = loop.time()
        with pytest.raises(SourceUnavailable):
            await events_until(source, lambda _: False)
        assert loop.time() - frozen < 4
        await source.close()
        assert loop.time() - frozen < 7


async def test_closing_leaves_nothing_running(bench: Bench) -> None:
    """An edge that reconnects for weeks must not collect tasks."""
    before = len(asyncio.all_tasks())
    async with opened(bench.source(["C0"])) as source:
        await event_of(source, "c.c0")
    # The server's own tasks for this client end a moment later.
    await until(lambda: len(asyncio.all_tasks()) <= before)
