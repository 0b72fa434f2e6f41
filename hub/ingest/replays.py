"""Replays: receives what edges keep although it was acknowledged, asks for what the store does not have.

A hub whose store was put back to an older copy has forgotten batches that it once acknowledged, and a database server
can lose them by itself, which the store's audit tells. The edges keep those for a while; each says in its status which.
The ledger tells what is missing of them. Numbers that were never used, or whose batch was kept aside, are missing for
ever, so the same is asked for a few times and then no more.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from hub.clock import Clock
from hub.store.base import StoreUnavailable, TelemetryStore
from lab_contract.messages import EdgeStatus, Kept, Replay, dump
from lab_contract.topics import Kind, topic

log = logging.getLogger(__name__)

ASK_AGAIN_NS = 60_000_000_000
"""Time for an edge to send what was asked for, before its ledger is looked at again."""
MOST_ASKED = 4
MOST_RANGES = 1000
"""Ranges in one request; the rest is found at the next look."""
AUDIT_NS = 20_000_000_000
"""How often the store is asked whether it still has everything."""
MOST_KEPT = 64
"""Epochs of one edge that are looked at; an edge keeps a few."""


@dataclass(slots=True)
class _Look:
    """When an edge's ledger is due, for what it keeps; `asked` counts the requests so far."""

    due_ns: int
    kept: tuple[Kept, ...]
    asked: int = 0


class Replays:
    """What is asked of which edge. `heard` on the network thread, `ask_due` on the writer's."""

    def __init__(
        self, store: TelemetryStore, clock: Clock, say: Callable[[str, bytes], bool], counters: Counter[str]
    ) -> None:
        self._store = store
        self._clock = clock
        self._say = say
        self._counters = counters
        self._lock = threading.Lock()
        self._looks: dict[str, _Look] = {}
        self._seen: dict[str, int] = {}
        """Edges that have reported since the hub's start, or since the store lost something, with their epoch."""
        self._audit_due_ns = clock.monotonic_ns() + AUDIT_NS

    def heard(self, status: EdgeStatus) -> None:
        """An edge has reported: its ledger is due if that is news."""
        if not status.online or self._seen.get(status.edge) == status.epoch:
            return
        self._seen[status.edge] = status.epoch
        if status.kept:
            with self._lock:
                self._looks[status.edge] = _Look(self._clock.monotonic_ns(), status.kept[:MOST_KEPT])

    def ask_due(self) -> None:
        """Look at what is due, one edge at a time, so that the writer is soon back at its work."""
        now = self._clock.monotonic_ns()
        if self._audit_due_ns <= now:
            self._audit_due_ns = now + AUDIT_NS
            self._audit()
        with self._lock:
            due = next(((edge, look) for edge, look in self._looks.items() if look.due_ns <= now), None)
        if due is None:
            return
        edge, look = due
        try:
            asked = self._ask(edge, look)
        except StoreUnavailable as error:
            log.warning("edge %s: what is missing cannot be told yet: %s", edge, error)
            asked = True
        else:
            look.asked += asked
        with self._lock:
            if self._looks.get(edge) is not look:
                return  # It has reported a new epoch meanwhile.
            if asked and look.asked < MOST_ASKED:
                look.due_ns = now + ASK_AGAIN_NS
            else:
                del self._looks[edge]

    def _audit(self) -> None:
        try:
            lost = self._store.audit()
        except StoreUnavailable as error:
            log.warning("whether the store still has everything cannot be told yet: %s", error)
            return
        if lost != self._counters["lost_by_store"]:
            self._counters["lost_by_store"] = lost
            # Each edge's next status says what it keeps by now.
            self._seen.clear()

    def _ask(self, edge: str, look: _Look) -> bool:
        """Whether anything was asked for."""
        asked = False
        for kept in look.kept:
            if not 0 <= kept.first <= kept.last < 2**63 or not 0 <= kept.epoch < 2**64:
                continue
            missing = self._store.missing(edge, kept.epoch, kept.first, kept.last)[:MOST_RANGES]
            if not missing:
                continue
            asked = True
            replay = Replay(store_id=self._store.store_id, epoch=kept.epoch, ranges=tuple(missing))
            log.info("edge %s: epoch %d, asked for %d ranges that are missing here", edge, kept.epoch, len(missing))
            if self._say(topic(edge, Kind.REPLAY), dump(replay)):
                self._counters["replays"] += 1
        return asked
