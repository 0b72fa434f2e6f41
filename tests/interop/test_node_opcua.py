"""The edge reads an OPC UA server that nobody here wrote; what only our own simulator understands is no OPC UA."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import SourceMisconfigured
from edge_agent.sources.opcua import OpcuaSource
from lab_contract.kit import KitModel
from tests.opcua_parts import counters_model, event_of, events_until, make_certificate, opcua_source, opened
from tests.set_up import node

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

NODE = Path(__file__).parents[1] / "node"
VARIABLES = 200
CHANGES = 50
COUNTERS = counters_model(f"C{i}" for i in range(VARIABLES))
BAD = counters_model(["Bad"], kind="float")
ENCRYPTED = {
    "policy": "Basic256Sha256",
    "mode": "SignAndEncrypt",
    "certificate": "edge.pem",
    "private_key": "edge.key",
    "server_certificate": "server.pem",
    "user": "edge",
    "password_file": "password",
}


@dataclass
class NodeServer:
    """The running server: where it is, and the folder with the edge's files."""

    endpoint: str
    folder: Path

    def source(self, model: KitModel = COUNTERS, **settings: Any) -> OpcuaSource:
        where = {"namespace": "urn:test:counters", "object": "Counters"}
        return opcua_source(self.endpoint, model=model, base=self.folder, **where, **settings)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeServer]:
    folder = tmp_path_factory.mktemp("node-opcua")
    for name in ("server", "edge", "stranger"):
        make_certificate(folder, name, f"urn:test:{name}")
    (folder / "password").write_text("right one\n")
    (folder / "wrong").write_text("wrong one\n")
    settings = {
        "pki": str(folder / "pki"),
        "certificate": str(folder / "server.pem"),
        "privateKey": str(folder / "server.key"),
        "applicationUri": "urn:test:server",
        "trusted": [str(folder / "edge.der")],
        "user": "edge",
        "password": "right one",
        "variables": VARIABLES,
        "hz": 10,
    }
    with (folder / "log").open("w+") as log:
        arguments = [str(node()), "opcua_server.mjs"]
        process = subprocess.Popen(
            arguments, cwd=NODE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(settings) + "\n")
            process.stdin.flush()
            # node-opcua prints warnings on the same output.
            ready = next((line for line in process.stdout if line.startswith('{"endpoint"')), None)
            assert ready is not None, log.seek(0) or log.read()
            yield NodeServer(json.loads(ready)["endpoint"], folder)
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.mark.parametrize("security", [{}, ENCRYPTED], ids=["none", "encrypted with user"])
async def test_no_change_of_200_tags_is_lost(server: NodeServer, security: dict[str, object]) -> None:
    """A counter that skips a number would be a lost sample in every chart and every pass criterion."""
    async with opened(server.source(**security)) as source:
        assert source.facts["tags"] == f"{VARIABLES} of {VARIABLES}"
        events = await events_until(source, lambda seen: len(seen) >= VARIABLES * (CHANGES + 1), within_s=60)
    values: dict[str, list[float | None]] = {}
    times: dict[str, list[int]] = {}
    for event in events:
        values.setdefault(event.channel, []).append(event.value)
        times.setdefault(event.channel, []).append(event.t)
    assert len(values) == VARIABLES
    for channel, counted in values.items():
        first = counted[0]
        assert first is not None
        assert counted == [first + i for i in range(len(counted))], channel
        assert len(counted) >= CHANGES - 1, channel
        assert times[channel] == sorted(set(times[channel])), channel
    assert source.counters["local_drops"] == source.counters["overflow"] == source.counters["bad_quality"] == 0


async def test_revised_values_are_read_back(server: NodeServer) -> None:
    """node-opcua samples at 50 ms at best and says so only in its answer: the technician must see it."""
    addresses = {channel.id: {"sampling_interval_ms": 10} for channel in COUNTERS.channels}
    source = server.source(addresses=addresses, publishing_interval_ms=20)
    async with opened(source):
        assert source.counters["slowed"] == VARIABLES
        assert "c.c0 50 (asked 10)" in source.facts["sampling_interval_ms"]
        assert source.facts["publishing_interval_ms"] == "50 (asked 20)"


async def test_a_short_queue_at_the_server_is_counted_as_overflow(server: NodeServer) -> None:
    """Changes that the server dropped before we could fetch them are a gap, not a quiet tag."""
    addresses = {channel.id: {"sampling_interval_ms": 50, "queue_size": 2} for channel in COUNTERS.channels}
    async with opened(server.source(addresses=addresses, publishing_interval_ms=1000)) as source:
        events = await events_until(source, lambda _: source.counters["overflow"] > 0)
    assert {event.quality for event in events} == {0}


async def test_bad_status_comes_without_a_value(server: NodeServer) -> None:
    """A broken sensor must not look like its last good reading."""
    async with opened(server.source(BAD)) as source:
        event = await event_of(source, "c.bad")
    assert (event.value, event.text, event.quality) == (None, None, 0x808C0000)


async def test_wrong_password_stops_the_source_and_names_the_setting(server: NodeServer) -> None:
    """Retrying a wrong password for ever may lock the account of the PLC."""
    with pytest.raises(SourceMisconfigured, match="password") as refused:
        await server.source(**(ENCRYPTED | {"password_file": "wrong"})).open()
    assert refused.value.place == "user"
    assert "wrong one" not in str(refused.value)


async def test_another_servers_certificate_is_refused(server: NodeServer) -> None:
    """Whoever poses as the PLC gets neither the password nor believed."""
    with pytest.raises(SourceMisconfigured) as refused:
        await server.source(**(ENCRYPTED | {"server_certificate": "stranger.pem"})).open()
    assert refused.value.place == "server_certificate"


async def test_an_edge_that_the_server_does_not_trust_is_told_what_to_do(server: NodeServer) -> None:
    stranger = {"certificate": "stranger.pem", "private_key": "stranger.key"}
    with pytest.raises(SourceMisconfigured, match="trust this edge's certificate") as refused:
        await server.source(**(ENCRYPTED | stranger)).open()
    assert refused.value.place == "certificate"


async def test_a_key_of_another_certificate_is_found_before_connecting(server: NodeServer) -> None:
    with pytest.raises(SourceMisconfigured) as refused:
        await server.source(**(ENCRYPTED | {"private_key": "stranger.key"})).open()
    assert refused.value.place == "private_key"
