"""Ingest: receives batches, statuses and clock probes from the broker, hands batches to the writer, the rest to whom it
concerns.

On the network thread batches are only enqueued, and probes answered, as their time is measured. Batches are heard with
QoS 0: only the acknowledgement after the commit counts, and what does not arrive is sent again for want of it.
"""

from __future__ import annotations

import logging
import random
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from hub.broker.base import HubAccess
from hub.broker.config import HEARTBEAT_TOPIC
from hub.clock import Clock
from hub.ingest.decode import KitEntry
from hub.ingest.inbox import MAX_BYTES, Inbox, Message
from hub.ingest.probes import Probes
from hub.ingest.replays import Replays
from hub.ingest.writer import Writer
from hub.store.base import DecodedBatch, TelemetryStore
from lab_contract.errors import MessageInvalid, TopicInvalid
from lab_contract.messages import EdgeStatus, load_status
from lab_contract.topics import Kind, Topic, every_edge, parse, topic

log = logging.getLogger(__name__)

HEARTBEAT_NS = 2_000_000_000
SILENCE_NS = 30_000_000_000
"""A broker is taken for hung when no heartbeat has come back for so long; a lost link is back long before."""
HEARTBEAT_LATE_NS = 10_000_000_000
STATUS_BYTES = 256 * 1024
STOP_S = 10.0
HEARD = {Kind.UP: 0, Kind.STATUS: 1, Kind.PROBE: 0}
"""What is heard of every edge, and with which QoS."""


@dataclass(frozen=True, slots=True)
class IngestHealth:
    """`ok`: the link is up and a heartbeat came back through the broker lately, and the writer runs.

    `detail` says what is wrong. `waiting_bytes` stand in the inbox. `counters` count since the start of the hub.
    `store_trouble` says why the store takes nothing at the moment, and is empty while it does.
    """

    ok: bool
    detail: str
    waiting_bytes: int
    counters: Mapping[str, int]
    store_trouble: str = ""


