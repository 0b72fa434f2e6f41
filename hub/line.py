"""The hub's part of the line in one piece: broker, ingest, store and live, started and stopped in order.

edges =MQTT=> broker -> ingest -> store -> live -> pages and WebSockets
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from hub.broker.base import Broker, BrokerHealth, BrokerUnavailable
from hub.broker.config import BrokerAccount, edge_account
from hub.clock import Clock
from hub.errors import CannotRun
from hub.ingest.decode import KitEntry
from hub.ingest.service import Ingest, IngestHealth
from hub.live.edges import EdgeRegistry
from hub.live.feed import LiveFeed
from hub.live.handover import Handover
from hub.live.history import latest_in_hub_time
from hub.store import open_store
from hub.store.base import StoreError, StoreHealth, StoreUnavailable, TelemetryStore
from hub.store.retention import Retention

__all__ = ["BrokerAccount", "KitEntry", "Line", "LineHealth", "edge_account"]

log = logging.getLogger(__name__)

READY_S = 15.0


@dataclass(frozen=True, slots=True)
class LineHealth:
    """How the line is; `ok` where each part is. `quarantine` counts what is kept aside, by reason; `accounts_fault`
    says why changed accounts are not in force.
    """

    ok: bool
    broker: BrokerHealth
    accounts_fault: str
    ingest: IngestHealth
    store: StoreHealth
    quarantine: Mapping[str, int]
    live: Mapping[str, int]


class Line:
    """Broker, ingest, store and live feed, for as long as the context lasts.

    `accounts` and `kits` are asked anew whenever they matter, so they may change; `accounts` take effect with
    `reload_accounts`. Entering raises CannotRun with what must be mended.
    """

    def __init__(
        self,
        *,
        store_url: str,
        store_options: Mapping[str, Any] | None = None,
        retention_days: int | None = None,
        broker: Broker,
        accounts: Callable[[], list[BrokerAccount]],
        kits: Callable[[], dict[str, KitEntry]],
        clock: Clock,
    ) -> None:
        self._open_store = functools.partial(open_store, store_url, **(store_options or {}))
        self._retention_days = retention_days
        self._accounts = accounts
        self._kits = kits
        self._clock = clock
        self._stack = AsyncExitStack()
        self._broker = broker
        self._ingest: Ingest | None = None
        self._handover: Handover | None = None
        self._accounts_fault = ""
        self.edges = EdgeRegistry(clock)
        self.store: TelemetryStore
        self.live: LiveFeed

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            # The store first: its file is locked, so that a second hub with the same data folder ends here, before it
            # takes the first one's broker for a dead hub's.
            opening = asyncio.ensure_future(asyncio.to_thread(self._open_store))
            stack.push_async_callback(_close_when_open, opening)
            try:
                self.store = await asyncio.shield(opening)
            except StoreError as error:
                raise CannotRun(f"store: {error}") from error
            self.live = LiveFeed(
                clock=self._clock,
                edges=self.edges,
                kits=self._kits,
                known=functools.partial(latest_in_hub_time, self.store),
            )
            self.edges.listen(self.live.edge_changed)
            stack.push_async_callback(asyncio.to_thread, self._broker.stop)
            await asyncio.to_thread(self._broker.start, self._accounts())
            self._ingest = ingest = self._make_ingest(asyncio.get_running_loop())
            stack.push_async_callback(asyncio.to_thread, ingest.stop)
            ingest.start()
            if not await asyncio.to_thread(ingest.wait_ready, READY_S):
                raise BrokerUnavailable(f"waited {READY_S:.0f} s for a message through the broker: {self.health()}")
            if self._retention_days is not None:
                await stack.enter_async_context(Retention(self.store, self._retention_days, self._clock).running())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def _make_ingest(self, loop: asyncio.AbstractEventLoop) -> Ingest:
        self._handover = handover = Handover(loop, self.live.publish, self.edges.update)
        return Ingest(
            access=self._broker.access,
            store=self.store,
            kits=self._kits,
            clock=self._clock,
            on_committed=handover.committed,
            on_status=handover.status,
            on_silence=self._broker.revive,
        )

    @property
    def store_trouble(self) -> str:
        """Why nothing is stored at the moment, empty while all is well. Quick: for every page."""
        return self._ingest.store_trouble if self._ingest is not None else ""

    async def reload_accounts(self) -> None:
        """Let the broker know changed accounts.

        Where it does not take them over, the former ones stay in force, and `health` says so until a reload succeeds: a
        hub that runs must not end for it.
        """
        try:
            await asyncio.to_thread(self._broker.reload, self._accounts())
        except (BrokerUnavailable, ValueError) as error:
            self._accounts_fault = str(error)
            log.error("changed accounts are not in force: %s", error)
        else:
            self._accounts_fault = ""

    def health(self) -> LineHealth:
        """How the line is. Blocks for the store's answer: call it from a worker thread."""
        broker, store = self._broker.health(), self.store.health()
        ingest = self._ingest.health() if self._ingest else IngestHealth(False, "not started", 0, {})
        try:
            quarantine = self.store.quarantine_counts()
        except StoreUnavailable as error:
            store = StoreHealth(False, str(error), store.store_id, store.commits, store.samples, store.failures)
            quarantine = {}
        live = dict(self.live.counters) | (dict(self._handover.counters) if self._handover is not None else {})
        ok = broker.ok and ingest.ok and store.ok and not self._accounts_fault
        return LineHealth(ok, broker, self._accounts_fault, ingest, store, quarantine, live)


async def _close_when_open(opening: asyncio.Future[TelemetryStore]) -> None:
    # A start that is called off does not stop the thread that opens the file: it would stay locked.
    await asyncio.wait([opening])
    if opening.exception() is None:
        await asyncio.to_thread(opening.result().close)
