"""What is special about InfluxDB and therefore not in the contract of every store: a server that is away, slow, full,
strict, or another than before. Each with Debian's real server."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import bcrypt
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firmware_bridge.mqtt_link import MqttLink
from hub.broker.config import edge_account
from hub.broker.nats import NatsBroker
from hub.clock import SystemClock
from hub.line import Line
from hub.store.base import DecodedBatch, Outcome, StoreMisconfigured, StoreRefused, StoreUnavailable
from hub.store.influx import InfluxStore
from hub.store.options import StoreOptions
from lab_contract.messages import Ack, load_ack
from lab_contract.topics import Kind, topic
from tests.brokers import free_port
from tests.hub.support import kits
from tests.influx import Influx, fresh_database, influxd
from tests.influx_proxy import Answer, Proxy, proxy
from tests.small_kit import EDGE, KIT, NOW, SECOND, event_bytes
from tests.stores import events, frame, values

pytestmark = pytest.mark.real

T = NOW + np.arange(250) * 4_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influx]:
    """One for this file: its tests stop and kill it."""
    with influxd(tmp_path_factory.mktemp("influx")) as running:
        yield running


@pytest.fixture
def front(server: Influx) -> Iterator[Proxy]:
    with proxy(server.port) as running:
        yield running


class Clock:
    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns


def opened(url: str, data: Path, clock: Clock | None = None, **options: object) -> InfluxStore:
    """A store in a database of its own."""
    place = f"influx+{url}/{options.pop('database', None) or fresh_database()}"
    made = StoreOptions(data=data, timeout_s=1.0, **options)  # type: ignore[arg-type]
    return InfluxStore(place, made, clock or Clock())


def reopened(store: InfluxStore, data: Path) -> InfluxStore:
    database = store._session.server.database
    store.close()
    return opened(store._session.server.host, data, database=database)


def rows(store: InfluxStore) -> list[str]:
    return sorted(map(str, store.raw(KIT, store.channels(KIT), 0, 2**62).read_all().to_pylist()))


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


# Whose database it is.


def test_another_database_is_another_store(server: Influx, tmp_path: Path) -> None:
    """A dropped or exchanged database has none of the samples: its ledger must not call them duplicates."""
    store = opened(server.url, tmp_path)
    batch = frame(1, T)
    store.append([batch])
    identity = store.store_id
    server.ask(f'DROP DATABASE "{store._session.server.database}"')
    with pytest.raises(StoreUnavailable, match="not found"):
        store.append([frame(2, T + SECOND)])
    assert store.append([batch]) == [Outcome.STORED]
    assert store.store_id != identity
    assert len(values(store, "eeg.a")) == 250
    store.close()


def tear_logs(server: Influx) -> None:
    """Leave each shard's newest log with the beginning of an entry, as a write does that finds the disk full."""
    newest: dict[Path, Path] = {}
    for log in sorted((server.folder / "wal").rglob("*.wal")):
        newest[log.parent] = log
    for log in newest.values():
        with log.open("ab") as file:
            file.write(b"\x01\x00\x00\x10\x00torn")


