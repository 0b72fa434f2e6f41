"""Each broker that the hub can use, running for real over TLS, with edges that sign in by their own passwords."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from firmware_bridge.mqtt_link import MqttLink
from hub.broker.base import Broker, HubAccess
from hub.broker.config import BrokerAccount, edge_account
from hub.broker.dynsec import DynamicSecurity
from hub.broker.mosquitto import MosquittoBroker
from hub.broker.mosquitto_files import MosquittoFiles
from hub.broker.nats import NatsBroker
from hub.broker.passwords import bcrypt_hash, mosquitto_hash
from tests.brokers import free_port, mosquitto_with_files, mosquitto_with_plugin
from tests.certificates import Authority

WAIT_S = 15.0
ADMIN = "admin"
EVERYTHING = ("log_dest stderr", "log_type all")
"""What an administrator sets who wants every refusal counted; on a busy broker it is too much."""


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


class Client:
    """A link, what it heard, and how its connection went."""

    link: MqttLink

    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.ups: list[bool] = []
        self.why = ""

    def connection(self, up: bool, why: str) -> None:
        self.ups.append(up)
        self.why = why or self.why

    def cut(self) -> bool:
        """Whether the live connection was ended by the broker."""
        return self.link.counters["disconnects"] > 0 and not self.link.connected


@dataclass
class Rig:
    """A broker under the hub's rule. `kill` ends its process with SIGKILL and sees that it runs again."""

    name: str
    broker: Broker
    authority: Authority
    kill: Callable[[], None]
    enrol: Callable[[BrokerAccount, str], None]
    forbidden_subscriptions_are_refused: bool = True
    edges: dict[str, tuple[str, BrokerAccount]] = field(default_factory=dict)
    clients: list[MqttLink] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.broker.access.url

    def accounts(self) -> list[BrokerAccount]:
        return [account for _, account in self.edges.values()]

    def add(self, edge: str) -> str:
        """A new edge, or a new password for one; takes effect with `reload`. Gives its password."""
        password = secrets.token_urlsafe(24)
        account = edge_account(f"edge-{edge}", edge, bcrypt_hash(password, rounds=4), mosquitto_hash(password))
        self.edges[edge] = (password, account)
        self.enrol(account, password)
        return password

    def reload(self) -> None:
        self.broker.reload(self.accounts())

    def client(
        self, user: str | None, password: str | None, *topics: str, url: str = "", ca_file: Path | None = None
    ) -> Client:
        """A link that signs in as it is told and trusts the rig's authority."""
        return self._linked(
            HubAccess(url or self.url, user or "", password or "", ca_file or self.authority.file), topics
        )

    def edge(self, edge: str, *topics: str) -> Client:
        """A connected edge."""
        client = self.client(f"edge-{edge}", self.edges[edge][0], *topics)
        until(lambda: client.link.connected)
        return client

    def hub(self, *topics: str) -> Client:
        """The hub's own link, connected."""
        client = self._linked(self.broker.access, topics)
        until(lambda: client.link.connected)
        return client

    def _linked(self, access: HubAccess, topics: tuple[str, ...]) -> Client:
        client = Client()
        client.link = MqttLink(
            access.url,
            client_id=f"{access.user}-{secrets.token_hex(6)}",
            user=access.user or None,
            password=access.password or None,
            ca_file=access.ca_file,
            certificate=access.certificate,
            on_message=lambda topic, payload: client.heard.append((topic, payload)),
            on_connection=client.connection,
        )
        for topic in topics:
            client.link.subscribe(topic)
        self.clients.append(client.link)
        client.link.start()
        return client


def _nobody(_account: BrokerAccount, _password: str) -> None:
    """The broker learns of accounts from their hashes."""


@contextmanager
def nats_rig(folder: Path) -> Iterator[Rig]:
    authority = Authority(folder)
    tls = authority.issue("hub", "127.0.0.1")
    broker = NatsBroker(folder / "broker", free_port(), tls=tls)

    def kill() -> None:
        pid = broker.health().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until(lambda: broker.health().running and broker.health().pid != pid)

    yield from _ruled(Rig("nats", broker, authority, kill, _nobody))


@contextmanager
def mosquitto_rig(folder: Path) -> Iterator[Rig]:
    authority = Authority(folder)
    tls = authority.issue("hub", "127.0.0.1")
    secret = secrets.token_urlsafe(24)
    with mosquitto_with_plugin(folder, admin=secret, tls=tls, options=EVERYTHING) as server:
        access = HubAccess(server.url, ADMIN, secret, authority.file)
        broker = MosquittoBroker(access, log_file=server.folder / "broker.log")

        def kill() -> None:
            server.kill()
            server.start()

        def enrol(account: BrokerAccount, password: str) -> None:
            with DynamicSecurity(access) as control:
                control.enrol(account, password)

        yield from _ruled(Rig("mosquitto", broker, authority, kill, enrol))


@contextmanager
def files_rig(folder: Path) -> Iterator[Rig]:
    authority = Authority(folder)
    tls = authority.issue("hub", "127.0.0.1")
    accounts, pid_file = folder / "accounts", folder / "mosquitto.pid"
    with mosquitto_with_files(folder, accounts, pid_file=pid_file, tls=tls, options=EVERYTHING) as server:
        access = HubAccess(server.url, "epip-hub", secrets.token_urlsafe(24), authority.file)
        log_file = server.folder / "broker.log"
        broker = MosquittoFiles(access, accounts, pid_file=pid_file, log_file=log_file)

        def kill() -> None:
            server.kill()
            server.start()

        rig = Rig("mosquitto-files", broker, authority, kill, _nobody, forbidden_subscriptions_are_refused=False)
        yield from _ruled(rig)


def _ruled(rig: Rig) -> Iterator[Rig]:
    try:
        for edge in ("e1", "e2"):
            rig.add(edge)
        rig.broker.start(rig.accounts())
        yield rig
    finally:
        for link in rig.clients:
            link.stop()
        rig.broker.stop()


RIGS = {"nats": nats_rig, "mosquitto": mosquitto_rig, "mosquitto-files": files_rig}
