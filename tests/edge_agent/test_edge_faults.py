"""What is lost where these fail: what an edge has read when its process, its disk or its clock fails. Real processes.

A test publishes numbered states as equipment does. Each must arrive at the hub, unless it came while a gap of the kit's
events says that the edge did not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from edge_agent.agent import Agent
from edge_agent.clock import SystemClock
from edge_agent.errors import SourceUnavailable
from edge_agent.settings import EdgeSettings, load_settings
from firmware_bridge.mqtt_link import MqttLink
from lab_contract.batch import Gap, GapReason, Shape, unpack
from tests.brokers import Broker, mosquitto
from tests.edge_agent.support import Script, SmallHub, frame, gaps_in, replay_class, until
from tests.small_kit import MODEL, NOW, SECOND

pytestmark = pytest.mark.real
PERIOD_NS = 4_000_000
ROOT = Path(__file__).resolve().parents[2]

SETTINGS = """
edge = "edge-1"
[hub]
url = "{url}"
[spool]
limit_mb = {limit_mb}
[[kits]]
id = "kit-1"
model = "kit.yaml"
connections.plc = {{ url = "{url}", prefix = "equipment/kit-1", stale_after_s = 30 }}
"""

STEPS = {
    "before the commit": "edge_agent.spool_rows:Rows.make_room",
    "after the commit": "edge_agent.spool:Spool._committed",
    "before it is sent": "edge_agent.uplink:Uplink.appended",
    "after it was sent": "edge_agent.uplink:Uplink._pump",
    "at the acknowledgement": "edge_agent.uplink:Uplink._acknowledged",
    "when it is noted": "edge_agent.spool_rows:Rows.acknowledge",
    "while it is read": "edge_agent.batcher:Batcher.add",
    "in the outbox": "edge_agent.outbox:Outbox.put",
}
"""Each is called again and again; the process ends itself in the call of the number that it is given."""

KILLED = """
import importlib, os, signal, sys
place, calls = sys.argv[1], int(sys.argv[2])
module, _, name = place.partition(":")
owner, _, method = name.partition(".")
kind = getattr(importlib.import_module(module), owner)
inner = getattr(kind, method)
def wrapped(self, *arguments):
    global calls
    calls -= 1
    if calls == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(self, *arguments)