class Ingest:
    """The way from the broker into the store, from `start` to `stop`.

    `on_committed(batches)` and `on_status(status, received_ns)` are called on threads of ingest and must be quick.
    `on_silence()` is called each time that no heartbeat has come back through the broker for SILENCE_NS.
    """

    def __init__(
        self,
        *,
        access: HubAccess,
        store: TelemetryStore,
        kits: Callable[[], Mapping[str, KitEntry]],
        clock: Clock,
        on_committed: Callable[[list[DecodedBatch]], None],
        on_status: Callable[[EdgeStatus, int], None],
        on_silence: Callable[[], None] = lambda: None,
        inbox_bytes: int = MAX_BYTES,
        rng: random.Random | None = None,
    ) -> None:
        self._clock = clock
        self._on_status = on_status
        self._inbox = Inbox(inbox_bytes)
        self._stopping = threading.Event()
        self._link = access.link("hub", self._received, self._connection)
        self._nonce = secrets.token_bytes(8)
        self._on_silence = on_silence
        self._silent_since_ns = clock.monotonic_ns()
        self._beat_sent_ns = -HEARTBEAT_NS
        self._beat_heard_ns: int | None = None
        self._heard = threading.Event()
        self._link_detail = "not connected yet"
        self._fault = ""
        self._counters: Counter[str] = Counter(
            batches=0,
            samples=0,
            gaps=0,
            duplicates=0,
            conflicts=0,
            quarantined=0,
            forged=0,
            refused_full=0,
            unacknowledged=0,
            store_retries=0,
            foreign_messages=0,
            bad_statuses=0,
            probes=0,
            refused_probes=0,
            replays=0,
            lost_by_store=0,
        )
        self._probes = Probes(clock)
        self._replays = Replays(store, clock, self._say, self._counters)
        self._writer = Writer(
            inbox=self._inbox,
            store=store,
            kits=kits,
            replays=self._replays,
            say=self._say,
            beat=self._beat,
            on_committed=on_committed,
            counters=self._counters,
            stopping=self._stopping,
            rng=rng or random.Random(),  # noqa: S311 - spreads retries, guards nothing
        )
        self._writing = threading.Thread(target=self._run, name="ingest writer", daemon=True)

    def start(self) -> None:
        """Connect and begin to store."""
        for kind, qos in HEARD.items():
            self._link.subscribe(every_edge(kind), qos)
        self._link.subscribe(HEARTBEAT_TOPIC)
        self._link.start()
        self._writing.start()

    def wait_ready(self, timeout_s: float) -> bool:
        """Whether a heartbeat has come back through the broker within the time: only that proves that messages pass."""
        return self._heard.wait(timeout_s)

    def stop(self) -> None:
        """Disconnect and end the writer after its present transaction; what waits was never acknowledged."""
        self._stopping.set()
        self._link.stop()
        self._inbox.close()
        if self._writing.ident is not None:
            self._writing.join(STOP_S)

    def health(self) -> IngestHealth:
        """How ingest is."""
        detail = self._fault
        if not detail and not self._link.connected:
            detail = f"no connection to the broker: {self._link_detail}"
        heard = self._beat_heard_ns
        if not detail and (heard is None or self._clock.monotonic_ns() - heard > HEARTBEAT_LATE_NS):
            detail = "no heartbeat came back through the broker"
        counters = dict(self._counters) | self._link.counters
        return IngestHealth(not detail, detail, self._inbox.bytes, counters, self._writer.trouble)

    @property
    def store_trouble(self) -> str:
        """Why the store takes nothing at the moment, empty while it does. Quick."""
        return self._writer.trouble

    def _connection(self, _up: bool, detail: str) -> None:
        self._link_detail = detail

    def _received(self, name: str, payload: bytes) -> None:
        """On the network thread: sort by topic, hand over, nothing more."""
        now = self._clock.time_ns()
        if name == HEARTBEAT_TOPIC:
            if payload == self._nonce:
                self._beat_heard_ns = self._silent_since_ns = self._clock.monotonic_ns()
                self._heard.set()
            return
        try:
            found = _topic(name)
        except TopicInvalid:
            self._counters["foreign_messages"] += 1
            return
        if found.kind is Kind.UP:
            if not self._inbox.put(Message(found.edge, payload, now)):
                self._counters["refused_full"] += 1
        elif found.kind is Kind.STATUS:
            self._status(found.edge, payload, now)
        elif found.kind is Kind.PROBE:
            self._probe(found.edge, payload, now)
        else:
            self._counters["foreign_messages"] += 1

    def _status(self, sender: str, payload: bytes, now: int) -> None:
        try:
            if len(payload) > STATUS_BYTES:
                raise MessageInvalid(f"status of {len(payload)} bytes, expected at most {STATUS_BYTES}")
            status = load_status(payload)
        except MessageInvalid as error:
            self._counters["bad_statuses"] += 1
            log.warning("edge %s: %s", sender, error)
            return
        if status.edge != sender:
            self._counters["forged"] += 1
            log.warning("edge %s sent a status in the name of %s", sender, status.edge)
            return
        self._replays.heard(status)
        self._on_status(status, now)

    def _probe(self, sender: str, payload: bytes, now: int) -> None:
        try:
            answer = self._probes.answer(sender, payload, now)
        except MessageInvalid as error:
            self._counters["refused_probes"] += 1
            log.warning("edge %s: %s", sender, error)
            return
        if answer is None or not self._say(topic(sender, Kind.TIME), answer):
            self._counters["refused_probes"] += 1
        else:
            self._counters["probes"] += 1

    def _say(self, name: str, payload: bytes) -> bool:
        # QoS 0: an edge that misses an acknowledgement, a time or a request makes it come again.
        return self._link.publish(name, payload, qos=0)

    def _run(self) -> None:
        try:
            self._writer.run()
        except Exception as error:
            # Nobody waits for this thread: a fault must show in the health, or the line would stand still in silence.
            log.exception("the ingest writer failed")
            self._fault = f"the writer failed: {type(error).__name__}: {error}"

    def _beat(self) -> None:
        now = self._clock.monotonic_ns()
        if self._link.connected and now - self._beat_sent_ns >= HEARTBEAT_NS:
            self._beat_sent_ns = now
            self._link.publish(HEARTBEAT_TOPIC, self._nonce, qos=0)
        if now - self._silent_since_ns >= SILENCE_NS:
            self._silent_since_ns = now
            self._on_silence()


@lru_cache(maxsize=4096)
def _topic(name: str) -> Topic:
    return parse(name)
