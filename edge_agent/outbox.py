"""Between batch and spool: encoded batches wait here, bounded, until they are durable; then the uplink gets them.

What was lost before them and how far has been read goes into the spool in the same transaction, so that a gap is never
missing where the data behind it is there.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping

from edge_agent.batcher import Encoded
from edge_agent.clock import Clock
from edge_agent.errors import SpoolUnavailable
from edge_agent.gaps import Loss, OpenLosses
from edge_agent.spool import Appended, Spool
from lab_contract.batch import GapReason

log = logging.getLogger(__name__)

MOST_BATCHES = 2048
MOST_BYTES = 32 * 2**20
"""About two minutes of a whole workshop; a disk that is away longer costs the oldest."""
RETRY_S = 1.0
TOGETHER = 256


class Outbox:
    """`put`, `lose` and `remember` from the event loop; `run` is the only one that appends to the spool."""

    def __init__(
        self,
        spool: Spool,
        offer: Callable[[Appended], None],
        *,
        clock: Clock,
        most_batches: int = MOST_BATCHES,
        most_bytes: int = MOST_BYTES,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._spool = spool
        self._offer = offer
        self._clock = clock
        self._most_batches = most_batches
        self._most_bytes = most_bytes
        self._sleep = sleep
        self._waiting: deque[Encoded] = deque()
        self._bytes = 0
        self._losses = OpenLosses()
        self._ends: dict[tuple[str, str], int] = {}
        self._ready = asyncio.Event()
        self._refused = False
        self.counters = {"outbox_dropped": 0}

    def put(self, batches: Iterable[Encoded]) -> None:
        """Take batches; where the spool cannot keep up, the oldest are dropped and counted."""
        for batch in batches:
            self._waiting.append(batch)
            self._bytes += len(batch.data)
        while len(self._waiting) > self._most_batches or self._bytes > self._most_bytes:
            if not self.counters["outbox_dropped"]:
                log.error("the spool cannot keep up: the oldest batches are lost")
            self.counters["outbox_dropped"] += 1
            batch = self._waiting.popleft()
            self._bytes -= len(batch.data)
            self.lose(Loss(batch.kit, batch.stream, batch.t_first, batch.t_last, GapReason.DISK, batch.rows))
        if self._waiting:
            self._ready.set()

    def lose(self, loss: Loss) -> None:
        """Note what was lost; it goes into the spool with whatever goes there next, as data behind it does."""
        self._losses.add(loss, self._clock.monotonic_ns())

    def remember(self, ends: Mapping[tuple[str, str], int]) -> None:
        """How far has been read of what has been `put`: last samples and signs of life, by kit and name."""
        self._ends.update(ends)
        if ends:
            self._ready.set()

    async def run(self) -> None:
        """Append for ever, everything that waits at once."""
        while True:
            await self._ready.wait()
            self._ready.clear()
            while self._has_work():
                if not await self._append():
                    await self._sleep(RETRY_S)

    async def drain(self) -> None:
        """At the end: append what waits, once. What the disk refuses now is lost and counted."""
        while self._has_work():
            if not await self._append():
                self.counters["outbox_dropped"] += len(self._waiting)
                log.error("%d batches are lost: the spool does not take them", len(self._waiting))
                return

    def _has_work(self) -> bool:
        return bool(self._waiting or self._ends or len(self._losses))

    async def _append(self) -> bool:
        taken = [self._waiting.popleft() for _ in range(min(TOGETHER, len(self._waiting)))]
        self._bytes -= sum(len(batch.data) for batch in taken)
        losses = self._losses.take()
        # Only with the last of what waits: before, they would be ahead of what is durable.
        ends, self._ends = ({}, self._ends) if self._waiting else (self._ends, {})
        try:
            appended = await self._spool.append(taken, losses, ends)
        except SpoolUnavailable as error:
            if not self._refused:
                log.error("%s", error)
            self._refused = True
            self._waiting.extendleft(reversed(taken))
            self._bytes += sum(len(batch.data) for batch in taken)
            for loss in losses:
                self._losses.add(loss, self._clock.monotonic_ns())
            self._ends = {**ends, **self._ends}
            return False
        if self._refused:
            log.info("the spool takes batches again")
        self._refused = False
        self._offer(appended)
        return True