@pytest.mark.parametrize("hub", ["goes on", "is started again"])
@pytest.mark.parametrize("rows_each", [250, 12_000])
def test_what_the_server_loses_behind_a_torn_log_is_stored_when_it_comes_again(
    server: Influx, tmp_path: Path, hub: str, rows_each: int
) -> None:
    """InfluxDB 1.x repairs a torn log, writes on behind the hole, and throws that away at its next start."""
    t = NOW + np.arange(rows_each) * (SECOND // rows_each)
    store = opened(server.url, tmp_path)
    batches = [frame(seq, t + seq * SECOND) for seq in range(8)]
    batches.append(frame(8, t - 60 * 86_400 * SECOND))
    assert store.append(batches[:2]) == [Outcome.STORED] * 2
    server.kill()
    tear_logs(server)
    server.start()
    for batch in batches[2:]:
        assert store.append([batch]) == [Outcome.STORED]
    assert store.audit() == 0
    server.kill()
    server.start()
    if hub == "is started again":
        store = reopened(store, tmp_path)
    # Else this is the fault's end: nothing was thrown away, and the hub's care for it can go.
    assert values(store, "eeg.a", NOW + 2 * SECOND, NOW + 8 * SECOND) == []
    lost = store.audit()
    gone = [seq for first, last in store.missing(EDGE, 1, 0, 8) for seq in range(first, last + 1)]
    assert set(range(2, 8)) <= set(gone)
    assert lost == len(gone)
    outcomes = store.append(batches)
    assert outcomes == [Outcome.STORED if seq in gone else Outcome.DUPLICATE for seq in range(9)]
    assert store.missing(EDGE, 1, 0, 8) == []
    for seq, batch in enumerate(batches):
        first = int(batch.t[0])
        assert len(values(store, "eeg.a", first, first + SECOND)) == rows_each, seq
        assert store.statistics(KIT, ["eeg.a"], first, first + SECOND)["eeg.a"].n == rows_each
    assert store.stats().samples == 9 * 2 * rows_each
    assert store.audit() == lost
    store.close()


@pytest.mark.parametrize("seed", range(3))
def test_losses_and_restarts_in_any_order_leave_nothing_out(server: Influx, tmp_path: Path, seed: int) -> None:
    """A mark that is given twice, or is left from a write that failed, would vouch for what is gone."""
    rng = random.Random(seed)
    store = opened(server.url, tmp_path)
    batches = [frame(seq, T[:50] + seq * SECOND) for seq in range(80)]
    sent = 0

    def send_again() -> None:
        store.audit()
        gone = [seq for first, last in store.missing(EDGE, 1, 0, sent - 1) for seq in range(first, last + 1)]
        for seq in rng.sample(gone, len(gone)):
            assert store.append([batches[seq]]) == [Outcome.STORED]

    while sent < len(batches):
        match rng.choice(["send", "send", "tear", "restart", "hub", "again"]):
            case "send":
                for _ in range(rng.randint(1, 6)):
                    if sent < len(batches):
                        store.append(batches[sent : sent + 1])
                        sent += 1
            case "tear":
                server.kill()
                tear_logs(server)
                server.start()
            case "restart":
                server.kill()
                with pytest.raises(StoreUnavailable):
                    store.append([frame(1000, T)])
                server.start()
            case "hub":
                store = reopened(store, tmp_path)
            case _ if sent:
                send_again()
    if sent:
        send_again()
    found = [len(values(store, "eeg.a", int(one.t[0]), int(one.t[0]) + SECOND)) for one in batches]
    assert found == [50] * len(batches)
    store.close()


def test_a_server_that_loses_nothing_is_asked_for_nothing(front: Proxy, server: Influx, tmp_path: Path) -> None:
    """A write that was cut off leaves marks of no batch, and retention deletes them: neither is a loss."""
    store = opened(front.url, tmp_path)
    store.append([frame(1, T), frame(2, T - 3 * 86_400 * SECOND)])
    front.next_writes.append(Answer(502, passed_on=True))
    with pytest.raises(StoreUnavailable):
        store.append([frame(3, T + SECOND), frame(4, T + 7200 * SECOND)])
    for _ in range(2):
        assert store.append([frame(5, T + 2 * SECOND)])
        store = reopened(store, tmp_path)
        assert store.audit() == 0
    store.apply_retention(NOW - 86_400 * SECOND)
    assert server.ask('SELECT count("n") FROM "mark"', db=store._session.server.database)
    assert reopened(store, tmp_path).audit() == 0


def test_a_database_that_was_made_anew_is_another_store(server: Influx, tmp_path: Path) -> None:
    """Dropped and made again by somebody while the hub had nothing to write: its ledger must not vouch for it."""
    store = opened(server.url, tmp_path)
    batch = frame(1, T)
    store.append([batch])
    identity, database = store.store_id, store._session.server.database
    server.ask(f'DROP DATABASE "{database}"')
    server.ask(f'CREATE DATABASE "{database}"')
    store.audit()
    assert store.store_id not in ("", identity)
    assert store.append([batch]) == [Outcome.STORED]
    again = reopened(store, tmp_path)
    assert again.store_id == store.store_id
    assert again.append([batch]) == [Outcome.DUPLICATE]
    again.close()


def test_a_database_restored_from_a_backup_is_noticed(server: Influx, tmp_path: Path) -> None:
    """What it lacks must be asked for again, not taken for stored because the hub's own file says so."""
    store = opened(server.url, tmp_path)
    for seq in range(4):
        store.append([frame(seq, T + seq * SECOND)])
    database, identity = store._session.server.database, store.store_id
    store.close()
    # As of the second write.
    server.ask('DELETE FROM "meta"', db=database)
    store._session.server.write(f'meta store_id="{identity}",write=2i 4102444800000000000\n'.encode())
    server.ask(f'DELETE FROM "sample" WHERE time >= {NOW + 2 * SECOND}', db=database)  # noqa: S608
    again = opened(server.url, tmp_path, database=database)
    assert again.store_id == identity
    assert again.missing("edge-1", 1, 0, 3) == [(2, 3)]
    assert again.latest(KIT)["eeg.a"].t == T[-1] + SECOND
    assert again.append([frame(2, T + 2 * SECOND)]) == [Outcome.STORED]
    again.close()


def test_a_lost_ledger_costs_nothing_but_the_ledger(server: Influx, tmp_path: Path) -> None:
    """What the edges send again is written onto itself; counts and pages stay right."""
    store = opened(server.url, tmp_path)
    batches: list[DecodedBatch] = [
        frame(1, T, np.vstack([np.arange(250), np.full(250, np.nan)])),
        events(
            2, [(NOW, "line.state", 1, 'a "quoted" \\ text'), (NOW, "line.state", 2, "Aborted"), (NOW, "line.good", 7)]
        ),
    ]
    store.append(batches)
    before = [
        store.raw(KIT, store.channels(KIT), 0, 2**62).read_all().sort_by([("t", "ascending"), ("channel", "ascending")])
    ]
    told = store.statistics(KIT, ["eeg.a", "line.state"], NOW, NOW + SECOND), store.stats().samples
    identity = store.store_id
    store.close()
    for file in tmp_path.glob("influx-*.sqlite*"):
        file.unlink()
    again = reopened(store, tmp_path)
    assert again.store_id == identity
    assert again.stats().samples == told[1]
    assert again.latest(KIT)["line.state"].value == 2
    assert again.append(batches) == [Outcome.STORED, Outcome.STORED]
    after = (
        again.raw(KIT, again.channels(KIT), 0, 2**62).read_all().sort_by([("t", "ascending"), ("channel", "ascending")])
    )
    assert sorted(map(str, after.to_pylist())) == sorted(map(str, before[0].to_pylist()))
    assert again.statistics(KIT, ["eeg.a", "line.state"], NOW, NOW + SECOND) == told[0]
    again.close()


def test_several_samples_of_one_nanosecond_are_all_kept(server: Influx, tmp_path: Path) -> None:
    """A PLC stamps all changes of a cycle alike; InfluxDB would keep the last of them only."""
    store = opened(server.url, tmp_path)
    store.append([events(1, [(NOW, "line.good", 1), (NOW, "line.good", 1), (NOW, "line.good", 2)])])
    store.append([events(2, [(NOW, "line.good", 3), (NOW + 1, "line.good", 4)])])
    assert sorted(values(store, "line.good")) == [(NOW, 1.0), (NOW, 1.0), (NOW, 2.0), (NOW, 3.0), (NOW + 1, 4.0)]
    assert store.statistics(KIT, ["line.good"], NOW, NOW + SECOND)["line.good"].n == 5
    # What two batches say in every detail alike is one point: nothing tells it from a batch that came again.
    store.append([events(3, [(NOW + 1, "line.good", 4)])])
    assert len(values(store, "line.good")) == 5
    assert "1 points written again" in store.facts().detail
    store.close()


def test_the_samples_of_a_database_in_use_are_what_the_paper_says(server: Influx, tmp_path: Path) -> None:
    """Dashboards of the workshop's own are built on these names."""
    store = opened(server.url, tmp_path)
    store.append([replace(frame(1, [NOW]), values=np.array([[1.5], [np.nan]], dtype=np.float32))])
    found = server.ask('SELECT * FROM "sample"', db=store._session.server.database)[0]
    assert found["columns"] == ["time", "channel", "kit", "q", "v"]
    assert found["values"] == [[NOW, "eeg.a", KIT, None, 1.5], [NOW, "eeg.b", KIT, 0, None]]
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


# Written again.

Rows = list[tuple[int, float | None, str | None]]


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[Rows], list[list[int]]]:
    """Batches of changes of few times and values, and in which order and company they come, again and again."""
    change = st.tuples(
        st.sampled_from([0, 1, SECOND - 1, SECOND, SECOND + 1, 3 * SECOND]),
        st.sampled_from([0.5, -2.0, None]),
        st.sampled_from([None, "a", 'b,=" \\']),
    )
    batches = draw(st.lists(st.lists(change, min_size=1, max_size=5), min_size=1, max_size=4))
    order = list(range(len(batches)))
    rounds = [draw(st.permutations(order)) for _ in range(draw(st.integers(2, 3)))]
    bursts = [part for one in rounds for cut in [draw(st.integers(0, len(one)))] for part in (one[:cut], one[cut:])]
    return batches, [burst for burst in bursts if burst]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(delivery=deliveries())
