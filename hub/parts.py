"""Beside the line: what a request can reach. The app fills it while it starts; routes and pages ask for `Parts`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from hub.clock import Clock
from hub.errors import NotReady
from hub.settings import HubSettings

if TYPE_CHECKING:
    from hub.accounts.service import Accounts
    from hub.catalog.service import Catalog
    from hub.line import Line


@dataclass(slots=True)
class HubParts:
    """The running hub. `accounts`, `catalog` and `line` raise NotReady until the background start has made them."""

    settings: HubSettings
    clock: Clock
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set as soon as the hub is told to stop: long connections (WebSockets) leave by themselves."""
    ready: bool = False
    fault: BaseException | None = None
    """Why the background start or the line ended, None while all is well."""
    catalog_fault: str | None = None
    """Why the catalog as changed by another process could not be taken over, None while it could."""
    started_accounts: Accounts | None = None
    started_catalog: Catalog | None = None
    started_line: Line | None = None

    @property
    def accounts(self) -> Accounts:
        """People, passwords and sessions."""
        if self.started_accounts is None:
            raise NotReady()
        return self.started_accounts

    @property
    def catalog(self) -> Catalog:
        """Workshops, kits, edges and equipment accounts."""
        if self.started_catalog is None:
            raise NotReady()
        return self.started_catalog

    @property
    def line(self) -> Line:
        """Broker, ingest, store and live feed."""
        if self.started_line is None:
            raise NotReady()
        return self.started_line

    @property
    def storing(self) -> bool:
        """Whether the store takes what comes; True while there is no line yet."""
        return self.started_line is None or not self.started_line.store_trouble


def parts_of(connection: HTTPConnection) -> HubParts:
    """The hub that serves this request or WebSocket."""
    parts: HubParts = connection.app.state.parts
    return parts


Parts = Annotated[HubParts, Depends(parts_of)]
"""Parameter type of a route that needs the hub: `def kit(hub: Parts, person: SignedIn, kit: str)`."""
