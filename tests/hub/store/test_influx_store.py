"""What is special about InfluxDB and therefore not in the contract of every store: a server that is away, slow, full or
strict. Each with Debian's real server."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import Callable
from pathlib import Path

import bcrypt
import numpy as np
import pytest

from firmware_bridge.mqtt_link import MqttLink
from hub.broker.config import edge_account
from hub.broker.nats import NatsBroker
from hub.clock import SystemClock
from hub.line import Line
from hub.store.base import Outcome, StoreMisconfigured, StoreRefused, StoreUnavailable
from hub.store.influx import InfluxStore
from hub.store.options import StoreOptions
from lab_contract.messages import Ack, load_ack
from lab_contract.topics import Kind, topic
from tests.brokers import free_port
from tests.hub.support import kits
from tests.influx import Influx, fresh_database, influxd
from tests.influx_proxy import Answer, Proxy, proxy
from tests.influx_store import Clock, opened
from tests.small_kit import EDGE, KIT, NOW, SECOND, event_bytes
from tests.stores import events, frame, values

pytestmark = pytest.mark.real

T = NOW + np.arange(250) * 4_000_000


# A server that is away or slow.


def test_a_hub_starts_without_its_server_and_stores_once_it_is_there(server: Influx, tmp_path: Path) -> None:
    """After a power cut the hub is often up before the database server; nobody should have to start it again."""
    server.kill()
    store = opened(server.url, tmp_path)
    batch = frame(1, T)
    try:
        health = store.health()
        assert not health.ok
        assert "does not answer" in health.detail
        assert (store.store_id, store.latest(KIT), store.stats().samples) == ("", {}, 0)
        for call in (lambda: store.append([batch]), store.facts, lambda: store.raw(KIT, ["eeg.a"], 0, NOW)):
            with pytest.raises(StoreUnavailable, match="does not answer"):
                call()
    finally:
        server.start()
    assert store.append([batch]) == [Outcome.STORED]
    assert store.health().ok
    assert store.store_id
    store.close()


def test_a_server_killed_between_writes_has_all_that_was_acknowledged(server: Influx, tmp_path: Path) -> None:
    """kill -9 of the server, with the log synchronised at each write as Debian has it: nothing acknowledged is lost."""
    store = opened(server.url, tmp_path)
    for seq in range(5):
        assert store.append([frame(seq, T + seq * SECOND)]) == [Outcome.STORED]
        server.kill()
        with pytest.raises(StoreUnavailable):
            store.append([frame(seq + 1, T + (seq + 1) * SECOND)])
        assert store.latest(KIT)["eeg.a"].t == T[-1] + seq * SECOND
        server.start()
    assert store.append([frame(5, T + 5 * SECOND)]) == [Outcome.STORED]
    assert [t for t, _ in values(store, "eeg.a")] == [int(t) for seq in range(6) for t in T + seq * SECOND]
    assert store.statistics(KIT, ["eeg.a"], NOW, NOW + 6 * SECOND)["eeg.a"].n == 6 * 250
    store.close()


def test_a_server_that_hangs_is_given_up_and_the_batch_is_stored_once(server: Influx, tmp_path: Path) -> None:
    """A write that timed out may still be carried out: the same batch again must not count a part twice."""
    store = opened(server.url, tmp_path)
    store.append([frame(1, T)])
    batch = events(2, [(NOW + SECOND, "line.good", 1), (NOW + SECOND, "line.good", 2)])
    server.freeze()
    try:
        with pytest.raises(StoreUnavailable, match="does not answer"):
            store.append([batch])
        assert not store.health().ok
        # What the hub keeps itself is still to be had.
        assert store.latest(KIT)["eeg.a"].t == T[-1]
        assert store.stats().batches == 1
    finally:
        server.thaw()
    assert store.append([batch]) == [Outcome.STORED]
    assert values(store, "line.good") == [(NOW + SECOND, 1.0), (NOW + SECOND, 2.0)]
    assert store.health().ok
    store.close()


# A server that refuses.


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_passes_is_tried_again_and_nothing_is_lost(front: Proxy, tmp_path: Path, status: int) -> None:
    store = opened(front.url, tmp_path)
    front.next_writes.append(Answer(status, b'{"error": "timeout"}'))
    batch = frame(1, T)
    with pytest.raises(StoreUnavailable, match=f"HTTP {status}: timeout"):
        store.append([batch])
    # One owner of retries: the client has not tried by itself.
    assert not front.next_writes
    assert store.append([batch]) == [Outcome.STORED]
    assert len(values(store, "eeg.a")) == 250
    store.close()


@pytest.mark.parametrize("after", ["30", "bad", ""])
def test_a_server_that_asks_for_time_gets_it(front: Proxy, tmp_path: Path, after: str) -> None:
    """An overloaded server that is asked again at once never recovers."""
    clock = Clock()
    store = opened(front.url, tmp_path, clock)
    front.next_writes.append(Answer(429, b"{}", {"Retry-After": after} if after else {}))
    with pytest.raises(StoreUnavailable, match="HTTP 429"):
        store.append([frame(1, T)])
    asked = front.writes()
    if after == "30":
        clock.ns = 29 * SECOND
        with pytest.raises(StoreUnavailable, match="another 1 s"):
            store.append([frame(1, T)])
        assert front.writes() == asked
        clock.ns = 31 * SECOND
    assert store.append([frame(1, T)]) == [Outcome.STORED]
    store.close()


def test_a_write_that_failed_in_the_middle_is_written_onto_itself(front: Proxy, tmp_path: Path) -> None:
    """The server had written it when the connection broke; an edge sends it again, alone or among others."""
    store = opened(front.url, tmp_path)
    one = frame(1, T, np.vstack([np.arange(250), np.zeros(250)]))
    two = events(2, [(int(T[5]), "eeg.a", 99), (int(T[5]), "eeg.a", 100)])
    front.next_writes.append(Answer(502, passed_on=True))
    with pytest.raises(StoreUnavailable):
        store.append([one, two])
    for batch in (two, one):
        assert store.append([batch]) == [Outcome.STORED]
    found = values(store, "eeg.a", int(T[4]), int(T[7]))
    assert sorted(found) == [(int(T[4]), 4.0), *((int(T[5]), v) for v in (5.0, 99.0, 100.0)), (int(T[6]), 6.0)]
    for view in (store.overview(KIT, ["eeg.a"], NOW, NOW + SECOND, 1, from_rollup=way) for way in (True, False)):
        assert (view.channels["eeg.a"][0][0], view.channels["eeg.a"][1][0]) == (0, 249)
    assert store.statistics(KIT, ["eeg.a"], NOW, NOW + SECOND)["eeg.a"].n == 252
    store.close()


def test_a_batch_that_the_server_never_takes_is_refused_alone(server: Influx, tmp_path: Path) -> None:
    """Somebody's tool has written an integer where the hub writes numbers: that channel's batches are kept aside."""
    store = opened(server.url, tmp_path)
    policies = {"db": store._session.server.database}
    store.append([frame(1, T)])
    server.ask(f'CREATE RETENTION POLICY "short" ON "{policies["db"]}" DURATION 1h REPLICATION 1 DEFAULT')
    old, new = frame(2, T + SECOND), frame(3, T + 2 * SECOND)
    with pytest.raises(StoreRefused, match="partial write: points beyond retention policy"):
        store.append([old, new])
    # That is no fault of the store, which takes others.
    assert store.health().ok
    server.ask(f'ALTER RETENTION POLICY "autogen" ON "{policies["db"]}" DEFAULT')
    assert store.append([old]) == [Outcome.STORED]
    store.close()


def test_a_partial_write_refuses_only_the_batch_that_is_bad(front: Proxy, tmp_path: Path) -> None:
    """Ingest offers batches one by one then; what was half written must neither stay half nor come twice."""
    store = opened(front.url, tmp_path)
    partial = Answer(400, b'{"error": "partial write: max-values-per-tag limit exceeded dropped=2"}', passed_on=True)
    good, bad = frame(1, T), events(2, [(NOW, "line.good", 1)])
    front.next_writes += [partial]
    with pytest.raises(StoreRefused, match="partial write"):
        store.append([good, bad])
    assert store.append([good]) == [Outcome.STORED]
    front.next_writes += [partial]
    with pytest.raises(StoreRefused):
        store.append([bad])
    assert store.missing("edge-1", 1, 1, 2) == [(2, 2)]
    assert len(values(store, "eeg.a")) == 250
    assert store.statistics(KIT, ["eeg.a"], NOW, NOW + SECOND)["eeg.a"].n == 250
    store.close()


def test_a_body_that_is_too_large_is_cut(tmp_path: Path) -> None:
    """A proxy in front of the server often takes a megabyte and no more."""
    with influxd(tmp_path / "server", max_body=10_000) as small:
        store = opened(small.url, tmp_path)
        assert store.append([frame(1, T)]) == [Outcome.STORED]
        assert len(values(store, "eeg.b")) == 250
        long = events(2, [(NOW, "line.program", None, "x" * 4096)])
        assert store.append([long]) == [Outcome.STORED]
        store.close()


# Credentials.


def test_a_refused_password_is_said_with_its_setting_and_mended_without_a_restart(tmp_path: Path) -> None:
    with influxd(tmp_path / "server", auth=True) as strict:
        strict.ask("CREATE USER \"hub\" WITH PASSWORD 'right' WITH ALL PRIVILEGES")
        file = tmp_path / "password"
        file.write_text("wrong-one\n")
        store = opened(strict.url, tmp_path, user="hub", password_file=file)
        with pytest.raises(StoreUnavailable, match=r"HTTP 401.*\[influx\] user and password_file") as refused:
            store.append([frame(1, T)])
        assert "wrong-one" not in f"{refused.value} {store.health()}"
        assert not store.health().ok
        file.write_text("right\n")
        assert store.append([frame(1, T)]) == [Outcome.STORED]
        facts = store.facts()
        assert facts.permissions == "read and write"
        store.close()
        strict.ask("CREATE USER \"guest\" WITH PASSWORD 'seen'", u="hub", p="right")
        strict.ask(f'GRANT READ ON "{store._session.server.database}" TO "guest"', u="hub", p="right")
        file.write_text("seen")
        guest = opened(strict.url, tmp_path, database=store._session.server.database, user="guest", password_file=file)
        assert guest.facts().permissions == "read"
        with pytest.raises(StoreUnavailable, match=r"HTTP 403.*\[influx\]"):
            guest.append([frame(2, T + SECOND)])
        assert guest.latest(KIT)["eeg.a"].t == T[-1]
        guest.close()


def test_a_token_goes_into_the_header_alone(front: Proxy, tmp_path: Path) -> None:
    """What stands in a URL stands in the server's log."""
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    store = opened(front.url, tmp_path, token_file=file, org="lab")
    store.append([frame(1, T)])
    assert {header for _, header in front.seen} == {"Token s3cret"}
    assert "s3cret" not in " ".join(path for path, _ in front.seen)
    assert "s3cret" not in f"{store.health()} {store.facts()}"
    file.unlink()
    store.close()
    with pytest.raises(StoreUnavailable, match="cannot read"):
        opened(front.url, tmp_path, token_file=file).facts()


