"""Beside the line: how the hub and its edges are, as a page for those who mend them; renews itself through htmx."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse

from hub.accounts.access import Technical
from hub.errors import N_
from hub.live.edges import EdgeState
from hub.parts import HubParts, Parts
from hub.store.base import QuarantinedBatch, StoreFacts, StoreStats, StoreUnavailable
from hub.web.formats import LANGUAGES
from hub.web.render import Crumb, page, translated
from lab_contract.batch import CLOCK_UNKNOWN

log = logging.getLogger(__name__)

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

MOST_KEPT_ASIDE = 50
CLOCK_WRONG_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class EdgeClock:
    """An edge's clock: `offset_ns` added to it gives the hub's, give or take `uncertainty_ns`."""

    offset_ns: int
    uncertainty_ns: int

    @property
    def wrong(self) -> bool:
        """Whether somebody should set it right: what people note down at the kit would not fit what pages show."""
        return abs(self.offset_ns) > CLOCK_WRONG_NS

    @property
    def agrees(self) -> bool:
        """Whether no difference can be told."""
        return abs(self.offset_ns) <= self.uncertainty_ns


@dataclass(frozen=True, slots=True)
class EdgeFacts:
    """An edge that the catalog knows or that has reported: its newest status, None where it has not reported."""

    id: str
    workshop: str | None
    online: bool
    state: EdgeState | None

    @property
    def clock(self) -> EdgeClock | None:
        """How its clock goes beside the hub's; None where it has not compared them."""
        status = None if self.state is None else self.state.status
        if status is None or status.clock_uncertainty_ns == CLOCK_UNKNOWN:
            return None
        return EdgeClock(status.clock_offset_ns, status.clock_uncertainty_ns)


@router.get("/health")
async def health_page(request: Request, hub: Parts, person: Technical) -> HTMLResponse:
    """Broker, ingest, store, edges and the batches kept aside; the part of it that changes, where htmx asks."""
    code = person.language if person.language in LANGUAGES else "en"
    part = "hx-request" in request.headers
    # The edges are used on the event loop only; the store and the template block.
    edges = edge_facts(hub, code)
    return await run_in_threadpool(
        page,
        request,
        "health_part.html" if part else "health.html",
        now_ns=hub.clock.time_ns(),
        path=[Crumb(translated(code, N_("Health")))],
        **health_context(hub, edges, code),
    )


def edge_facts(hub: HubParts, code: str) -> list[EdgeFacts]:
    """Every edge, by id: those that read a kit of the catalog and those that only report."""
    workshops = {kit.edge: workshop.name.text(code) for workshop in hub.catalog.workshops() for kit in workshop.kits}
    registry = hub.line.edges
    reported = registry.all()
    return [
        EdgeFacts(edge, workshops.get(edge), registry.online(edge), reported.get(edge))
        for edge in sorted({*workshops, *reported})
    ]


def health_context(hub: HubParts, edges: list[EdgeFacts], code: str) -> dict[str, Any]:
    """What the template needs. Blocks for the store."""
    line, store = hub.line.health(), hub.line.store
    stats: StoreStats | None = None
    facts: StoreFacts | None = None
    kept_aside: list[QuarantinedBatch] = []
    try:
        stats, kept_aside = store.stats(), store.quarantined(MOST_KEPT_ASIDE)
        # A server that hangs would make the page wait once more for what its health says already.
        facts = store.facts() if line.store.ok else None
    except StoreUnavailable as error:
        # Just now this page is needed: what is wrong with the store stands in its health.
        log.warning("the store does not answer the health page: %s", error)
    names = {
        kit.id: (kit.name.text(code), {c.id: c.label.text(code) for c in kit.model.connections})
        for workshop in hub.catalog.workshops()
        for kit in workshop.kits
    }
    return {
        "line": line,
        "stats": stats,
        "store_facts": facts,
        "kept_aside": kept_aside,
        "kept_counts": line.quarantine,
        "edges": edges,
        "kit_names": names,
        "catalog_fault": hub.catalog_fault,
    }