setattr(kind, method, wrapped)
from edge_agent.cli import main
sys.exit(main(["run", sys.argv[3], "--exit-with-parent"]))
"""


@dataclass
class Site:
    """An edge that reads states over MQTT, the broker and the hub."""

    folder: Path
    broker: Broker
    hub: SmallHub
    limit_mb: int = 64
    published: dict[int, int] = field(default_factory=dict)
    """UTC ns by number."""

    def __post_init__(self) -> None:
        document = yaml.safe_load(MODEL)
        document["connections"] = [c | {"protocol": "mqtt"} for c in document["connections"] if c["id"] == "plc"]
        document["channels"] = [c for c in document["channels"] if c["connection"] == "plc"]
        document["streams"] = []
        for channel in document["channels"]:
            channel["address"] = {"topic": "states", "field": channel["id"].replace(".", "_"), "each": True}
        (self.folder / "kit.yaml").write_text(yaml.safe_dump(document, allow_unicode=True), "utf-8")
        self.settings = self.folder / "edge.toml"
        self.settings.write_text(SETTINGS.format(url=self.broker.url, limit_mb=self.limit_mb))
        self._numbers = itertools.count(1)
        self._equipment = MqttLink(
            self.broker.url, client_id="equipment", on_message=lambda *_: None, on_connection=lambda *_: None
        )
        self._equipment.start()

    def close(self) -> None:
        self._equipment.stop()

    async def publish(self, seconds: float, every_s: float = 0.01) -> None:
        """Numbered states for so long; nobody waits for them to arrive."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            number = next(self._numbers)
            body = f'{{"line_good": {number}}}'.encode()
            if self._equipment.publish("equipment/kit-1/states", body):
                self.published[number] = time.time_ns()
            await asyncio.sleep(every_s)  # the pace of the equipment, nothing is waited for

    async def publish_until(self, condition: Callable[[], Any]) -> None:
        """Numbered states until the condition is true."""
        async with asyncio.timeout(20):
            while not condition():
                await self.publish(0.1)

    def numbers(self) -> dict[int, int]:
        """What is at the hub: the time by number."""
        found: dict[int, int] = {}
        for data in list(self.hub.batches.values()):
            batch = unpack(data)
            if batch.header.shape is Shape.EVENT:
                for row in pa.ipc.open_stream(batch.payload).read_all().to_pylist():
                    if row["channel"] == "line.good" and row["value"] is not None:
                        found[int(row["value"])] = row["t"]
        return found

    def gaps(self) -> list[Gap]:
        """What the edge has said to be missing."""
        batches = [data for data in list(self.hub.batches.values()) if unpack(data).header.shape is Shape.GAP]
        return [gap for data in batches for gap in gaps_in(data)]

    def stopped(self) -> list[Gap]:
        """What the edge has said of the times when it did not run."""
        return [gap for gap in self.gaps() if gap.reason is GapReason.STOPPED]

    def unsaid(self, slack_ns: int = 200_000_000) -> list[int]:
        """Numbers that are neither at the hub nor in a gap of it; from publishing to receipt takes a moment."""
        here = self.numbers()
        gaps = [(gap.t_from - slack_ns, gap.t_to + slack_ns) for gap in self.gaps() if gap.stream == "events"]
        missing = self.published.keys() - here.keys()
        return sorted(n for n in missing if not any(b <= self.published[n] <= e for b, e in gaps))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with mosquitto(tmp_path) as broker, SmallHub(broker.url) as hub:
        site = Site(tmp_path, broker, hub)
        try:
            yield site
        finally:
            site.close()


@contextmanager
def edge(site: Site, *how: str, limit_bytes: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """The agent as a process, killed at the end."""
    command = [sys.executable, *(how or ("-m", "edge_agent.cli", "run")), str(site.settings)]
    command += ["--exit-with-parent"] if not how else []

    def limit() -> None:
        if limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, resource.RLIM_INFINITY))

    with (site.folder / "edge.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=log, preexec_fn=limit)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


async def caught_up(site: Site) -> None:
    """Until the newest state is at the hub, and with it everything before."""
    newest = max(site.published)
    await until(lambda: newest in site.numbers())


@pytest.mark.timeout(240)
async def test_a_kill_at_each_step_costs_nothing_that_no_gap_tells_of(site: Site) -> None:
    """A chart would show quiet equipment where nobody looked."""
    await until(lambda: site.hub.connected)
    rng = random.Random(4)
    for place in STEPS.values():
        with edge(site, "-c", KILLED, place, str(rng.randrange(8, 30))) as process:
            await site.publish_until(lambda: process.poll() is not None)
        assert process.returncode == -9, place
    with edge(site):
        # The gap is known with the first reading behind it.
        await site.publish_until(lambda: len(site.stopped()) >= len(STEPS))
        await caught_up(site)
    # Before its very first commit nothing was promised.
    assert [n for n in site.unsaid() if n >= min(site.numbers())] == []
    assert len({unpack(data).header.epoch for data in site.hub.batches.values()}) == len(STEPS) + 1


async def test_what_a_full_disk_does_not_take_waits_and_what_is_lost_is_told(site: Site) -> None:
    """RLIMIT_FSIZE stands for a full disk: every write beyond it fails, the process lives."""
    await until(lambda: site.hub.connected)
    site.hub.deaf_to = lambda _: True
    with edge(site) as process:
        await site.publish_until(lambda: len(site.numbers()) > 20)
        full = (site.folder / "edge-data" / "spool.db-wal").stat().st_size
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (min(4096, full), resource.RLIM_INFINITY))
        await site.publish(0.5)
        before = max(site.numbers())
        assert before < max(site.published)
        assert process.poll() is None
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await site.publish(0.2)
        await caught_up(site)
        assert [n for n in site.unsaid() if n >= min(site.numbers())] == []
        assert process.poll() is None
    assert "disk" in (site.folder / "edge.log").read_text()