@pytest.mark.parametrize(
    "url",
    ["influx+http://127.0.0.1:8086", "influx+http://u:hidden@127.0.0.1/x", "influx+http:///x", "influx+http://h/a/b"],
)
def test_a_url_that_cannot_serve_says_what_is_expected(url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreMisconfigured, match="influx\\+http://HOST:PORT/DATABASE") as refused:
        InfluxStore(url, StoreOptions(data=tmp_path))
    assert "hidden" not in str(refused.value)


# Write paths.


def test_the_older_write_path_is_remembered(front: Proxy, tmp_path: Path) -> None:
    """1.6 and 1.7 have no /api/v2/write; asking for it each time would double every write."""
    store = opened(front.url, tmp_path)
    for seq in range(3):
        store.append([frame(seq, T + seq * SECOND)])
    assert sum(path.startswith("/api/v2/write") for path, _ in front.seen) == 1
    assert store.facts().write_path.startswith(f"{front.url}/write,")
    store.close()


@pytest.mark.parametrize("version", ["v2.7.1", "3.1.0"])
def test_a_newer_server_is_spoken_to_in_its_own_way(server: Influx, tmp_path: Path, version: str) -> None:
    """2.x has buckets in place of databases, 3.x neither deletes nor has them; both know no /write for tokens."""
    with proxy(server.port, version=version) as newer:
        store = opened(newer.url, tmp_path, org="lab", retention_days=400)
        old = NOW - 90 * 86_400 * SECOND
        assert store.append([frame(1, T), frame(2, [old, old + 1], np.ones((2, 2)))]) == [Outcome.STORED] * 2
        assert not any(path.startswith("/write") for path, _ in newer.seen)
        assert any("bucket=" in path and "org=lab" in path and "precision=ns" in path for path, _ in newer.seen)
        facts = store.facts()
        assert (facts.version, facts.permissions) == (version.removeprefix("v"), "read and write")
        assert "/api/v2/write" in facts.write_path
        if version.startswith("3"):
            with pytest.raises(StoreUnavailable, match="its database's own retention"):
                store.apply_retention(NOW)
        else:
            assert store.apply_retention(NOW) == 2
            assert values(store, "eeg.a", 0, NOW) == [(old + 1, 1.0)]
        store.close()