def test_whatever_comes_again_without_a_ledger_row_is_written_onto_itself(
    lone: InfluxStore, new_kit: Callable[[], str], delivery: tuple[list[Rows], list[list[int]]]
) -> None:
    """After a crash between server and ledger edges send again, in another order and company; every sample must be
    there, none twice, and the roll-up must count each once."""
    batches, bursts = delivery
    kit = new_kit()
    made = [
        events(seq, [(NOW + t, "eeg.a", value, text) for t, value, text in rows], kit=kit)
        for seq, rows in enumerate(batches)
    ]
    for burst in bursts:
        with lone._session.ledger().transaction() as ledger:
            ledger.execute("DELETE FROM ledger")
        assert set(lone.append([made[n] for n in burst])) == {Outcome.STORED}
    # Of two batches what is alike in everything is one sample; within one batch all are.
    expected: Counter[tuple[int, float | None, str | None]] = Counter()
    for rows in batches:
        expected |= Counter((NOW + t, value, text) for t, value, text in rows)
    table = lone.raw(kit, ["eeg.a"], 0, 2**62).read_all()
    found = Counter(zip(table["t"].to_pylist(), table["value"].to_pylist(), table["text"].to_pylist(), strict=True))
    assert found == expected
    numbers = [value for _, value, _ in expected.elements() if value is not None]
    told = lone.statistics(kit, ["eeg.a"], NOW, NOW + 4 * SECOND)
    assert set(told) == ({"eeg.a"} if numbers else set())
    if numbers:
        one = told["eeg.a"]
        assert (one.n, one.lo, one.hi) == (len(numbers), min(numbers), max(numbers))
        assert one.mean == pytest.approx(sum(numbers) / len(numbers))


@pytest.fixture(scope="module")
def lone(server: Influx, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InfluxStore]:
    store = opened(server.url, tmp_path_factory.mktemp("lone"))
    yield store
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
