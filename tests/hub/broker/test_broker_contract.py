"""What every broker must do, tried on each for real and over TLS: who gets in, who hears what, and what comes back."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.broker.base import Refusals
from hub.clock import SystemClock
from hub.ingest.service import Ingest
from hub.store import open_store
from lab_contract.batch import MAX_BYTES
from tests.certificates import Authority
from tests.hub.broker.rigs import RIGS, WAIT_S, Rig, until
from tests.hub.support import kits
from tests.small_kit import NOW, event_bytes

pytestmark = pytest.mark.real


@pytest.fixture(params=RIGS)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    with RIGS[request.param](tmp_path) as running:
        yield running


def refusals(rig: Rig) -> Refusals:
    return rig.broker.health().refusals


def test_a_stranger_and_a_wrong_password_are_refused_and_counted(rig: Rig) -> None:
    """Somebody who tries passwords must be seen."""
    clients = [
        rig.client("edge-e1", "a guess"),
        rig.client("edge-nobody", "a guess"),
        rig.client(None, None),
        rig.client("edge-e1", rig.edges["e2"][0]),
    ]
    until(lambda: all(client.link.refusal for client in clients))
    assert not any(client.link.connected for client in clients)
    until(lambda: (refusals(rig).sign_ins or 0) >= len(clients))
    assert refusals(rig).last
    assert rig.edges["e2"][0] not in refusals(rig).last
    assert rig.broker.health().ok


def test_a_message_on_a_foreign_topic_goes_nowhere_and_is_counted(rig: Rig) -> None:
    """One stolen edge password must not let anyone write another workshop's telemetry, or command its own kits."""
    hub = rig.hub("lab/v1/+/up", "lab/v1/+/up/reply", "lab/v1/+/up/probe", "lab/v1/+/status")
    other = rig.edge("e2", "lab/v1/e2/down/#")
    edge = rig.edge("e1", "lab/v1/e1/down/#")
    foreign = ("lab/v1/e2/up", "lab/v1/e2/status", "lab/v1/e2/down/cmd", "lab/v1/e1/down/cmd", "elsewhere")
    for topic in foreign:
        assert edge.link.publish(topic, b"foreign")
    own = ("lab/v1/e1/up", "lab/v1/e1/up/reply", "lab/v1/e1/up/probe", "lab/v1/e1/status")
    for topic in own:
        assert edge.link.publish(topic, b"own")
    until(lambda: len(hub.heard) >= len(own))
    for kind in ("ack", "cmd", "time", "replay"):
        assert hub.link.publish(f"lab/v1/e2/down/{kind}", b"")
        assert hub.link.publish(f"lab/v1/e1/down/{kind}", b"")
    until(lambda: len(edge.heard) >= 4 and len(other.heard) >= 4)
    assert sorted(topic for topic, _ in hub.heard) == sorted(own)
    assert all(payload == b"" for _, payload in (*edge.heard, *other.heard))
    until(lambda: (refusals(rig).publishes or 0) >= len(foreign))
    assert refusals(rig).publishes == len(foreign)


def test_a_foreign_topic_is_not_heard(rig: Rig) -> None:
    """What one workshop is told is no business of another."""
    hub = rig.hub()
    spy = rig.client("edge-e2", rig.edges["e2"][0], "lab/v1/e2/down/#", "lab/v1/e1/down/#", "lab/v1/+/up", "#")
    until(lambda: spy.link.connected)
    edge = rig.edge("e1", "lab/v1/e1/down/#")
    edge.link.publish("lab/v1/e1/up", b"secret")
    hub.link.publish("lab/v1/e1/down/ack", b"secret")
    until(lambda: edge.heard)
    hub.link.publish("lab/v1/e2/down/ack", b"for the spy")
    until(lambda: spy.heard)
    assert {payload for _, payload in spy.heard} == {b"for the spy"}
    if rig.forbidden_subscriptions_are_refused:
        assert spy.link.counters["refused_subscriptions"] == 3
        until(lambda: (refusals(rig).subscriptions or 0) >= 3)
    else:
        # Granted, and then nothing is delivered: with an ACL file there is nothing to count.
        assert spy.link.counters["refused_subscriptions"] == refusals(rig).subscriptions == 0


def test_the_largest_batch_passes(rig: Rig) -> None:
    """A broker with a smaller limit would cut the edge off again and again."""
    hub, edge = rig.hub("lab/v1/+/up"), rig.edge("e1")
    payload = secrets.token_bytes(MAX_BYTES)
    edge.link.publish("lab/v1/e1/up", payload)
    until(lambda: hub.heard)
    assert hub.heard == [("lab/v1/e1/up", payload)]
    assert edge.link.counters["disconnects"] == 0


