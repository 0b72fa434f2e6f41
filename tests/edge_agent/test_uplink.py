"""What is lost where these fail: batches on their way over a real broker to a hub that answers late, wrong or not."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_agent import uplink as uplink_module
from edge_agent.batcher import Encoded
from edge_agent.clock_offset import ClockOffset, Offset
from edge_agent.health import Health
from edge_agent.spool import Spool, Spooled
from edge_agent.uplink import Uplink
from firmware_bridge.mqtt_link import MqttLink
from lab_contract.batch import EVENT_STREAM, HEADER, Shape, pack, unpack
from lab_contract.messages import Ack, ConnectionStatus, Kept, KitStatus, Replay, dump
from lab_contract.topics import Kind, parse, topic
from tests.brokers import Broker, mosquitto, nats
from tests.edge_agent.support import FakeClock, SmallHub, a_frame, an_event, one_event, until
from tests.hostile_wire import ACKS
from tests.small_kit import KIT, NOW, SECOND, event_bytes

pytestmark = pytest.mark.real
EVERYTHING = 2**62


@pytest.fixture(params=[nats, mosquitto], ids=["nats", "mosquitto"])
def each_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    with request.param(tmp_path) as broker:
        yield broker


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with mosquitto(tmp_path) as broker:
        yield broker


class Edge:
    """Spool and uplink of one edge; the clock stands still unless a test moves it."""

    def __init__(self, folder: Path, url: str, keep_hours: float = 0, **changes: Any) -> None:
        self.clock = FakeClock()
        self.health = Health(self.clock)
        self.offset = ClockOffset(self.clock)
        self.spool = Spool(
            folder / "edge-data", edge="edge-1", clock=self.clock, limit_bytes=10**9, keep_hours=keep_hours
        )
        self.url = url
        self.changes = changes
        self.states = ["connecting"]

    async def open(self) -> None:
        await self.spool.open()
        status = functools.partial(ConnectionStatus, id="plc", protocol="opcua", since_ns=1)
        self.uplink = Uplink(
            edge="edge-1",
            spool=self.spool,
            kits=lambda: (
                KitStatus(
                    id="kit-1",
                    model="test_kit",
                    model_version="1.0.0",
                    digest="d",
                    connections=tuple(status(state=state) for state in self.states),
                ),
            ),
            counters=lambda: {"outbox_dropped": 0},
            health=self.health,
            clock=self.clock,
            offset=self.offset,
            make_link=functools.partial(MqttLink, self.url, rng=random.Random(1)),
            **self.changes,
        )

    async def send(self, count: int) -> set[tuple[str, int, int]]:
        """Append and offer, as the outbox does."""
        batches = [an_event(self.spool.epoch, self.spool.take_seq()) for _ in range(count)]
        self.uplink.appended(await self.spool.append(batches))
        return {("edge-1", self.spool.epoch, batch.seq) for batch in batches}

    async def waiting(self) -> list[Spooled]:
        return (await self.spool.pending(0, EVERYTHING, 10_000)).batches

    async def is_empty(self) -> bool:
        return not await self.waiting()


@asynccontextmanager
async def running(edge: Edge) -> AsyncIterator[Edge]:
    await edge.open()
    task = asyncio.create_task(edge.uplink.run())
    try:
        yield edge
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await edge.spool.close()


async def test_a_batch_is_let_go_only_when_the_hub_has_acknowledged_it(tmp_path: Path, each_broker: Broker) -> None:
    with SmallHub(each_broker.url) as hub:
        hub.deaf_to = lambda count: count > 2
        async with running(Edge(tmp_path, each_broker.url)) as edge:
            await until(lambda: hub.connected and edge.uplink.connected)
            sent = await edge.send(3)
            await until(lambda: len(hub.batches) == 3 and edge.uplink.counters["acknowledged"] == 2)
            assert set(hub.batches) == sent
            (kept,) = await edge.waiting()
            assert kept.data == hub.batches["edge-1", kept.epoch, kept.seq]
            assert edge.health.link_rtt_ms() == 0


async def test_a_lost_acknowledgement_is_asked_for_again_by_sending_the_batch_again(
    tmp_path: Path, broker: Broker
) -> None:
    with SmallHub(broker.url) as hub:
        hub.deaf_to = lambda count: count <= 5
        async with running(Edge(tmp_path, broker.url)) as edge:
            await until(lambda: hub.connected and edge.uplink.connected)
            sent = await edge.send(5)
            await until(lambda: len(hub.order) == 5)
            edge.clock.pass_s(2.9)
            edge.uplink.status_changed()
            await until(lambda: len(hub.statuses) > 1)
            assert len(hub.order) == 5
            edge.clock.pass_s(0.2)
            edge.uplink.status_changed()
            await until(lambda: edge.uplink.counters["acknowledged"] == 5)
            assert set(hub.order[5:]) == sent
            assert edge.health.link_rtt_ms() is None
            assert await edge.is_empty()


async def test_one_lost_acknowledgement_among_many_is_not_forgotten(tmp_path: Path, broker: Broker) -> None:
    with SmallHub(broker.url) as hub:
        hub.deaf_to = lambda count: count == 1
        async with running(Edge(tmp_path, broker.url)) as edge:
            await until(lambda: hub.connected and edge.uplink.connected)
            await edge.send(1)
            await until(lambda: len(hub.order) == 1)
            for _ in range(7):
                edge.clock.pass_s(2)
                await edge.send(1)
                await until(lambda: edge.uplink._inflight.keys() <= {(edge.spool.epoch, 0)})
            await until(lambda: not edge.uplink._inflight)
            assert hub.order.count(hub.order[0]) == 2


async def test_everything_arrives_after_the_broker_was_killed_and_started_again(
    tmp_path: Path, each_broker: Broker
) -> None:
    with SmallHub(each_broker.url) as hub:
        async with running(Edge(tmp_path, each_broker.url)) as edge:
            await until(lambda: hub.connected and edge.uplink.connected)
            sent = await edge.send(20)
            each_broker.kill()
            sent |= await edge.send(20)
            await until(lambda: not edge.uplink.connected)
            sent |= await edge.send(20)
            await asyncio.to_thread(each_broker.start)

            def all_acknowledged() -> bool:
                # The hub may be back later than the edge: then only the repetition after 3 s reaches it.
                edge.clock.pass_s(0.02)
                return edge.uplink.counters["acknowledged"] == 60

            await until(all_acknowledged)
            assert set(hub.batches) == sent
            assert await edge.is_empty()


async def test_a_backlog_longer_than_memory_and_older_than_this_run_arrives_behind_the_live_batches(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uplink_module, "LIVE_MOST", 10)
    before = Edge(tmp_path, broker.url)
    await before.open()
    sent = await before.send(100)
    await before.spool.close()
    edge = Edge(tmp_path, broker.url, window=8)
    await edge.open()
    sent |= await edge.send(100)
    live = await edge.send(1)
    with SmallHub(broker.url) as hub:
        await until(lambda: hub.connected)
        task = asyncio.create_task(edge.uplink.run())

        def all_here() -> bool:
            # The rate of the backlog follows the clock, which only moves here.
            edge.clock.pass_s(0.01)
            return set(hub.batches) == sent | live and edge.uplink.counters["acknowledged"] >= 201

        await until(all_here)
        assert hub.order.index(next(iter(live))) < 10
        assert await edge.is_empty()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await edge.spool.close()


async def test_a_backlog_is_sent_no_faster_than_allowed(tmp_path: Path, broker: Broker) -> None:
    size = len(one_event(2**60, 1))
    before = Edge(tmp_path, broker.url)
    await before.open()
    await before.send(60)
    await before.spool.close()
    with SmallHub(broker.url) as hub:
        async with running(Edge(tmp_path, broker.url, backlog_bytes_s=40 * size)) as edge:
            await until(lambda: hub.connected and edge.uplink.connected and edge.uplink._backlog)
            edge.clock.pass_s(0.25)
            await until(lambda: len(hub.order) == 10)
            await edge.send(1)
            await until(lambda: len(hub.order) == 11)
            assert edge.uplink.counters["backlog_sent"] == 10
            for sent in (20, 30):
                edge.clock.pass_s(0.25)
                edge.uplink._wake.set()
                await until(lambda sent=sent: edge.uplink.counters["backlog_sent"] == sent)
            edge.clock.pass_s(100)
            edge.uplink._wake.set()
            await until(lambda: edge.uplink.counters["backlog_sent"] == 40)
            assert len(set(hub.order)) <= 41


async def test_a_hub_with_another_store_gets_the_batches_but_nothing_is_let_go(
    tmp_path: Path, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    edge = Edge(tmp_path, broker.url)
    with SmallHub(broker.url) as hub:
        async with running(edge):
            await until(lambda: hub.connected and edge.uplink.connected)
            await edge.send(1)
            await until(lambda: edge.uplink.counters["acknowledged"] == 1)
            hub.store_id = "store-2"
            await edge.send(2)
            await until(lambda: edge.spool.counters["foreign_acks"] == 2)
            assert len(await edge.waiting()) == 2
            edge.clock.pass_s(5)
            await until(lambda: hub.statuses[-1].counters.get("foreign_acks"))
    assert "not the store store-1" in caplog.text


async def test_what_the_hub_keeps_aside_is_let_go_and_said(
    tmp_path: Path, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    with SmallHub(broker.url) as hub:
        hub.aside = {1}
        async with running(Edge(tmp_path, broker.url)) as edge:
            await until(lambda: hub.connected and edge.uplink.connected)
            await edge.send(3)
            await until(lambda: edge.uplink.counters["acknowledged"] == 3)
            assert await edge.is_empty()
            assert edge.spool.counters["quarantined"] == 1
    assert "kept aside: checksum" in caplog.text


async def test_a_broken_acknowledgement_is_counted_and_ignored(tmp_path: Path, broker: Broker) -> None:
    with SmallHub(broker.url) as hub:
        async with running(Edge(tmp_path, broker.url)) as edge:
            await until(lambda: hub.connected and edge.uplink.connected)
            hostile = [*(ack.data for ack in ACKS), b"[]", b"\xff", dump(Ack(store_id="s", epoch=1))[:-1]]
            for payload in hostile:
                hub.link.publish(topic("edge-1", Kind.ACK), payload)
            await until(lambda: edge.uplink.counters["bad_messages"] == len(hostile))
            await edge.send(1)
            await until(lambda: edge.uplink.counters["acknowledged"] == 1)


async def test_the_hub_hears_the_state_every_five_seconds_and_soon_after_a_change(
    tmp_path: Path, broker: Broker
) -> None:
    with SmallHub(broker.url) as hub:
        async with running(Edge(tmp_path, broker.url)) as edge:
            await until(lambda: hub.connected and edge.uplink.connected)
            edge.clock.pass_s(5)
            await until(lambda: hub.statuses)
            first = len(hub.statuses)
            edge.states = ["running"]
            edge.clock.pass_s(0.3)
            edge.uplink.status_changed()
            await until(lambda: len(hub.statuses) == first + 1)
            status = hub.statuses[-1]
            assert (status.online, status.epoch, status.sent_ns) == (True, edge.spool.epoch, edge.clock.utc_ns)
            assert status.kits[0].connections[0].state == "running"
            assert status.counters["spool_batches"] == 0
    await until(lambda: not hub.statuses[-1].online)
    assert hub.statuses[-1].edge == "edge-1"


async def test_the_broker_tells_the_hub_when_the_edge_is_gone(tmp_path: Path, broker: Broker) -> None:
    with SmallHub(broker.url) as hub:
        async with running(Edge(tmp_path, broker.url)) as edge:
            await until(lambda: hub.connected and edge.uplink.connected)
            edge.clock.pass_s(5)
            await until(lambda: hub.statuses)
            client = edge.uplink._link._client
            assert client is not None
            sock = client.socket()
            assert sock is not None
            sock.shutdown(2)
            await until(lambda: any(not status.online for status in hub.statuses))
            await until(lambda: hub.statuses[-1].online)


async def test_a_refused_sign_in_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with mosquitto(tmp_path, users={"other": "right"}) as broker:
        edge = Edge(tmp_path, broker.url)
        connects: Callable[[], int] = lambda: edge.uplink._link.counters["refused_connects"]  # noqa: E731
        async with running(edge):
            await until(lambda: connects() >= 3)
            await edge.send(1)
            assert not edge.uplink.connected
    assert caplog.text.count("not connected") == 1


# Clocks, replay, room.


async def test_the_clock_is_compared_with_the_hubs_and_told_with_the_status(tmp_path: Path, broker: Broker) -> None:
    """Without it a workshop PC that is an hour late would shift its curves against those of all others."""
    with SmallHub(broker.url) as hub:
        async with running(Edge(tmp_path, broker.url)) as edge:
            hub.clock = lambda: edge.clock.utc_ns + 3600 * SECOND
            await until(lambda: hub.connected and edge.uplink.connected)
            edge.clock.pass_s(11)
            edge.uplink._wake.set()
            await until(lambda: edge.offset.counters["clock_rounds"] == 1)
            assert edge.offset.offset() == Offset(3600 * SECOND, 1)
            edge.clock.pass_s(5)
            await until(lambda: hub.statuses and hub.statuses[-1].clock_uncertainty_ns == 1)
            assert hub.statuses[-1].clock_offset_ns == 3600 * SECOND


async def test_a_hub_restored_from_a_backup_gets_again_what_it_lacks_behind_live_batches(
    tmp_path: Path, each_broker: Broker
) -> None:
    with SmallHub(each_broker.url) as hub:
        async with running(Edge(tmp_path, each_broker.url, keep_hours=24)) as edge:
            await until(lambda: hub.connected and edge.uplink.connected)
            await edge.send(100)
            await until(lambda: edge.uplink.counters["acknowledged"] == 100)
            epoch = edge.spool.epoch

            def told_what_is_kept() -> bool:
                edge.clock.pass_s(0.1)
                return bool(hub.statuses) and hub.statuses[-1].kept == (Kept(epoch=epoch, first=0, last=99),)

            await until(told_what_is_kept)
            for key in [("edge-1", epoch, seq) for seq in range(30, 90)]:
                del hub.batches[key]
            hub.order.clear()
            request = Replay(store_id=hub.store_id, epoch=epoch, ranges=((30, 59), (60, 89)))
            foreign = Replay(store_id="another", epoch=epoch, ranges=((0, 9),))
            for one in (foreign, request):
                hub.link.publish(topic("edge-1", Kind.REPLAY), dump(one))
            await until(lambda: edge.spool.counters["replayed"] == 60)

            def all_here() -> bool:
                edge.clock.pass_s(0.01)
                return len(hub.batches) == 100 and edge.uplink.counters["acknowledged"] == 160

            await until(all_here)
            assert sorted(seq for _, _, seq in hub.order) == list(range(30, 90))
            assert edge.spool.counters["foreign_replays"] == 1
            assert await edge.is_empty()


async def test_what_the_spool_had_to_drop_is_not_sent_after_all(tmp_path: Path, broker: Broker) -> None:
    """Its gap has been told: a chart would show both a gap and data in it."""
    edge = Edge(tmp_path, broker.url)
    edge.spool = Spool(
        tmp_path / "small", edge="edge-1", clock=edge.clock, limit_bytes=20 * len(a_frame(2**60, 1, 1).data)
    )
    with SmallHub(broker.url) as hub:
        hub.deaf_to = lambda _: True
        async with running(edge):
            await until(lambda: hub.connected and edge.uplink.connected)
            for i in range(40):
                edge.uplink.appended(await edge.spool.append([a_frame(edge.spool.epoch, edge.spool.take_seq(), i)]))
            dropped = edge.spool.counters["spool_dropped"]
            assert dropped >= 20
            await until(lambda: len(edge.uplink._inflight) == 40 - dropped)
            await until(lambda: len(hub.order) == 40)
            hub.deaf_to = lambda _: False
            hub.batches.clear()
            edge.clock.pass_s(4)
            await until(lambda: not edge.uplink._inflight)
            headers = [unpack(data).header for data in hub.batches.values()]
            assert sorted(one.seq for one in headers if one.stream == "eeg") == list(range(dropped, 40))


async def test_the_backlog_is_read_ahead_in_pieces_of_bounded_bytes(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edge with a day of backlog on a small PC would run out of memory."""
    monkeypatch.setattr("edge_agent.spool.READ_MOST_BYTES", 20_000)
    monkeypatch.setattr(uplink_module, "BACKLOG_AHEAD_BYTES", 10_000)
    before = Edge(tmp_path, broker.url)
    await before.open()
    await before.send(300)
    await before.spool.close()
    most = 0
    with SmallHub(broker.url) as hub:
        async with running(Edge(tmp_path, broker.url, window=64)) as edge:

            def all_here() -> bool:
                nonlocal most
                most = max(most, sum(len(one.data) for one in edge.uplink._backlog))
                assert sum(len(one.data) for one in edge.uplink._backlog) == edge.uplink._backlog_bytes
                edge.clock.pass_s(0.01)
                return len(hub.batches) == 300 and edge.uplink.counters["acknowledged"] >= 300

            await until(all_here)
    assert 0 < most <= 32_000


