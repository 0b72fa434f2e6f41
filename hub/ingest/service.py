"""Ingest: receives batches and statuses from the broker, hands committed batches to live and acknowledgements to edges.

The MQTT callback only enqueues. One writer thread takes what has gathered, decodes it, stores it in one transaction,
and only then acknowledges. What can never be stored is kept aside with its bytes and its reason and acknowledged as
such, so that it never blocks the line; what the store cannot take now is kept and tried again, unacknowledged.
"""

from __future__ import annotations

import logging
import random
import secrets
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from firmware_bridge.mqtt_link import MqttLink
from hub.broker.config import HEARTBEAT_TOPIC
from hub.clock import Clock
from hub.ingest.decode import KitEntry, decode
from hub.ingest.inbox import MAX_BYTES, Inbox, Message
from hub.store.base import DecodedBatch, Outcome, Quarantine, StoreRefused, StoreUnavailable, TelemetryStore
from lab_contract.batch import digest
from lab_contract.errors import BatchRejected, MessageInvalid, TopicInvalid
from lab_contract.messages import Ack, EdgeStatus, Quarantined, dump, load_status
from lab_contract.topics import Kind, every_edge, parse, topic

T = TypeVar("T")

log = logging.getLogger(__name__)

HEARTBEAT_NS = 2_000_000_000
HEARTBEAT_LATE_NS = 10_000_000_000
IDLE_S = 0.5
STATUS_BYTES = 256 * 1024
RETRY_FIRST_S = 0.1
RETRY_MOST_S = 5.0
STOP_S = 10.0


@dataclass(frozen=True, slots=True)
class IngestHealth:
    """`ok`: the link is up and a heartbeat came back through the broker lately, and the writer runs.

    `detail` says what is wrong. `waiting_bytes` stand in the inbox. `counters` count since the start of the hub.
    """

    ok: bool
    detail: str
    waiting_bytes: int
    counters: Mapping[str, int]


