"""Beside the line: how the hub and its edges are, as a page for those who mend them; renews itself through htmx."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse

from hub.accounts.access import Technical
from hub.errors import N_
from hub.live.edges import EdgeState
from hub.parts import HubParts, Parts
from hub.web.formats import LANGUAGES
from hub.web.render import Crumb, page, translated

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

MOST_KEPT_ASIDE = 50


@dataclass(frozen=True, slots=True)
class EdgeFacts:
    """An edge that the catalog knows or that has reported: its newest status, None where it has not reported."""

    id: str
    workshop: str | None
    online: bool
    state: EdgeState | None


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
    names = {
        kit.id: (kit.name.text(code), {c.id: c.label.text(code) for c in kit.model.connections})
        for workshop in hub.catalog.workshops()
        for kit in workshop.kits
    }
    return {
        "line": line,
        "stats": store.stats(),
        "kept_aside": store.quarantined(MOST_KEPT_ASIDE),
        "kept_counts": store.quarantine_counts(),
        "edges": edges,
        "kit_names": names,
        "catalog_fault": hub.catalog_fault,
    }