def test_a_forged_edge_id_is_kept_aside_and_counted(rig: Rig, tmp_path: Path) -> None:
    """The topic is checked by the broker; what stands inside the message only the hub can check."""
    store = open_store(f"duckdb:///{tmp_path / 'telemetry.duckdb'}")
    ingest = Ingest(
        access=rig.broker.access,
        store=store,
        kits=lambda: kits(edge="e1"),
        clock=SystemClock(),
        on_committed=lambda _: None,
        on_status=lambda *_: None,
    )
    ingest.start()
    try:
        assert ingest.wait_ready(WAIT_S), "no message came back through the broker"
        # Whoever wrote it is edge-1 by its own account, and comes over the link of e1.
        rig.edge("e1").link.publish("lab/v1/e1/up", event_bytes(1, [(NOW, "state", 1.0, "run")]))
        until(lambda: ingest.health().counters["forged"] == 1)
        assert store.quarantine_counts() == {"forged_edge": 1}
        assert ingest.health().counters["samples"] == 0
    finally:
        ingest.stop()
        store.close()


def test_a_new_edge_gets_in_and_nobody_is_dropped(rig: Rig) -> None:
    """Enrolling an edge must not interrupt a lesson elsewhere."""
    hub, edge = rig.hub("lab/v1/+/up"), rig.edge("e1")
    for name in ("e3", "e4"):
        rig.add(name)
        rig.reload()
        rig.edge(name).link.publish(f"lab/v1/{name}/up", b"new")
    until(lambda: len(hub.heard) == 2)
    assert edge.link.counters["disconnects"] == hub.link.counters["disconnects"] == 0
    assert rig.broker.health().restarts == 0
    assert rig.broker.health().missing == ()


def test_a_revoked_edge_is_cut_off_and_nobody_else(rig: Rig) -> None:
    """A stolen PC must be shut out now, not at its next connection."""
    gone, stays = rig.edge("e1"), rig.edge("e2")
    del rig.edges["e1"]
    rig.reload()
    until(gone.cut)
    until(lambda: gone.link.refusal)
    assert stays.link.counters["disconnects"] == 0
    assert stays.link.connected


def test_a_new_password_ends_the_old_one_at_once(rig: Rig) -> None:
    old, stays = rig.edge("e1"), rig.edge("e2")
    rig.add("e1")
    rig.reload()
    until(old.cut)
    until(lambda: old.link.refusal)
    rig.edge("e1")
    assert stays.link.counters["disconnects"] == 0


def test_after_a_killed_broker_everybody_is_back(rig: Rig) -> None:
    """Nothing depends on what a broker remembers, except who may sign in."""
    rig.add("e3")
    rig.reload()
    hub, edge, new = rig.hub("lab/v1/+/up"), rig.edge("e1", "lab/v1/e1/down/#"), rig.edge("e3")
    rig.kill()
    until(lambda: all(client.ups.count(True) == 2 for client in (hub, edge, new)))
    until(lambda: rig.broker.health().ok)
    edge.link.publish("lab/v1/e1/up", b"again")
    new.link.publish("lab/v1/e3/up", b"again")
    until(lambda: len(hub.heard) == 2)
    hub.link.publish("lab/v1/e1/down/ack", b"again")
    until(lambda: edge.heard == [("lab/v1/e1/down/ack", b"again")])
    assert rig.broker.health().restarts == 1
    rig.add("e4")
    rig.reload()
    rig.edge("e4")


def test_nothing_waits_at_the_broker_for_whoever_is_away(rig: Rig) -> None:
    """An old command must not reach a kit when its edge comes back, nor a kept status pass for a live one."""
    hub = rig.hub("lab/v1/+/up")
    edge = rig.edge("e1", "lab/v1/e1/down/#")
    edge.link.stop()
    hub.link.publish("lab/v1/e1/down/cmd", b"late")
    rig.edge("e2").link.publish("lab/v1/e2/up", b"after it")
    until(lambda: hub.heard)
    back = rig.edge("e1", "lab/v1/e1/down/#")
    hub.link.publish("lab/v1/e1/down/ack", b"now")
    until(lambda: back.heard)
    assert back.heard == [("lab/v1/e1/down/ack", b"now")]


def test_without_tls_or_with_a_foreign_authority_nothing_passes(rig: Rig, tmp_path: Path) -> None:
    """Neither a listener on the wire nor a false hub gets a password."""
    password = rig.edges["e1"][0]
    plain = rig.client("edge-e1", password, url=rig.url.replace("mqtts://", "mqtt://"))
    (tmp_path / "foreign").mkdir()
    foreign = rig.client("edge-e1", password, ca_file=Authority(tmp_path / "foreign").file)
    misnamed = rig.client("edge-e1", password, url=rig.url.replace("127.0.0.1", "localhost"))
    until(lambda: plain.ups and foreign.ups and misnamed.ups)
    rig.edge("e1")
    assert not any(client.link.connected for client in (plain, foreign, misnamed))
    assert "certificate verify failed" in foreign.why
    assert "not valid for 'localhost'" in misnamed.why
