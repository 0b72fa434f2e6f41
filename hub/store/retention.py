"""Beside the line: once an hour deletes samples that are older than the settings allow; the roll-up stays."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hub.clock import Clock
from hub.store.base import DAY, StoreUnavailable, TelemetryStore

log = logging.getLogger(__name__)

EVERY_S = 3600.0


class Retention:
    """Deletes samples more than `days` older than the newest, or than now where that is earlier."""

    def __init__(self, store: TelemetryStore, days: int, clock: Clock, *, every_s: float = EVERY_S) -> None:
        self._store = store
        self._days = days
        self._clock = clock
        self._every_s = every_s

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The job runs for as long as the context lasts."""
        async with asyncio.TaskGroup() as group:
            job = group.create_task(self.run(), name="retention")
            try:
                yield
            finally:
                job.cancel()

    async def run(self) -> None:
        """At once and then every hour, until cancelled. What fails is logged and tried again the next time."""
        while True:
            try:
                deleted = await asyncio.to_thread(self.once)
            except StoreUnavailable as error:
                log.error("old samples are not deleted: %s", error)
            else:
                if deleted:
                    log.info("%d samples older than %d days are deleted", deleted, self._days)
            await asyncio.sleep(self._every_s)

    def once(self) -> int:
        """How many samples were deleted. Blocks. Raises StoreUnavailable."""
        newest = self._store.stats().last_ns
        if newest is None:
            return 0
        # A hub whose clock is years ahead would delete everything by its own time.
        return self._store.apply_retention(min(newest, self._clock.time_ns()) - self._days * DAY)
