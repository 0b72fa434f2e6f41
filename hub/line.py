"""The hub's part of the line in one piece: broker, ingest, store and live, started and stopped in order.

edges =MQTT=> broker -> ingest -> store -> live -> pages and WebSockets
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from hub.broker.config import BrokerAccount, edge_account
from hub.broker.nats import BrokerHealth, BrokerUnavailable, NatsBroker
from hub.clock import Clock
from hub.errors import CannotRun
from hub.ingest.decode import KitEntry
from hub.ingest.service import Ingest, IngestHealth
from hub.live.edges import EdgeRegistry
from hub.live.feed import LiveFeed
from hub.store import open_store
from hub.store.base import StoreError, StoreHealth, StoreUnavailable, TelemetryStore

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
        data: Path,
        store_url: str,
        broker_port: int,
        accounts: Callable[[], list[BrokerAccount]],
        kits: Callable[[], dict[str, KitEntry]],
        clock: Clock,
    ) -> None:
        self._store_url = store_url
        self._accounts = accounts
        self._kits = kits
        self._clock = clock
        self._stack = AsyncExitStack()
        self._broker = NatsBroker(data / "broker", broker_port)
        self._ingest: Ingest | None = None
        self._accounts_fault = ""
        self.edges = EdgeRegistry(clock)
        self.store: TelemetryStore
        self.live: LiveFeed

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            # The store first: its file is locked, so that a second hub with the same data folder ends here, before it
            # takes the first one's broker for a dead hub's.
            opening = asyncio.ensure_future(asyncio.to_thread(open_store, self._store_url))
            stack.push_async_callback(_close_when_open, opening)
            try:
                self.store = await asyncio.shield(opening)
            except StoreError as error:
                raise CannotRun(f"store: {error}") from error
            self.live = LiveFeed(clock=self._clock, edges=self.edges, kits=self._kits, known=self.store.latest)
            self.edges.listen(self.live.edge_changed)
            stack.push_async_callback(asyncio.to_thread, self._broker.stop)
            await asyncio.to_thread(self._broker.start, self._accounts())
            self._ingest = ingest = self._make_ingest(asyncio.get_running_loop())
            stack.push_async_callback(asyncio.to_thread, ingest.stop)
            ingest.start()
            if not await asyncio.to_thread(ingest.wait_ready, READY_S):
                raise BrokerUnavailable(f"waited {READY_S:.0f} s for a message through the broker: {self.health()}")
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def _make_ingest(self, loop: asyncio.AbstractEventLoop) -> Ingest:
        return Ingest(
            url=self._broker.url,
            user=self._broker.hub_user,
            password=self._broker.hub_password,
            store=self.store,
            kits=self._kits,
            clock=self._clock,
            on_committed=lambda batches: _call(loop, self.live.publish, batches),
            on_status=lambda status, received_ns: _call(loop, self.edges.update, status, received_ns),
        )

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
        ok = broker.running and ingest.ok and store.ok and not self._accounts_fault
        return LineHealth(ok, broker, self._accounts_fault, ingest, store, quarantine, dict(self.live.counters))


async def _close_when_open(opening: asyncio.Future[TelemetryStore]) -> None:
    # A start that is called off does not stop the thread that opens the file: it would stay locked.
    await asyncio.wait([opening])
    if opening.exception() is None:
        await asyncio.to_thread(opening.result().close)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:
        # The loop has closed: the hub is leaving, and what was committed is read from the store next time.
        if not loop.is_closed():
            raise