def test_a_second_hub_on_the_same_folder_is_refused(server: Influx, tmp_path: Path) -> None:
    """Two hubs on one data folder would end each other's broker."""
    store = opened(server.url, tmp_path)
    with pytest.raises(StoreUnavailable, match="lock"):
        opened(server.url, tmp_path, database=store._session.server.database).append([frame(1, T)])
    store.close()


def test_a_full_disk_of_the_hub_stores_nothing_and_goes_on_later(server: Influx, tmp_path: Path) -> None:
    """Without a ledger row nothing is acknowledged, and what was written is written onto itself."""
    store = opened(server.url, tmp_path)
    store.append([frame(1, T)])
    ledger = store._session.ledger()._con
    ledger.execute(f"PRAGMA max_page_count = {ledger.execute('PRAGMA page_count').fetchone()[0]}")
    batches = [events(seq, [(NOW + seq, "line.good", seq)], epoch=seq) for seq in range(2, 400)]
    with pytest.raises(StoreUnavailable, match="full"):
        store.append(batches)
    assert not store.health().ok
    ledger.execute("PRAGMA max_page_count = 1000000")
    assert set(store.append(batches)) == {Outcome.STORED}
    assert len(values(store, "line.good")) == 398
    assert store.health().ok
    assert isinstance(ledger, sqlite3.Connection)
    store.close()


