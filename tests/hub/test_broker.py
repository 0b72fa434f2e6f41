"""The embedded broker with real clients: who gets in, what they may say, and what happens when it dies."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import bcrypt
import pytest

from firmware_bridge.mqtt_link import MqttLink
from hub.broker.config import BrokerAccount, edge_account, subjects, users_text
from hub.broker.nats import BrokerUnavailable, NatsBroker, find_binary
from hub.broker.orphan import command_line, end_orphan

pytestmark = pytest.mark.real

WAIT_S = 15.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def hashed(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


class Client:
    """A link with what it heard."""

    def __init__(self, broker: NatsBroker, user: str, password: str, *topics: str) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.ups: list[bool] = []
        self.link = MqttLink(
            broker.url,
            client_id=f"{user}-{secrets.token_hex(6)}",
            user=user,
            password=password,
            on_message=lambda topic, payload: self.heard.append((topic, payload)),
            on_connection=lambda up, _why: self.ups.append(up),
        )
        for topic in topics:
            self.link.subscribe(topic)
        self.link.start()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[NatsBroker]:
    broker = NatsBroker(tmp_path / "broker", free_port())
    broker.start([edge_account("edge-1", "e1", hashed("one")), edge_account("edge-2", "e2", hashed("two"))])
    yield broker
    broker.stop()


@pytest.fixture
def client(broker: NatsBroker) -> Iterator[Callable[..., Client]]:
    clients: list[Client] = []

    def connect(user: str, password: str, *topics: str, ready: bool = True) -> Client:
        clients.append(Client(broker, user, password, *topics))
        if ready:
            until(lambda: clients[-1].link.connected)
        return clients[-1]

    yield connect
    for made in clients:
        made.link.stop()


def test_wrong_password_and_unknown_user_are_refused(client: Callable[..., Client]) -> None:
    wrong = client("edge-1", "two", ready=False)
    unknown = client("edge-9", "one", ready=False)
    until(lambda: wrong.link.refusal is not None and unknown.link.refusal is not None)
    assert not wrong.link.connected
    assert not unknown.link.connected


def test_an_edge_speaks_and_hears_for_itself_only(broker: NatsBroker, client: Callable[..., Client]) -> None:
    """One stolen edge password must not let anyone write another workshop's telemetry."""
    hub = client("hub", broker.hub_password, "lab/v1/+/up", "lab/v1/+/status")
    edge = client("edge-1", "one", "lab/v1/e1/down/#")
    edge.link.publish("lab/v1/e2/up", b"foreign")
    edge.link.publish("lab/v1/e1/down/ack", b"own acknowledgement")
    edge.link.publish("lab/v1/e1/up", b"own")
    until(lambda: bool(hub.heard))
    assert hub.heard == [("lab/v1/e1/up", b"own")]
    hub.link.publish("lab/v1/e2/down/ack", b"for the other")
    hub.link.publish("lab/v1/e1/down/ack", b"for this one")
    until(lambda: bool(edge.heard))
    assert edge.heard == [("lab/v1/e1/down/ack", b"for this one")]
    spy = client("edge-2", "two", "lab/v1/e1/down/#", ready=False)
    until(lambda: spy.link.counters["refused_subscriptions"] > 0)


def test_the_largest_batch_passes(broker: NatsBroker, client: Callable[..., Client]) -> None:
    hub = client("hub", broker.hub_password, "lab/v1/+/up")
    edge = client("edge-1", "one")
    edge.link.publish("lab/v1/e1/up", bytes(4 * 1024 * 1024))
    until(lambda: bool(hub.heard))
    assert len(hub.heard[0][1]) == 4 * 1024 * 1024


def test_a_new_edge_gets_in_without_dropping_others(broker: NatsBroker, client: Callable[..., Client]) -> None:
    """Enrolling an edge must not interrupt a lesson elsewhere."""
    edge = client("edge-1", "one")
    accounts = [edge_account("edge-1", "e1", hash_one := hashed("one")), edge_account("edge-3", "e3", hashed("three"))]
    del hash_one
    broker.reload(accounts)
    client("edge-3", "three")
    gone = client("edge-2", "two", ready=False)
    until(lambda: gone.link.refusal is not None)
    with pytest.raises(ValueError, match="bcrypt"):
        broker.reload([BrokerAccount("edge-4", "plain text", (), ())])
    client("edge-3", "three")
    assert broker.health().restarts == 0
    assert edge.link.connected


