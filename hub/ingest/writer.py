"""The one writer: takes bursts of messages from the inbox, hands on what is committed, to the edges and to live.

A burst is decoded, stored in one transaction, and only then acknowledged. What can never be stored is kept aside with
its bytes and its reason and acknowledged as such, so that it never blocks the line; what the store cannot take now is
kept and tried again, unacknowledged, while the inbox refuses what passes its bound.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import TypeVar

from hub.ingest.burst import decode_burst
from hub.ingest.decode import KitEntry
from hub.ingest.inbox import Inbox, Message
from hub.ingest.replays import Replays
from hub.store.base import (
    DecodedBatch,
    DecodedGaps,
    Outcome,
    Quarantine,
    StoreRefused,
    StoreUnavailable,
    TelemetryStore,
)
from lab_contract.batch import digest
from lab_contract.errors import BatchRejected
from lab_contract.messages import Ack, Quarantined, dump
from lab_contract.topics import Kind, topic

T = TypeVar("T")
Good = list[tuple[Message, DecodedBatch]]
Bad = list[tuple[Message, BatchRejected]]
Committed = list[tuple[Message, DecodedBatch, Outcome]]

log = logging.getLogger(__name__)

IDLE_S = 0.5
RETRY_FIRST_S = 0.1
RETRY_MOST_S = 5.0


class Writer:
    """What runs on the writer's thread, from `run` until `stopping` is set.

    `say(topic, payload)` publishes, False where nobody takes it; `beat` is called at least every few seconds;
    `on_committed` may wait for room, which holds up the edges and nobody else.
    """

    def __init__(
        self,
        *,
        inbox: Inbox,
        store: TelemetryStore,
        kits: Callable[[], Mapping[str, KitEntry]],
        replays: Replays,
        say: Callable[[str, bytes], bool],
        beat: Callable[[], None],
        on_committed: Callable[[list[DecodedBatch]], None],
        counters: Counter[str],
        stopping: threading.Event,
        rng: random.Random,
    ) -> None:
        self._inbox = inbox
        self._store = store
        self._kits = kits
        self._replays = replays
        self._say = say
        self._beat = beat
        self._on_committed = on_committed
        self._counters = counters
        self._stopping = stopping
        self._rng = rng
        self.trouble = ""
        """Why the store takes nothing at the moment."""

    def run(self) -> None:
        """Until `stopping`."""
        while not self._stopping.is_set():
            self._beat()
            burst = self._inbox.take(IDLE_S)
            if burst:
                self._take_in(burst)
            self._replays.ask_due()

    def _take_in(self, burst: list[Message]) -> None:
        good: Good = []
        bad: Bad = []
        for message, found in zip(burst, decode_burst(burst, self._kits()), strict=True):
            if isinstance(found, BatchRejected):
                bad.append((message, found))
            else:
                good.append((message, found))
        committed, refused = self._store_all(good)
        bad += refused
        if bad and not self._keep_aside(bad):
            bad = []
        fresh = [batch for _, batch, outcome in committed if outcome is Outcome.STORED]
        self._counters["batches"] += len(fresh)
        self._counters["samples"] += sum(batch.values.size for batch in fresh if not isinstance(batch, DecodedGaps))
        self._counters["gaps"] += sum(len(batch.gaps) for batch in fresh if isinstance(batch, DecodedGaps))
        self._counters["duplicates"] += len(committed) - len(fresh)
        self._acknowledge(committed, bad)
        if fresh:
            self._on_committed(fresh)

    def _store_all(self, good: Good) -> tuple[Committed, Bad]:
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

    def _keep_aside(self, bad: Bad) -> bool:
        items = [Quarantine(m.sender, r.reason, r.detail, m.data, m.received_ns) for m, r in bad]
        kept = self._until_stored(lambda: self._store.quarantine(items) or True)
        self._counters["quarantined"] += len(bad)
        for message, rejected in bad:
            self._counters["forged"] += rejected.reason == "forged_edge"
            log.warning("edge %s: a batch is kept aside: %s", message.sender, rejected)
        return bool(kept)

    def _until_stored(self, work: Callable[[], T]) -> T | None:
        """Do it again until the store can; None only where the hub stops meanwhile."""
        pause = RETRY_FIRST_S
        while True:
            try:
                result = work()
            except StoreUnavailable as error:
                self.trouble = str(error)
                self._counters["store_retries"] += 1
                log.error("cannot store, nothing is acknowledged: %s", error)
            else:
                self.trouble = ""
                return result
            self._beat()
            if self._stopping.wait(pause * self._rng.uniform(0.5, 1.0)):
                return None
            pause = min(RETRY_MOST_S, pause * 2)

    def _acknowledge(self, committed: Committed, bad: Bad) -> None:
        """To the edge whose topic the batch came on, whatever its header says; one message an edge and epoch."""
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
            if not self._say(topic(edge, Kind.ACK), dump(ack)):
                # The edge sends again, finds a duplicate, and is acknowledged then.
                self._counters["unacknowledged"] += 1
