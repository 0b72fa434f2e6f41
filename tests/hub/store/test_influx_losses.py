"""A database that is another than before, lacks what the ledger knows of, or has lost it: with Debian's real server."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from hub.store.base import DecodedBatch, Outcome, StoreUnavailable
from tests.influx import Influx
from tests.influx_proxy import Answer, Proxy
from tests.influx_store import opened, reopened
from tests.small_kit import EDGE, KIT, NOW, SECOND
from tests.stores import events, frame, values

pytestmark = pytest.mark.real

T = NOW + np.arange(250) * 4_000_000


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