def test_a_killed_broker_is_started_again(broker: NatsBroker, client: Callable[..., Client]) -> None:
    hub = client("hub", broker.hub_password, "lab/v1/+/up")
    edge = client("edge-1", "one")
    pid = broker.health().pid
    assert pid is not None
    os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    until(lambda: broker.health().running and broker.health().pid != pid)
    until(lambda: hub.ups.count(True) == edge.ups.count(True) == 2)
    assert edge.link.publish("lab/v1/e1/up", b"again")
    until(lambda: bool(hub.heard))
    assert broker.health().restarts == 1


def test_no_password_is_written_down(broker: NatsBroker) -> None:
    """Whoever copies the data folder must not get the hub's sign-in; others on the machine must not read hashes."""
    pid = broker.health().pid
    assert pid is not None
    assert broker.hub_password not in command_line(pid)
    for file in broker.folder.rglob("*"):
        if file.is_file():
            assert broker.hub_password.encode() not in file.read_bytes()
    if os.name != "nt":
        assert stat.S_IMODE((broker.folder / "users.conf").stat().st_mode) == 0o600


ABANDON = """
import os, sys
from pathlib import Path
from hub.broker.nats import NatsBroker
broker = NatsBroker(Path(sys.argv[1]), int(sys.argv[2]))
broker.start([])
print(broker.health().pid, flush=True)
os._exit(9)
"""


def test_the_broker_of_a_killed_hub_is_ended_at_the_next_start(tmp_path: Path) -> None:
    """Otherwise the port stays taken and the hub never starts again after a crash."""
    folder, port = tmp_path / "broker", free_port()
    killed = subprocess.run([sys.executable, "-c", ABANDON, str(folder), str(port)], capture_output=True, check=False)
    orphan = int(killed.stdout)
    assert "nats-server" in command_line(orphan)
    broker = NatsBroker(folder, port)
    broker.start([])
    assert broker.health().pid != orphan
    assert str(folder) not in command_line(orphan)
    broker.stop()
    assert not (folder / "broker.pid").exists()


def test_a_stranger_with_the_old_number_is_left_alone(tmp_path: Path) -> None:
    """Process numbers are used again: ending one unseen could end somebody's editor."""
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    pid_file = tmp_path / "broker.pid"
    pid_file.write_text(str(stranger.pid))
    assert not end_orphan(pid_file, tmp_path / "broker.conf")
    assert stranger.poll() is None
    stranger.communicate(b"\n")


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = int(other.getsockname()[1])
        broker = NatsBroker(tmp_path / "broker", port)
        with pytest.raises(BrokerUnavailable, match=f"{port}.*in use"):
            broker.start([])
        broker.stop()


def test_stop_ends_process_and_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    broker = NatsBroker(tmp_path / "broker", free_port())
    broker.start([])
    pid = broker.health().pid
    broker.stop()
    broker.stop()
    assert not broker.health().running
    assert pid is not None
    assert "nats-server" not in command_line(pid)
    assert "broker watch" not in {thread.name for thread in set(threading.enumerate()) - before}


def test_binary_is_that_of_the_wheel() -> None:
    assert find_binary().name.startswith("nats-server")


@pytest.mark.parametrize(
    ("topic_filter", "expected"),
    [
        ("lab/v1/+/up", ["lab.v1.*.up"]),
        ("lab/v1/e1/down/#", ["lab.v1.e1.down.>", "lab.v1.e1.down"]),
        ("#", [">"]),
    ],
)
def test_topic_filters_as_subjects(topic_filter: str, expected: list[str]) -> None:
    assert subjects(topic_filter) == expected


@pytest.mark.parametrize("topic_filter", ["", "a//b", "a/#/b", "a.b", "a b", 'x"]}, {user: "y', "a/>", "*"])
def test_a_filter_that_means_something_else_in_nats_is_refused(topic_filter: str) -> None:
    """A name that slips through could give its owner every topic."""
    with pytest.raises(ValueError, match="topic filter"):
        subjects(topic_filter)


def test_an_account_without_topics_may_do_nothing() -> None:
    """In NATS an empty list of allowed subjects would allow all of them."""
    assert users_text([BrokerAccount("x", hashed("p"), (), ())]).count('deny: [">"]') == 2
