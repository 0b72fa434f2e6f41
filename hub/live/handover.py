"""From ingest's threads to the event loop: receives committed bursts and statuses, hands them on to live; bounded.

Where the loop lags, the writer waits for it, and the edges for their next acknowledgements: that is the way back along
which too much data is held up, instead of piling up here.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Sequence

from hub.store.base import DecodedBatch
from lab_contract.messages import EdgeStatus

MOST_BURSTS = 3
WAIT_S = 5.0
"""Longer no burst waits for room: pages may miss what is stored, but storing goes on."""


class Handover:
    """`committed` and `status` may be called from any thread; `publish` and `update` are called on the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        publish: Callable[[Sequence[DecodedBatch]], None],
        update: Callable[[EdgeStatus, int], None],
        *,
        most: int = MOST_BURSTS,
        wait_s: float = WAIT_S,
    ) -> None:
        self._loop = loop
        self._publish = publish
        self._update = update
        self._room = threading.BoundedSemaphore(most)
        self._wait_s = wait_s
        self._lock = threading.Lock()
        self._statuses: dict[str, tuple[EdgeStatus, int]] = {}
        self.counters: Counter[str] = Counter(unpublished=0)

    def committed(self, batches: Sequence[DecodedBatch]) -> None:
        """Hand on a burst; waits for room, and counts what finds none in time as `unpublished`."""
        if not self._room.acquire(timeout=self._wait_s):
            self.counters["unpublished"] += len(batches)
            return
        if not self._call(self._take, batches):
            self._room.release()

    def status(self, status: EdgeStatus, received_ns: int) -> None:
        """Hand on the newest status of an edge; one that waits still is replaced, however fast an edge reports."""
        with self._lock:
            scheduled = bool(self._statuses)
            self._statuses[status.edge] = (status, received_ns)
        if not scheduled:
            self._call(self._take_statuses)

    def _take(self, batches: Sequence[DecodedBatch]) -> None:
        try:
            self._publish(batches)
        finally:
            self._room.release()

    def _take_statuses(self) -> None:
        with self._lock:
            waiting, self._statuses = self._statuses, {}
        for status, received_ns in waiting.values():
            self._update(status, received_ns)

    def _call(self, function: Callable[..., None], *arguments: object) -> bool:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            # The loop has closed: the hub is leaving, and what was committed is read from the store next time.
            if not self._loop.is_closed():
                raise
            return False
        return True