class QuickHub(SmallHub):
    """Acknowledges some at once, and looks at no more than the id."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.seqs: set[int] = set()
        self.copies = 0
        self._unsaid: list[int] = []

    def _heard(self, name: str, payload: bytes) -> None:
        if parse(name).kind is not Kind.UP:
            return
        epoch, seq = HEADER.unpack_from(payload)[8:10]
        self.copies += seq in self.seqs
        self.seqs.add(seq)
        self._unsaid.append(seq)
        if len(self._unsaid) == 25 or len(self.seqs) >= LONGER_THAN_PAHO:
            ack = Ack(store_id="s", epoch=epoch, stored=tuple(self._unsaid))
            self.link.publish(topic("edge-1", Kind.ACK), dump(ack))
            self._unsaid = []


LONGER_THAN_PAHO = 66_000


@pytest.mark.timeout(240)
async def test_a_backlog_of_more_than_65535_batches_arrives_whole(tmp_path: Path, broker: Broker) -> None:
    """paho numbers what it holds with 16 bits; a night without the hub is longer."""
    edge = Edge(tmp_path, broker.url, window=200, backlog_bytes_s=2**40)
    await edge.open()
    small = event_bytes(0, [(NOW, "line.good", 1.0)])
    batch = unpack(small)
    for first in range(0, LONGER_THAN_PAHO, 2000):
        headers = [replace(batch.header, epoch=edge.spool.epoch, seq=first + i) for i in range(2000)]
        encoded = [pack(header, bytes(batch.payload)) for header in headers]
        kind = (KIT, EVENT_STREAM, Shape.EVENT, 1, NOW, NOW)
        await edge.spool.append([Encoded(first + i, data, *kind) for i, data in enumerate(encoded)])
    with QuickHub(broker.url) as hub:
        await until(lambda: hub.connected)
        task = asyncio.create_task(edge.uplink.run())

        def all_here() -> bool:
            edge.clock.pass_s(0.005)
            return len(hub.seqs) == LONGER_THAN_PAHO and edge.uplink.counters["acknowledged"] >= LONGER_THAN_PAHO

        await until(all_here, 200)
        assert await edge.is_empty()
        assert hub.copies < 1000
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await edge.spool.close()