class SetClock(SystemClock):
    """The machine's clock, set by a test."""

    set_ns = 0

    def time_ns(self) -> int:
        return super().time_ns() + self.set_ns


@asynccontextmanager
async def agent(settings: EdgeSettings, clock: SystemClock) -> AsyncIterator[None]:
    task = asyncio.create_task(Agent(settings, clock=clock, rng=random.Random(1)).run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_clock_that_is_set_back_by_an_hour_loses_nothing_and_changes_no_time(site: Site) -> None:
    """A technician corrects the PC's clock in mid-lesson, and restarts it after."""
    clock = SetClock()
    site.hub.clock = time.time_ns
    await until(lambda: site.hub.connected)
    async with agent(load_settings(site.settings), clock):
        await site.publish_until(lambda: len(site.numbers()) > 20)
        clock.set_ns = -3600 * SECOND
        await site.publish(0.3)
        await caught_up(site)
        before = max(site.published)
    async with agent(load_settings(site.settings), clock):
        await site.publish_until(site.stopped)
        await caught_up(site)
        last = max(site.published)
        await until(lambda: site.hub.statuses[-1].clock_uncertainty_ns >= 0)
        assert abs(site.hub.statuses[-1].clock_offset_ns - 3600 * SECOND) < SECOND
    here = site.numbers()
    late = site.published[last] - here[last]
    assert abs(late - 3600 * SECOND) < SECOND
    assert all(gap.t_from <= gap.t_to for gap in site.gaps())
    assert {n for n in site.published if min(here) <= n <= before} <= here.keys()


async def test_gaps_of_a_stream_are_sent_like_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a source that is lost, and an agent that is stopped, to the hub."""
    monkeypatch.setattr("edge_agent.gaps.SETTLED_NS", 0)
    scripts = {"opcua": Script(), "cyton": Script()}
    amplifier = scripts["cyton"]
    with mosquitto(tmp_path) as broker, SmallHub(broker.url) as hub:
        document = yaml.safe_load(MODEL)
        for channel in document["channels"]:
            channel["address"] = {"item": channel["id"]}
        (tmp_path / "kit.yaml").write_text(yaml.safe_dump(document, allow_unicode=True), "utf-8")
        file = tmp_path / "edge.toml"
        file.write_text(
            f'edge = "edge-1"\n[hub]\nurl = "{broker.url}"\n[[kits]]\nid = "kit-1"\nmodel = "kit.yaml"\n'
            'connections.plc.port = "plc"\nconnections.amp.port = "amp"\n'
        )
        settings = load_settings(file, lambda protocol: replay_class(scripts[protocol]))

        def found() -> set[tuple[GapReason, int, int, int | None]]:
            batches = [data for data in list(hub.batches.values()) if unpack(data).header.shape is Shape.GAP]
            gaps = [gap for data in batches for gap in gaps_in(data)]
            number = lambda t: (t - NOW) // PERIOD_NS  # noqa: E731
            return {(g.reason, number(g.t_from), number(g.t_to), g.count) for g in gaps if g.stream == "eeg"}

        async with agent(settings, SystemClock()):
            for reading in (frame(0, 50), frame(60, 50, 10), SourceUnavailable("unplugged"), frame(1000, 50)):
                amplifier.readings.put_nowait(reading)
            await until(lambda: len(found()) == 2)
        async with agent(settings, SystemClock()):
            amplifier.readings.put_nowait(frame(5000, 50))
            await until(lambda: len(found()) == 3)
    assert found() == {
        (GapReason.COUNTER_JUMP, 49, 60, 10),
        (GapReason.DISCONNECTED, 109, 1000, None),
        (GapReason.STOPPED, 1049, 5000, None),
    }
