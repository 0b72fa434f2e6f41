"""Broker, store and ingest in this process with the link of one edge, for tests of what passes between them."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import bcrypt

from firmware_bridge.mqtt_link import MqttLink
from hub.broker.config import edge_account
from hub.broker.nats import NatsBroker
from hub.clock import Clock, SystemClock
from hub.ingest.inbox import MAX_BYTES
from hub.ingest.service import Ingest
from hub.store import open_store
from hub.store.base import DecodedBatch, Outcome, StoreUnavailable, TelemetryStore
from lab_contract.messages import Ack, EdgeStatus, load_ack
from lab_contract.topics import Kind, topic
from tests.hub.support import kits
from tests.small_kit import EDGE

WAIT_S = 15.0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


class BrokenStore:
    """A store that cannot write while `broken`; the rest is the real one."""

    def __init__(self, store: TelemetryStore) -> None:
        self._store = store
        self.broken = False
        self.failures = 0

    def append(self, batches: Sequence[DecodedBatch]) -> list[Outcome]:
        if self.broken:
            self.failures += 1
            raise StoreUnavailable("no space left on device")
        return self._store.append(batches)

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


class Line:
    """Broker, store and ingest with one edge's link, as the tests see them. `heard` is what is no acknowledgement."""

    def __init__(self, folder: Path, clock: Clock | None = None, inbox_bytes: int = MAX_BYTES) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
        self.broker = NatsBroker(folder / "broker", port)
        self.broker.start([edge_account("e", EDGE, hashed)])
        self.store = BrokenStore(open_store(f"duckdb:///{folder / 'telemetry.duckdb'}"))
        self.committed: list[DecodedBatch] = []
        self.statuses: list[EdgeStatus] = []
        self.ingest = Ingest(
            access=self.broker.access,
            store=self.store,  # type: ignore[arg-type]
            kits=kits,
            clock=clock or SystemClock(),
            on_committed=self.committed.extend,
            on_status=lambda status, _t: self.statuses.append(status),
            on_silence=self.broker.revive,
            inbox_bytes=inbox_bytes,
        )
        self.ingest.start()
        assert self.ingest.wait_ready(WAIT_S)
        self.acks: list[Ack] = []
        self.heard: list[tuple[str, bytes]] = []
        self.link = MqttLink(
            self.broker.url,
            client_id=f"edge-{secrets.token_hex(6)}",
            user="e",
            password="secret",
            on_message=self._message,
            on_connection=lambda _up, _why: None,
        )
        self.link.subscribe(f"lab/v1/{EDGE}/down/#")
        self.link.start()
        until(lambda: self.link.connected)

    def _message(self, name: str, payload: bytes) -> None:
        if name == topic(EDGE, Kind.ACK):
            self.acks.append(load_ack(payload))
        else:
            self.heard.append((name, payload))

    def send(self, data: bytes, topic: str = "up") -> None:
        assert self.link.publish(f"lab/v1/{EDGE}/{topic}", data)

    def count(self, name: str) -> int:
        return self.ingest.health().counters[name]

    def stop(self) -> None:
        self.link.stop()
        self.ingest.stop()
        self.broker.stop()
        self.store.close()  # type: ignore[operator]


def acknowledged(line: Line) -> set[int]:
    return {seq for ack in line.acks for seq in ack.stored}