# The line.


async def until(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - what is waited for happens on threads
            await asyncio.sleep(0.01)


async def test_the_line_waits_for_its_database_and_keeps_aside_what_it_never_takes(
    server: Influx, front: Proxy, tmp_path: Path
) -> None:
    """From an edge through broker and hub to the database and back in an acknowledgement, whatever the server does."""
    hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    line = Line(
        store_url=f"influx+{front.url}/{fresh_database()}",
        store_options={"data": tmp_path, "timeout_s": 1.0},
        broker=NatsBroker(tmp_path / "broker", free_port()),
        accounts=lambda: [edge_account("e", EDGE, hashed)],
        kits=kits,
        clock=SystemClock(),
    )
    acks: list[Ack] = []
    async with line:
        link = MqttLink(
            line._broker.access.url,
            client_id=f"edge-{uuid.uuid4()}",
            user="e",
            password="secret",
            on_message=lambda _, payload: acks.append(load_ack(payload)),
            on_connection=lambda *_: None,
        )
        link.subscribe(topic(EDGE, Kind.ACK))
        link.start()
        try:
            await until(lambda: link.connected)
            await _through(server, front, line, link, acks)
        finally:
            await asyncio.to_thread(link.stop)


async def _through(server: Influx, front: Proxy, line: Line, link: MqttLink, acks: list[Ack]) -> None:
    def stored() -> set[int]:
        return {seq for ack in acks for seq in ack.stored}

    def send(seq: int) -> None:
        assert link.publish(topic(EDGE, Kind.UP), event_bytes(seq, [(NOW + seq, "line.good", float(seq))]))

    send(1)
    await until(lambda: stored() == {1})
    server.freeze()
    try:
        send(2)
        await until(lambda: not line.store.health().ok)
        health = await asyncio.to_thread(line.health)
        assert not health.ok
        assert "does not answer" in health.store.detail
        assert stored() == {1}
    finally:
        server.thaw()
    await until(lambda: stored() == {1, 2})
    front.next_writes.extend([Answer(400, b'{"error": "partial write: field type conflict dropped=1"}')] * 2)
    send(3)
    await until(lambda: any(ack.quarantined for ack in acks))
    (aside,) = [one for ack in acks for one in ack.quarantined]
    assert aside.reason == "not_storable"
    front.next_writes.clear()
    send(4)
    await until(lambda: stored() == {1, 2, 4})
    health = await asyncio.to_thread(line.health)
    assert health.ok
    assert health.quarantine == {"not_storable": 1}
    assert await asyncio.to_thread(values, line.store, "line.good") == [(NOW + n, float(n)) for n in (1, 2, 4)]