class Ingest:
    """The way from the broker into the store, from `start` to `stop`.

    `on_committed(batches)` and `on_status(status, received_ns)` are called on threads of ingest and must be quick.
    """

    def __init__(
        self,
        *,
        url: str,
        user: str,
        password: str,
        store: TelemetryStore,
        kits: Callable[[], Mapping[str, KitEntry]],
        clock: Clock,
        on_committed: Callable[[list[DecodedBatch]], None],
        on_status: Callable[[EdgeStatus, int], None],
        inbox_bytes: int = MAX_BYTES,
        rng: random.Random | None = None,
    ) -> None:
        self._store = store
        self._kits = kits
        self._clock = clock
        self._on_committed = on_committed
        self._on_status = on_status
        self._rng = rng or random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._inbox = Inbox(inbox_bytes)
        self._stopping = threading.Event()
        self._writer = threading.Thread(target=self._run, name="ingest writer", daemon=True)
        self._link = MqttLink(
            url,
            client_id=f"hub-{secrets.token_hex(6)}",
            user=user,
            password=password,
            on_message=self._received,
            on_connection=self._connection,
        )
        self._nonce = secrets.token_bytes(8)
        self._beat_sent_ns = -HEARTBEAT_NS
        self._beat_heard_ns: int | None = None
        self._heard = threading.Event()
        self._link_detail = "not connected yet"
        self._fault = ""
        self._counters: Counter[str] = Counter(
            batches=0,
            samples=0,
            duplicates=0,
            conflicts=0,
            quarantined=0,
            forged=0,
            refused_full=0,
            unacknowledged=0,
            store_retries=0,
            foreign_messages=0,
            bad_statuses=0,
        )

    def start(self) -> None:
        """Connect and begin to store."""
        for kind in (Kind.UP, Kind.STATUS):
            self._link.subscribe(every_edge(kind))
        self._link.subscribe(HEARTBEAT_TOPIC)
        self._link.start()
        self._writer.start()

    def wait_ready(self, timeout_s: float) -> bool:
        """Whether a heartbeat has come back through the broker within the time: only that proves that messages pass."""
        return self._heard.wait(timeout_s)

    def stop(self) -> None:
        """Disconnect and end the writer after its present transaction; what waits was never acknowledged."""
        self._stopping.set()
        self._link.stop()
        self._inbox.close()
        if self._writer.ident is not None:
            self._writer.join(STOP_S)

    def health(self) -> IngestHealth:
        """How ingest is."""
        detail = self._fault
        if not detail and not self._link.connected:
            detail = f"no connection to the broker: {self._link_detail}"
        heard = self._beat_heard_ns
        if not detail and (heard is None or self._clock.monotonic_ns() - heard > HEARTBEAT_LATE_NS):
            detail = "no heartbeat came back through the broker"
        return IngestHealth(not detail, detail, self._inbox.bytes, dict(self._counters) | self._link.counters)

    def _connection(self, _up: bool, detail: str) -> None:
        self._link_detail = detail

    def _received(self, name: str, payload: bytes) -> None:
        """On the network thread: sort by topic, hand over, nothing more."""
        now = self._clock.time_ns()
        if name == HEARTBEAT_TOPIC:
            if payload == self._nonce:
                self._beat_heard_ns = self._clock.monotonic_ns()
                self._heard.set()
            return
        try:
            found = parse(name)
        except TopicInvalid:
            self._counters["foreign_messages"] += 1
            return
        if found.kind is Kind.UP:
            if not self._inbox.put(Message(found.edge, payload, now)):
                self._counters["refused_full"] += 1
        elif found.kind is Kind.STATUS:
            self._status(found.edge, payload, now)
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
        self._on_status(status, now)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._beat()
                burst = self._inbox.take(IDLE_S)
                if burst:
                    self._take_in(burst)
        except Exception as error:
            # Nobody waits for this thread: a fault must show in the health, or the line would stand still in silence.
            log.exception("the ingest writer failed")
            self._fault = f"the writer failed: {type(error).__name__}: {error}"

    def _beat(self) -> None:
        now = self._clock.monotonic_ns()
        if self._link.connected and now - self._beat_sent_ns >= HEARTBEAT_NS:
            self._beat_sent_ns = now
            self._link.publish(HEARTBEAT_TOPIC, self._nonce, qos=0)

    def _take_in(self, burst: list[Message]) -> None:
        kits = self._kits()
        good: list[tuple[Message, DecodedBatch]] = []
        bad: list[tuple[Message, BatchRejected]] = []
        for message in burst:
            try:
                good.append((message, decode(message.data, message.sender, kits, message.received_ns)))
            except BatchRejected as rejected:
                bad.append((message, rejected))
            except Exception as error:
                # A fault of ours in decoding must not stop everyone else's data.
                log.exception("decoding a batch of edge %s failed", message.sender)
                bad.append((message, BatchRejected("decoder_fault", f"{type(error).__name__}: {error}")))
        committed, refused = self._store_all(good)
        bad += refused
        if bad and not self._keep_aside(bad):
            bad = []
        fresh = [batch for _, batch, outcome in committed if outcome is Outcome.STORED]
        self._counters["batches"] += len(fresh)
        self._counters["samples"] += sum(batch.values.size for batch in fresh)
        self._counters["duplicates"] += len(committed) - len(fresh)
        self._acknowledge(committed, bad)
        if fresh:
            self._on_committed(fresh)

    def _store_all(
        self, good: list[tuple[Message, DecodedBatch]]
    ) -> tuple[list[tuple[Message, DecodedBatch, Outcome]], list[tuple[Message, BatchRejected]]]:
        """Store in one transaction, one by one where the engine refuses; conflicts are among what is refused."""
        if not good:
            return [], []
        try:
            outcomes = self._until_stored(lambda: self._store.append([batch for _, batch in good]))
        except StoreRefused as error:
            if len(good) == 1:
                return [], [(good[0][0], BatchRejected("not_storable", str(error)[:300]))]
            committed, refused = [], []
            for one in good:
                stored, kept = self._store_all([one])
                committed += stored
                refused += kept
            return committed, refused
        if outcomes is None:
            return [], []
        committed, refused = [], []
        for (message, batch), outcome in zip(good, outcomes, strict=True):
            if outcome is Outcome.CONFLICT:
                self._counters["conflicts"] += 1
                detail = f"epoch {batch.header.epoch} seq {batch.header.seq} was stored before with other content"
                refused.append((message, BatchRejected("conflict", detail)))
            else:
                committed.append((message, batch, outcome))
        return committed, refused

    def _keep_aside(self, bad: list[tuple[Message, BatchRejected]]) -> bool:
        items = [Quarantine(m.sender, r.reason, r.detail, m.data, m.received_ns) for m, r in bad]
        kept = self._until_stored(lambda: self._store.quarantine(items) or True)
        self._counters["quarantined"] += len(bad)
        for message, rejected in bad:
            self._counters["forged"] += rejected.reason == "forged_edge"
            log.warning("edge %s: a batch is kept aside: %s", message.sender, rejected)
        return bool(kept)

    def _until_stored(self, work: Callable[[], T]) -> T | None:
        """Do it again until the store can; None only where the hub stops meanwhile. The store's health shows why."""
        pause = RETRY_FIRST_S
        while True:
            try:
                return work()
            except StoreUnavailable as error:
                self._counters["store_retries"] += 1
                log.error("cannot store, nothing is acknowledged: %s", error)
            self._beat()
            if self._stopping.wait(pause * self._rng.uniform(0.5, 1.0)):
                return None
            pause = min(RETRY_MOST_S, pause * 2)

    def _acknowledge(
        self,
        committed: list[tuple[Message, DecodedBatch, Outcome]],
        bad: list[tuple[Message, BatchRejected]],
    ) -> None:
        """To the edge whose topic the batch came on, whatever its header says."""
        stored: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
        aside: defaultdict[str, list[Quarantined]] = defaultdict(list)
        for message, batch, _ in committed:
            stored[message.sender, batch.header.epoch].append(batch.header.seq)
        for message, rejected in bad:
            aside[message.sender].append(Quarantined(digest=digest(message.data), reason=rejected.reason))
        store_id = self._store.store_id
        acks = [(edge, Ack(store_id=store_id, epoch=epoch, stored=tuple(s))) for (edge, epoch), s in stored.items()]
        acks += [(edge, Ack(store_id=store_id, epoch=0, quarantined=tuple(q))) for edge, q in aside.items()]
        for edge, ack in acks:
            if not self._link.publish(topic(edge, Kind.ACK), dump(ack)):
                # The edge sends again, finds a duplicate, and is acknowledged then.
                self._counters["unacknowledged"] += 1
